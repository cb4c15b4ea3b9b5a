"""``ich doctor --tune`` and ``ich predict --engine``: what is measured, chosen, kept and refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import call
from networks import DEEP, draw_slices, make_model

from ich.doctor import tuning
from ich.doctor.tuning import choose
from ich.files import hash_file
from ich.machine import Processor, read_processor
from ich.machine.packages import list_versions
from ich.model_files.bundle import write_bundle
from ich.networks import TorchNetwork, load_members
from ich.networks.engines import ENGINES, PACKAGES, Candidate, Engine, EngineFile, write_engine
from ich.outputs.records import read_json
from ich.schema import UserError
from ich.schema.formats import read_plain

pytestmark = pytest.mark.trains

VERSIONS = list_versions(PACKAGES)

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs the extra openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which converted backbones are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ich" / "openvino"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    net = make_model(DEEP)
    write_bundle(net.metadata, net.state_dict(), path)
    return path


def keep(path: Path, measured: Path, engine: Engine, **changes: Any) -> Path:
    """Writes the file of an engine as if it had been measured."""
    found = EngineFile(engine, hash_file(measured), read_processor(), VERSIONS, 1, 16, 0.02, ())
    write_engine(replace(found, **changes), path)
    return path


def test_engines_are_measured_and_the_choice_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)  # it would take a minute
    monkeypatch.setattr(tuning, "_SECONDS", 0.0)
    file = tmp_path / "engine.json"
    arguments = "--engine", str(file), "--threads", "1", "--tolerance", "0"
    assert call("doctor", "--tune", str(model), *arguments) == 0
    found = read_plain(EngineFile, json.loads(file.read_text()), "here")
    measured = {each.name: each for each in found.candidates}
    assert list(measured) == [*ENGINES, "onnxruntime"]
    assert measured["float32"].difference == 0
    assert measured["bfloat16"].difference is not None
    assert 0 < measured["bfloat16"].difference < 0.2
    assert measured["onnxruntime"].difference is not None
    assert measured["onnxruntime"].difference < 1e-4
    for name in ("float32-compiled", "bfloat16-compiled"):
        assert measured[name].refusal == "does not work here (RuntimeError)"
    assert measured["bfloat16"].refusal == "differs by more than 0"
    assert found.engine == "float32"
    printed = capsys.readouterr().out
    assert f"wrote {file}: {found.engine}" in printed
    assert "does not work here" in printed
    assert str(tmp_path) not in file.read_text()
    (members, _) = load_members(model, gpus=0, engine=file)
    assert members[0].name == "test_resnet"


@needs_openvino
def test_openvino_computes_what_pytorch_does_and_keeps_what_it_converted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, hu = make_model(DEEP), draw_slices(DEEP.depth)
    expected = TorchNetwork(net, "", gpus=0).run(hu)
    found = TorchNetwork(net, "", gpus=0, engine="float32-openvino").run(hu)
    assert found.distance is not None
    assert expected.distance is not None
    np.testing.assert_allclose(found.probs, expected.probs, atol=1e-4)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-3)
    (kept,) = cache.glob("*.zip")

    import openvino

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("converted again")

    with monkeypatch.context() as patch:
        patch.setattr(openvino, "convert_model", fail)
        again = TorchNetwork(net, "", gpus=0, engine="float32-openvino")
        np.testing.assert_array_equal(again.run(hu).probs, found.probs)
        with torch.no_grad():
            next(net.backbone.parameters()).add_(1)
        with pytest.raises(UserError, match=r"OpenVINO cannot convert test_resnet \(RuntimeError\)"):
            TorchNetwork(net, "", gpus=0, engine="float32-openvino")  # other weights are another network
        with torch.no_grad():
            next(net.backbone.parameters()).sub_(1)
    kept.write_bytes(kept.read_bytes()[:-100])
    restored = TorchNetwork(net, "", gpus=0, engine="float32-openvino")
    np.testing.assert_allclose(restored.run(hu).probs, found.probs, atol=1e-4)


@needs_openvino
def test_openvino_sends_no_usage_data() -> None:
    TorchNetwork(make_model(DEEP), "", gpus=0, engine="float32-openvino")
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
    with pytest.raises(ImportError):
        import openvino_telemetry  # noqa: F401


def test_openvino_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ich.networks.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(
        UserError, match=r"needs? openvino, which is not installed: pip install 'ich\[openvino\]'"
    ):
        TorchNetwork(make_model(DEEP), "", gpus=0, engine="bfloat16-openvino")


def candidate(name: str, milliseconds: float | None, refusal: str | None = None) -> Candidate:
    return Candidate(name, milliseconds, 1.0, 0.0, refusal)


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"float32": 50, "bfloat16": 27, "bfloat16-compiled": 24}, "bfloat16-compiled"),
        ({"float32": 50, "bfloat16": 49}, "float32"),
        ({"float32": 50, "onnxruntime": 10}, "float32"),
        ({"float32": 50, "bfloat16": 27, "float32-compiled": None}, "bfloat16"),
    ],
)
def test_the_fastest_engine_is_chosen_if_it_is_clearly_faster(times: dict[str, Any], chosen: str) -> None:
    assert choose([candidate(name, time) for name, time in times.items()]) == chosen


def test_an_engine_that_takes_long_to_get_ready_must_be_much_faster() -> None:
    def compiled(milliseconds: float) -> Candidate:
        return Candidate("bfloat16-compiled", milliseconds, 56.0, 0.0, None)

    others = [candidate("float32", 2.3), candidate("bfloat16", 2.1)]
    assert choose([*others, compiled(1.9)]) == "bfloat16"
    assert choose([*others, compiled(0.4)]) == "bfloat16-compiled"


def test_an_engine_that_differs_too_much_is_not_chosen() -> None:
    differing = candidate("bfloat16", 20.0, "differs by more than 0.02")
    assert choose([candidate("float32", 50.0), differing]) == "float32"


def test_results_say_by_which_engine_they_were_computed(
    model: Path, department: Path, tmp_path: Path
) -> None:
    file, out, other = keep(tmp_path / "engine.json", model, "bfloat16"), tmp_path / "out", tmp_path / "plain"
    study = str(min(department.iterdir()))
    assert call("predict", str(model), study, "--gpus", "0", "--engine", str(file), "--out", str(out)) == 0
    assert call("predict", str(model), study, "--gpus", "0", "--out", str(other)) == 0
    fast, plain = (read_json(each / "results" / "0001.json") for each in (out, other))
    assert fast.algorithm.name == "test_resnet in bfloat16"
    assert plain.algorithm.name == "test_resnet"
    probs = [[each.probs["any"] for each in result.slices] for result in (fast, plain)]
    assert 0 < np.abs(np.subtract(*probs)).max() < 0.2
    # One folder holds results of one engine.
    assert call("predict", str(model), study, "--gpus", "0", "--out", str(out)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "0" * 64}, "was measured for another model"),
        ({"processor": Processor("Abacus", ())}, "was measured with processor Abacus, and here is"),
        ({"processor": replace(read_processor(), instructions=("Beads",))}, "with other instructions"),
        ({"versions": VERSIONS | {"torch": "1.0"}}, "was measured with torch 1.0, and here is"),
    ],
)
def test_a_stale_file_is_refused(model: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = keep(tmp_path / "engine.json", model, "bfloat16", **changes)
    with pytest.raises(UserError, match="measure again by `ich doctor --tune") as caught:
        load_members(model, gpus=0, engine=file)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["doctor", "--tune", "MODEL", "--root", "."], "leave out --root and --json"),
        (["doctor", "--tune", "MODEL", "--tolerance", "2"], "--tolerance 2: expected a difference"),
        (["predict", "MODEL", "MODEL", "study", "--engine", "none.json"], "was measured for one model"),
        (["predict", "MODEL", "study", "--engine", "none.json"], "the engine none.json cannot be read"),
    ],
)
def test_wrong_arguments_are_one_message(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study").mkdir()
    assert call(*(str(model) if word == "MODEL" else word for word in arguments)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
