"""``ich quantize`` and ``ich predict --engine`` with its file: agreement, refusals, damage."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import call
from networks import DEEP, draw_slices, make_model
from results import make_result

from ich.doctor import tuning
from ich.files import hash_file
from ich.model_files.bundle import write_bundle
from ich.models import SliceNet
from ich.networks import TorchNetwork, load_members
from ich.outputs.records import read_json
from ich.schema import UserError
from ich.schema.results import Outcome

pytestmark = [
    pytest.mark.trains,
    pytest.mark.skipif(
        find_spec("openvino") is None or find_spec("nncf") is None, reason="needs the extra quantize"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    net = make_model(DEEP)
    write_bundle(net.metadata, net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def quantized(model: Path) -> Path:
    """The model in int8, without a comparison of studies."""
    from ich.networks.int8 import Agreement, Description, list_makers, quantize_backbone, write_int8

    path = model.with_name("model.int8")
    slices = draw_slices(DEEP.depth)[::3]
    backbone = quantize_backbone(make_model(DEEP), [(slices, None)])
    description = Description(
        hash_file(model), 1, len(slices), Agreement(1, 8, 0.01, 0.1, 0, 0), list_makers()
    )
    write_int8(path, description, [backbone])
    return path


def test_int8_computes_almost_the_same(model: Path, quantized: Path) -> None:
    hu = draw_slices(DEEP.depth)
    ((plain,), _), ((fast,), _) = load_members(model, gpus=0), load_members(model, gpus=0, engine=quantized)
    difference = np.abs(plain.run(hu).probs - fast.run(hu).probs)
    assert 0 < difference.mean() < 0.1
    assert fast.name == f"test_resnet in int8-openvino {hash_file(quantized)[:12]}"
    assert isinstance(fast, TorchNetwork)
    np.testing.assert_array_equal(fast.run(hu).probs, fast.run(hu).probs)


def test_a_model_is_quantized_compared_and_used(
    model: Path,
    conformant: Path,
    department: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ich import quantize

    out, predicted = tmp_path / "new.int8", tmp_path / "predicted"
    first, *_ = sorted(department.iterdir())
    labels = conformant / "stage_2_train.csv"
    arguments = "quantize", str(model), str(first), "--out", str(out), "--threads", "1", "--tolerance", "1"
    arguments = (*arguments, "--check", str(department), "--labels", str(labels))
    made = quantize.quantize_backbone

    def quantize_once(net: SliceNet, slices: Any) -> Any:
        backbones.append(backbones[0] if backbones else made(net, slices))
        return backbones[-1]

    backbones: list[Any] = []
    monkeypatch.setattr(quantize, "quantize_backbone", quantize_once)
    monkeypatch.setattr(quantize, "MEAN_TOLERANCE", 0.0)
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert "was not written: probabilities differ by " in " ".join(captured.err.split())
    assert "studies whose outcome changes: 0 (in 32 bits INDETERMINATE " in captured.out  # no operating point
    assert "AUROC by slice, " in captured.out
    assert "AUROC by study, " in captured.out
    assert "Statistics" not in captured.out + captured.err
    assert not out.exists()

    monkeypatch.setattr(quantize, "MEAN_TOLERANCE", 1.0)
    assert call(*arguments) == 0
    with zipfile.ZipFile(out) as archive:
        description = json.loads(archive.read("int8.json"))
    assert description["model"] == hash_file(model)
    assert description["agreement"]["studies"] == len(list(department.iterdir()))
    assert "nncf" in description["versions"]
    assert call("predict", str(model), str(first), "--engine", str(out), "--out", str(predicted)) == 0
    assert "in int8-openvino" in read_json(predicted / "results" / "0001.json").algorithm.name
    assert call(*arguments) == 2
    assert "exists; name a new file by --out" in " ".join(capsys.readouterr().err.split())


def test_int8_is_measured_but_never_chosen(
    model: Path, quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("left out")

    monkeypatch.setattr(tuning, "ENGINES", tuning.ENGINES[:1])
    monkeypatch.setattr(tuning, "_SECONDS", 0.0)
    monkeypatch.setattr("ich.networks.export.export_onnx", fail)
    found = tuning.tune(model, threads=1, tolerance=0.0, int8=quantized)
    assert found.engine == "float32"
    _, int8, _ = found.candidates
    assert int8.name == "int8-openvino"
    assert int8.difference is not None
    assert int8.refusal == "differs by more than 0"
    with pytest.raises(UserError, match="is not a file of `ich quantize`"):
        tuning.tune(model, int8=tmp_path / "none")


def test_outcomes_that_change_are_counted_and_refused() -> None:
    from ich.quantize import _find_refusal
    from ich.quantize.agreement import find_changes, measure_agreement

    one = make_result()
    other = replace(one, outcome=Outcome.INDETERMINATE)
    agreement = measure_agreement([one] * 50, [other, *[one] * 49])
    assert agreement.changed_labels == 0
    assert agreement.studies == 50
    assert agreement.changed == 1
    assert agreement.largest_difference == 0
    assert [*find_changes([one] * 50, [other, *[one] * 49])] == [("POSITIVE", "INDETERMINATE", 1)]
    assert "the outcome of 1 of 50 studies changes, and 1.0 % may" in _find_refusal(agreement, 0.01)
    assert _find_refusal(agreement, 0.02) == ""
    with pytest.raises(UserError, match="none of the studies"):
        measure_agreement([], [])


def damage(path: Path, kind: str) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-5000] + path.read_bytes()[-4000:])
        return
    if kind == "foreign":
        parts = {"readme.txt": b"hello"}
    if kind == "graph":
        parts["0.xml"] = b"<net/>"
    if kind == "part":
        del parts["0.bin"]
    if kind == "model":
        description = json.loads(parts["int8.json"]) | {"model": "0" * 64}
        parts["int8.json"] = json.dumps(description).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("foreign", "is another archive: `ich quantize` did not write it"),
        ("graph", "is damaged, and cannot be read"),
        ("part", "does not hold 1 backbones"),
        ("model", "was made from another model than"),
        ("cut", "damaged"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(
    model: Path, quantized: Path, tmp_path: Path, kind: str, message: str
) -> None:
    path = tmp_path / "copy.int8"
    path.write_bytes(quantized.read_bytes())
    damage(path, kind)
    with pytest.raises(UserError, match=message):
        load_members(model, gpus=0, engine=path)
