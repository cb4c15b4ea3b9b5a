"""Bundles, and what files do that somebody has prepared."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import yaml
from command import call

import ich
from ich.calibration import Decision
from ich.calibration.files import read_calibration, write_calibration
from ich.calibration.ood import OodDistance, fit_ood
from ich.model_files.bundle import read_bundle, write_bundle
from ich.model_files.metadata import Training
from ich.models import SliceClassifier, load_slice_net
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.formats import read_plain

PACKAGE = Path(ich.__file__).parent
TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]


@pytest.fixture(scope="module")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bool]]:
    """A run that went on and was bundled, and of each load of a checkpoint whether it was safe."""
    folder = tmp_path_factory.mktemp("trained")
    loads: list[bool] = []
    load = torch.load

    def spy(*args: Any, weights_only: bool | None = None, **kwargs: Any) -> Any:
        loads.append(weights_only is True)
        return load(*args, weights_only=weights_only, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(torch, "load", spy)
        data = [
            "data=rsna",
            f"data.root={phantom}",
            "input.size=32",
            "data.limit_slices=150",
            "data.val_fraction=0.3",
        ]
        assert call("train", *data, *TINY, "run_dir=run", "logger=csv") == 0
        assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
        assert call("bundle", "run", "model.zip") == 0
    return folder, loads


@pytest.fixture
def bundle(trained: tuple[Path, list[bool]], tmp_path: Path) -> Path:
    """A copy of the bundle, alone in a folder that is alone in ``tmp_path``."""
    (tmp_path / "alone").mkdir()
    return Path(shutil.copy(trained[0] / "model.zip", tmp_path / "alone" / "model.zip"))


@pytest.mark.trains
def test_bundle_is_the_model(trained, bundle: Path) -> None:
    folder, _ = trained
    ours, theirs = (load_slice_net(path) for path in (folder / "run/checkpoints/best.ckpt", bundle))
    x = torch.randn(2, ours.input.in_chans, 32, 32)
    assert torch.equal(ours(x), theirs(x))
    assert theirs.metadata == ours.metadata
    split = pd.read_csv(folder / "run/split.csv")
    uids = sorted(split.loc[split["part"] == "train", "SOPInstanceUID"])
    assert theirs.metadata.trained_on == sha256("".join(f"{uid}\n" for uid in uids).encode()).hexdigest()
    assert call("bundle", str(bundle), str(bundle.with_name("again.zip"))) == 0
    assert bundle.with_name("again.zip").read_bytes() == bundle.read_bytes()
    tuned = SliceClassifier("test_resnet", input=ours.input, init_from=str(bundle), pretrained=False)
    assert torch.equal(tuned.net.get_parameter("head.1.weight"), ours.get_parameter("head.1.weight"))


def test_any_tool_opens_a_bundle(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        description = json.loads(archive.read("model.json"))
        weights = archive.read("model.safetensors")
    assert description["versions"].keys() == {"ich", "torch", "timm"}
    assert description["weights_sha256"] == sha256(weights).hexdigest()
    assert "members.0.head.1.bias" in safetensors.torch.load(weights)


@pytest.mark.trains
def test_bundle_has_the_model_card_of_its_run(trained, bundle: Path, tmp_path: Path) -> None:
    run = trained[0] / "run"
    card = (run / "model_card.md").read_text()
    assert card.startswith("# Model card")
    assert read_bundle(bundle).model_card == card
    assert call("bundle", str(run / "checkpoints/best.ckpt"), str(tmp_path / "file.zip")) == 0
    assert read_bundle(tmp_path / "file.zip").model_card == card
    alone = shutil.copy(run / "checkpoints/best.ckpt", tmp_path / "alone.ckpt")
    assert call("bundle", str(alone), str(tmp_path / "alone.zip")) == 0
    assert read_bundle(tmp_path / "alone.zip").model_card == ""


@pytest.mark.trains
def test_model_says_what_it_is(trained, bundle: Path, phantom: Path, capsys) -> None:
    assert call("bundle", str(bundle)) == 0
    shown = capsys.readouterr().out
    training = load_slice_net(bundle).metadata.training
    assert isinstance(training, Training)
    assert f"trained on {training.slices} slices of {training.patients} patients" in shown
    assert f"validation {training.val_log_loss:.4f}, test {training.test_log_loss:.4f}" in shown
    assert "by slice and study" in shown
    assert "out-of-distribution detection: not available, fewer than 5 patients" in shown
    assert "Research use only" in shown
    assert read_bundle(bundle).model_card.strip() in shown
    assert str(phantom) not in shown
    assert call("bundle", str(trained[0] / "run")) == 0
    assert capsys.readouterr().out == shown
    assert call("bundle", str(bundle), "--calibration", "some.json") == 2
    assert "give OUT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"x" * 300_000, "model_card.md is larger than"),
        (b"\x1b[2J", "model_card.md is not plain text"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b".encode(), "model_card.md is not plain text"),
        (b"\xff\xfe", "model_card.md is not plain text"),
    ],
)
def test_model_card_is_plain_text(bundle: Path, text: bytes, message: str) -> None:
    rewrite(bundle, model_card=text)
    assert_refused(bundle, message)
    model = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net
    card = text.decode(errors="replace")
    with pytest.raises(UserError, match="model card is longer"):
        write_bundle(model.metadata, model.state_dict(), bundle.with_name("new.zip"), model_card=card)


def test_bundle_takes_a_new_file_and_a_run(trained, bundle: Path, monkeypatch, capsys) -> None:
    assert call("bundle", str(trained[0] / "run"), str(bundle)) == 2
    assert "exists; name a new file" in capsys.readouterr().err
    assert call("bundle", str(bundle.parent), str(bundle.with_name("new.zip"))) == 2
    assert "nothing to load" in " ".join(capsys.readouterr().err.split())


def test_checkpoints_are_loaded_with_weights_only(trained) -> None:
    _, loads = trained
    assert len(loads) >= 3
    assert all(loads)
    # Nor is there another door: 2026-11, timm loads weights files so, torch.hub is not used.
    doors = re.compile(
        r"weights_only=(?!True)|allow_pickle=True|pickle\.loads?\(|read_pickle|torch\.hub|\beval\("
    )
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").replace(".eval(", "")
        text = re.sub(r"\.save_checkpoint\(.*", "", text)  # where the word says what is written
        assert not doors.search(text), path
        loads = re.findall(r"(?<!safetensors\.)torch\.load\(.*", text)
        assert all("weights_only=True" in line for line in loads), path


Fields = dict[str, Any]


def rewrite(
    bundle: Path, text: bytes | None = None, weights: bytes | None = None, model_card: bytes | None = None
) -> None:
    """Writes a bundle anew with another description, model card or other weights, whose digest it names."""
    with zipfile.ZipFile(bundle) as archive:
        names = ("model.json", "model.safetensors", "model_card.md")
        old = [archive.read(name) for name in names]
    text, weights = text or old[0], weights or old[1]
    text = text.replace(sha256(old[1]).hexdigest().encode(), sha256(weights).hexdigest().encode())
    card = old[2] if model_card is None else model_card
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in zip(names, (text, weights, card), strict=True):
            if content:
                archive.writestr(name, content)


def save_member(state_dict: dict[str, torch.Tensor]) -> bytes:
    """The weights of a bundle of one model."""
    return safetensors.torch.save({f"members.0.{name}": value for name, value in state_dict.items()})


def describe(bundle: Path) -> Fields:
    with zipfile.ZipFile(bundle) as archive:
        description: Fields = json.loads(archive.read("model.json"))
    return description


def assert_refused(bundle: Path, message: str) -> None:
    """One message, and nothing written anywhere near."""
    place = bundle.parent.parent
    before = sorted(place.rglob("*"))
    with pytest.raises(UserError, match=message):
        load_slice_net(bundle)
    assert sorted(place.rglob("*")) == before


POINT = {"threshold": 0.5, "rule": "sensitivity>=0.95", "sensitivity": 1.0, "specificity": 0.5}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("_target_", "os.system", "unknown field '_target_'"),
        ("metadata.model._target_", "os.system", "unknown field '_target_'"),
        ("metadata.model.input._target_", "os.system", "unknown field '_target_'"),
        ("metadata.model.weights_file", "/etc/passwd", "unknown field 'weights_file'"),
        ("metadata.model.init_from", "../other.ckpt", "unknown field 'init_from'"),
        (
            "metadata.model.backbone",
            {"_target_": "os.system", "command": "touch x"},
            "expected the name of a timm",
        ),
        ("metadata.model.backbone", "hf-hub:somebody/model", "expected the name of a timm model"),
        ("metadata.model.backbone", "local-dir:/tmp", "expected the name of a timm model"),
        ("metadata.model.backbone", "../x", "expected the name of a timm model"),
        ("metadata.model.backbone", "/etc/passwd", "expected the name of a timm model"),
        ("metadata.model.backbone", "no_such_network", "is not a timm model"),
        ("metadata.model.drop_rate", "0.5", "drop_rate is '0.5'; expected a number"),
        ("metadata.model.drop_path_rate", 1e308, "drop_path_rate is 1e"),
        ("metadata.model.channels_last", 1, "expected true or false"),
        ("metadata.model.link", "exec", "model.link=exec"),
        ("metadata.model.input.size", 10**12, "size=1000000000000: expected 16 to 1024"),
        ("metadata.model.input.size", "64", "size is '64'; expected a whole number"),
        ("metadata.model.input.neighbors", True, "expected a whole number"),
        ("metadata.model.input.neighbors", 10**6, "expected 0 to 16"),
        ("metadata.model.input.windows", [[40, "80"]], "expected a name or"),
        ("metadata.model.input.windows", [[40, 80]] * 1000, "expected at most 16"),
        ("metadata.model.input.windows", [[40, 10**400]], "expected a name or"),
        ("metadata.model.input.windows", ["../brain"], "windows holds '../brain'"),
        ("metadata.model.input", None, "input is None; expected fields"),
        ("metadata.labels.weights", [1], r"labels.weights=\[1.0\]: expected 6 numbers"),
        ("metadata.trained_on", "../x", "expected a SHA-256"),
        ("metadata.prevalences", [0.1] * 6, "expected fields"),
        ("metadata.prevalences", {"any": 0.1}, "prevalences lacks epidural"),
        ("metadata.prevalences.any", 1.5, "any is 1.5; expected a number from 0 to 1"),
        ("metadata.prevalences.any", "0.1", "expected a number from 0 to 1"),
        ("metadata.prevalences.patient", 0.1, "unknown field 'patient'"),
        ("metadata.decisions", "x", "decisions is 'x'; expected fields"),
        ("metadata.decisions.patient", {}, "decisions has the unknown field 'patient'"),
        ("metadata.decisions.slice._target_", "os.system", "unknown field '_target_'"),
        ("metadata.decisions.slice.pooling", "os.system", "expected the name of a pooling"),
        ("metadata.decisions.slice.operating_points.any", POINT | {"threshold": "0"}, "threshold is '0'"),
        (
            "metadata.decisions.slice.operating_points.any",
            POINT | {"threshold": 10**400},
            "threshold is 1000",
        ),
        ("metadata.decisions.slice.operating_points.any", POINT | {"code": "x"}, "unknown field 'code'"),
        ("metadata.decisions.study.calibration.any", {"missing": "x" * 1000}, "expected a reason"),
        (
            "metadata.decisions.study.calibration.any",
            {"method": "isotonic", "probs": [i / 9999 for i in range(9999)], "values": [0.5] * 9999},
            "expected 1 to 64 rising",
        ),
        ("metadata", [], "expected fields"),
        ("metadata.model.input", {"size": 64}, "model.input lacks neighbors"),
        ("metadata.format", "ich slice classifier 9", r"members\[0\].format is 'ich slice classifier 9'"),
        ("metadata.version", "1" * 300, "expected a text"),
        ("metadata.ood", {"missing": "x\n"}, "missing is .* expected a reason"),
        ("metadata.ood", {"studies": -1, "patients": 5}, "studies is -1; expected a count"),
        ("metadata.ood", {"studies": 5}, "ood lacks patients"),
        ("metadata.ood.limit", 1.0, "unknown field 'limit'"),
        ("metadata.training.path", "/tmp", "unknown field 'path'"),
        ("metadata.training.slices", "5", "slices is '5'; expected a count"),
        ("metadata.training.positives", {"any": 5}, "positives lacks epidural"),
        ("metadata.training.epochs", -1, "expected a count"),
        ("metadata.training.val_log_loss", "0.1", "expected a number from 0"),
        ("metadata.training.phantom", 1, "expected true or false"),
        ("format", "ich bundle 9", "format is 'ich bundle 9'; expected one of ich bundle 1, ich bundle 2"),
        ("format", ["ich bundle 2"], "format is .* expected one of ich bundle 1, ich bundle 2"),
        ("format", "ich bundle 1", "ich bundle 1 has no model_card.md"),
        ("versions", {"ich": "1", "torch": "1"}, "versions lacks timm"),
        ("weights_sha256", "0" * 64, "its weights have changed"),
    ],
)
def test_description_is_data_and_is_checked(bundle: Path, place: str, value: Any, message: str) -> None:
    description = describe(bundle)
    *parents, last = place.replace("metadata", "ensemble.members.0").split(".")
    fields: Any = description
    for name in parents:
        fields = fields[int(name) if isinstance(fields, list) else name]
    fields[int(last) if isinstance(fields, list) else last] = value
    rewrite(bundle, json.dumps(description).encode())
    assert_refused(bundle, message)


def make_older(description: Fields, version: int) -> Fields:
    """What a bundle of format 1 or 2 says, with the names that fields had before Americans read them."""
    older = {"format": "ich slice classifier 1", "labels": list(LABELS)}
    (member,) = description.pop("ensemble")["members"]
    metadata = member | older
    card = {"likeness" if name == "ood" else name: value for name, value in metadata.items()}
    spec = card["model"]["input"]
    spec |= {"neighbours": spec.pop("neighbors"), "normalisation": spec.pop("normalization")}
    return description | {"format": f"ich bundle {version}", "card": card}


def test_bundle_of_format_2_is_read(bundle: Path) -> None:
    expected, reference = read_bundle(bundle), make_ood()
    earlier = {name.replace("ood.", "likeness."): value for name, value in reference.items()}
    weights = safetensors.torch.save(expected.state_dict | earlier)
    rewrite(bundle, json.dumps(make_older(describe(bundle), 2)).encode(), weights)
    found = read_bundle(bundle)
    assert found.metadata == expected.metadata
    assert found.model_card == expected.model_card
    net = load_slice_net(bundle)
    assert net.metadata == expected.metadata
    assert torch.equal(net.ood.limit, reference["ood.limit"])


def test_bundle_of_format_3_is_read(bundle: Path) -> None:
    expected = read_bundle(bundle)
    description = describe(bundle)
    (member,) = description.pop("ensemble")["members"]
    description |= {"format": "ich bundle 3", "metadata": member}
    rewrite(bundle, json.dumps(description).encode(), safetensors.torch.save(expected.state_dict))
    found = read_bundle(bundle)
    assert found.metadata == expected.metadata
    assert found.state_dict.keys() == expected.state_dict.keys()
    assert load_slice_net(bundle).metadata == expected.metadata


def test_bundle_of_format_1_is_read(trained, bundle: Path) -> None:
    description = make_older(describe(bundle), 1)
    old = read_bundle(bundle)
    weights = {k: v for k, v in old.state_dict.items() if not k.startswith("ood.")}
    expected = old.metadata
    for name in ("likeness", "training", "trained_on", "prevalences", "decisions"):
        del description["card"][name]
        expected = replace(expected, **{"ood" if name == "likeness" else name: None})
        text = json.dumps(description).encode()
        rewrite(bundle, text, safetensors.torch.save(weights), model_card=b"")
        model = load_slice_net(bundle)
        assert model.metadata == expected
        assert model.ood is None
        bundle.unlink()
        shutil.copy(trained[0] / "model.zip", bundle)
        description["weights_sha256"] = describe(bundle)["weights_sha256"]


def make_ood() -> dict[str, torch.Tensor]:
    """The weights of a reference for the features of test_resnet."""
    people = [f"{i // 8}" for i in range(80)]
    found = fit_ood(np.random.default_rng(0).normal(size=(80, 96)).astype(np.float32), people, people)
    assert isinstance(found, OodDistance)
    return {f"ood.{name}": value for name, value in found.state_dict().items()}


def test_ood_travels_in_a_bundle(bundle: Path) -> None:
    weights = read_bundle(bundle).state_dict | make_ood()
    rewrite(bundle, weights=save_member(weights))
    model = load_slice_net(bundle)
    assert torch.equal(model.ood.limit, weights["ood.limit"])
    write_bundle(model.metadata, model.state_dict(), bundle.with_name("again.zip"))
    again = load_slice_net(bundle.with_name("again.zip"))
    features = torch.randn(3, 96)
    assert torch.equal(again.ood(features), model.ood(features))
    tuned = SliceClassifier("test_resnet", input=model.input, init_from=str(bundle), pretrained=False)
    assert tuned.net.ood is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", torch.zeros(5)),
        ("scale", torch.zeros(96)),
        ("components", torch.zeros(16, 96, dtype=torch.int32)),
        ("components", torch.zeros(())),
        ("variances", torch.full((16,), torch.nan)),
        ("residual", -torch.ones(())),
        ("limit", torch.ones(1)),
        ("other", torch.ones(())),
        ("limit", None),
    ],
)
def test_ood_of_a_bundle_is_checked(bundle: Path, name: str, value: torch.Tensor | None) -> None:
    weights = read_bundle(bundle).state_dict | make_ood() | {f"ood.{name}": value}
    weights = {name: value for name, value in weights.items() if value is not None}
    rewrite(bundle, weights=save_member(weights))
    assert_refused(bundle, "is damaged: its reference does not have 96 features")


def test_bundle_takes_the_longest_decisions(trained, bundle: Path) -> None:
    model = load_slice_net(bundle)
    numbers = [(i + 1) / 65 - 1e-17 for i in range(64)]
    curve = {"method": "isotonic", "probs": numbers, "values": numbers}
    level = {
        "pooling": "max",
        "calibration": dict.fromkeys(LABELS, curve),
        "operating_points": dict.fromkeys(LABELS, POINT),
    }
    decision = read_plain(Decision, level, "here")
    model.metadata = replace(model.metadata, decisions={"slice": decision, "study": decision})
    write_bundle(model.metadata, model.state_dict(), bundle.with_name("long.zip"))
    assert load_slice_net(bundle.with_name("long.zip")).metadata == model.metadata


def test_calibration_of_another_file_takes_the_place_of_the_runs(trained, tmp_path: Path, capsys) -> None:
    run = str(trained[0] / "run")
    missing = {label: {"missing": "not asked for"} for label in LABELS}
    points = missing | {"any": POINT}
    level = {"pooling": "mean", "calibration": missing, "operating_points": points}
    decisions = {"study": read_plain(Decision, level, "here")}
    file, out = tmp_path / "calibration.json", tmp_path / "other.zip"
    write_calibration(decisions, file)
    assert read_calibration(file) == decisions
    assert call("bundle", run, str(out), "--calibration", str(file)) == 0
    metadata = load_slice_net(out).metadata
    assert metadata.decisions == decisions
    assert read_bundle(out).model_card == ""  # the run's is of other operating points
    assert metadata.prevalences == load_slice_net(trained[0] / "model.zip").metadata.prevalences
    with pytest.raises(UserError, match="exists; name a new file"):
        write_calibration(decisions, file)
    with pytest.raises(UserError, match="no decisions for the levels slice and study"):
        write_calibration({"patient": decisions["study"]}, tmp_path / "none.json")


GOOD = {"format": "ich calibration 1", "note": "x", "decisions": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        (b"\xff", "is not valid JSON"),
        (b'{"format": Infinity}', "Infinity is not a valid JSON number"),
        (b"[]", "is not a JSON object"),
        (b" " * 300_000, "is larger than"),
        (json.dumps(GOOD | {"format": "ich bundle 1"}).encode(), "expected 'ich calibration 1'"),
        (json.dumps(GOOD | {"model": {}}).encode(), "unknown field 'model'"),
        (json.dumps(GOOD | {"decisions": {"slice": {}}}).encode(), "slice lacks pooling"),
    ],
)
def test_calibration_file_that_is_none(trained, tmp_path: Path, capsys, text: bytes, message: str) -> None:
    file = tmp_path / "calibration.json"
    if text is not None:
        file.write_bytes(text)
    run, out = str(trained[0] / "run"), tmp_path / "model.zip"
    assert call("bundle", run, str(out), "--calibration", str(file)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 60_000, "is not valid JSON"),
        (b'{"format": NaN}', "NaN is not a valid JSON number"),
        (b'{"format": 1, "format": 2}', "a field appears twice"),
        (b"[]", "is not a JSON object"),
        (b"9" * 10_000, "is not valid JSON"),
        (b" " * 1_100_000, "model.json is larger than"),
        (b"{}", "format is None; expected one of ich bundle 1"),
    ],
)
def test_json_that_is_none(bundle: Path, text: bytes, message: str) -> None:
    rewrite(bundle, text)
    assert_refused(bundle, message)


def add_member(name: str) -> Callable[[Path], None]:
    def add(bundle: Path) -> None:
        with zipfile.ZipFile(bundle, "a") as archive:
            archive.writestr(name, "evil")

    return add


def rename(bundle: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content.replace(b"model.safetensors", b"../../../../evil."))


def rename_in_one_place(bundle: Path) -> None:
    content = bundle.read_bytes()
    bundle.write_bytes(content.replace(b"model.safetensors", b"../../../../evil.", 1))


def compress(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def claim_size(bundle: Path) -> None:
    """Both sizes of the last member in the archive's directory become 3 GB."""
    content = bytearray(bundle.read_bytes())
    entry = content.rfind(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 3_000_000_000, 3_000_000_000)
    bundle.write_bytes(content)


def cut(bundle: Path) -> None:
    os.truncate(bundle, 3000)


def flip(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_member("../evil"), "it has 4 members"),
        (add_member("/tmp/evil"), "it has 4 members"),
        (add_member("code.py"), "it has 4 members"),
        pytest.param(
            add_member("model.json"),
            "it has 4 members",
            marks=pytest.mark.filterwarnings("ignore:Duplicate name"),
        ),
        (rename, "it has 3 members; expected"),
        (rename_in_one_place, "is damaged"),
        (compress, "is compressed"),
        (claim_size, "claims to be larger than the file"),
        (cut, "is not a checkpoint that loads safely"),
        (flip, "is damaged"),
    ],
)
def test_an_archive_that_is_not_a_bundle_is_refused(bundle: Path, change, message: str) -> None:
    change(bundle)
    assert_refused(bundle, message)


def tensors(header: Fields, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


HUGE = {"head.1.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
WRAPPED = {"head.1.bias": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}
OTHER = {"../evil": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (tensors(HUGE), "cannot be read"),
        (tensors(WRAPPED), "cannot be read"),
        (struct.pack("<Q", 2**60) + b"{}", "cannot be read"),
        (tensors(OTHER, bytes(4)), "'../evil' belongs to none of 1 members"),
        (b"\x80\x04cos\nsystem\n.", "cannot be read"),
    ],
    ids=["huge", "wrapped", "long header", "of another", "pickle"],
)
def test_weights_that_are_none(bundle: Path, weights: bytes, message: str) -> None:
    rewrite(bundle, weights=weights)
    assert_refused(bundle, message)


class Evil:
    """A pickle of it makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.fixture
def poisoned(trained, tmp_path: Path, monkeypatch) -> Path:
    """A run whose checkpoints hold a pickle that runs a function, in the current folder."""
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(trained[0] / "run", tmp_path / "run"))
    for path in (run / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        torch.save(checkpoint | {"callbacks": Evil()}, path)
    return run


def test_pickle_in_a_checkpoint_is_not_run(
    poisoned: Path, phantom: Path, monkeypatch, caplog, capsys
) -> None:
    file = poisoned / "checkpoints" / "best.ckpt"
    with pytest.raises(UserError, match="is not a checkpoint that loads safely"):
        load_slice_net(file)
    assert call("bundle", "run", "model.zip") == 2
    assert "is not a checkpoint that loads safely" in " ".join(capsys.readouterr().err.split())
    data = ["data=rsna", f"data.root={phantom}", "input.size=64", *TINY, "run_dir=new"]
    assert call("train", "ckpt_path=run", "trainer.max_epochs=9") == 2
    assert call("train", *data, f"model.init_from={file}") == 2
    assert call("train", *data, f"model.weights_file={file}") == 2
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 3
    assert {path.name for path in Path().iterdir()} <= {"run", "runs"}


def test_checkpoint_that_would_inflate_is_refused(trained, tmp_path: Path) -> None:
    whole, small = trained[0] / "run/checkpoints/best.ckpt", tmp_path / "best.ckpt"
    with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as deflated:
        for member in archive.namelist():
            deflated.writestr(member, archive.read(member))
    with pytest.raises(UserError, match="is not a checkpoint that loads safely"):
        load_slice_net(small)


def test_metadata_of_a_checkpoint_are_checked(trained, tmp_path: Path) -> None:
    checkpoint = torch.load(trained[0] / "run/checkpoints/best.ckpt", weights_only=True)
    checkpoint["metadata"]["model"]["weights_file"] = "/etc/passwd"
    torch.save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="unknown field 'weights_file'"):
        load_slice_net(tmp_path / "best.ckpt")


@pytest.mark.parametrize("threshold", [math.nan, math.inf, -math.inf, "0.5", [0.5] * 10**5, None, True])
def test_threshold_of_a_checkpoint_is_checked(trained, tmp_path: Path, threshold: Any) -> None:
    checkpoint = torch.load(trained[0] / "run/checkpoints/best.ckpt", weights_only=True)
    level = checkpoint["metadata"]["decisions"]["slice"]
    level["operating_points"]["any"] = POINT | {"threshold": threshold}
    torch.save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(
        UserError, match=r"slice\.operating_points\.any\.threshold is .* a number from 0 to 1"
    ):
        load_slice_net(tmp_path / "best.ckpt")


@pytest.mark.parametrize("place", [("data",), ("data", "phantom"), ("logger", "mine"), ("optim", "options")])
def test_a_run_builds_nothing_but_what_this_program_builds(
    trained, tmp_path: Path, monkeypatch, caplog, place: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(trained[0] / "run", tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    node = config
    for name in place:
        if not isinstance(node.get(name), dict):
            node[name] = {}
        node = node[name]
    node.update(_target_="os.mkdir", path="executed")
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert call("train", "ckpt_path=run") == 2
    assert "_target_=os.mkdir is not on the list" in caplog.text
    assert not Path("executed").exists()
