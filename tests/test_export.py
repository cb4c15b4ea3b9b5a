"""Models as ONNX: the same in, the same out, and files that somebody has prepared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
from command import call
from networks import DEEP, LIMIT, draw_slices, make_model
from numpy.typing import NDArray
from test_predict import make_decision

import ich
import ich.networks.export
from ich.model_files.bundle import write_bundle
from ich.models import SliceNet
from ich.networks import load_network
from ich.networks.onnx import KEY
from ich.networks.views import TTA, augmented
from ich.outputs.records import read_json
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError

SPECS = {
    "header": InputSpec(size=64, windows=("dicom", "brain"), normalization="symmetric"),
    "peak": InputSpec(size=64, windows=(), normalization="max_abs"),
    "learnable": InputSpec(size=64, neighbors=1, learnable=True, normalization="unit"),
}


def write_model(model: SliceNet, folder: Path) -> Path:
    path = folder / "model.zip"
    write_bundle(model.metadata, model.state_dict(), path)
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said to the user as an error."""
    return " ".join(capsys.readouterr().err.split())


def make_decided() -> SliceNet:
    """A model with an operating point."""
    model = make_model(DEEP)
    model.metadata = replace(model.metadata, decisions={"study": make_decision(0.5)})
    return model


@pytest.fixture(scope="module")
def checks(phantom: Path) -> list[str]:
    """Some slices to check on: fewer than those that are drawn where none are given."""
    return list(map(str, sorted((phantom / "stage_2_train").iterdir())[:20]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, checks: list[str]) -> Path:
    """Folder of a bundle and the ONNX file that was made of it."""
    folder = tmp_path_factory.mktemp("exported")
    bundle = write_model(make_decided(), folder)
    assert call("export", str(bundle), str(folder / "model.onnx"), "--check", *checks) == 0
    return folder


@pytest.mark.trains
@pytest.mark.parametrize("name", SPECS)
def test_every_kind_of_input(name: str, checks: list[str], tmp_path: Path, capsys) -> None:
    spec, out = SPECS[name], tmp_path / "model.onnx"
    link = "softmax" if name == "peak" else "sigmoid"
    model = make_model(spec, ood=False, link=link)
    if spec.learnable:
        model.window.shift.data += 0.1
        model.window.log_scale.data -= 0.2
    bundle = write_model(model, tmp_path)
    given = [] if name == "peak" else ["--check", *checks]
    assert call("export", str(bundle), str(out), *given) == 0
    checked = "20 slices" if given else "138 slices of the phantom"
    assert f"largest difference in a probability over {checked}: " in capsys.readouterr().out
    hu = draw_slices(spec.depth)
    window = np.tile(np.array([45, 95], np.float32), (len(hu), 1)) if name == "header" else None
    ours, theirs = (load_network(path, gpus=0).run(hu, window) for path in (bundle, out))
    np.testing.assert_allclose(ours.probs, theirs.probs, rtol=0, atol=1e-5)
    assert np.ptp(ours.probs[:, 5]) > 0.1
    assert theirs.distance is None


def test_what_it_says_of_itself(exported: Path) -> None:
    model, network = make_decided(), load_network(exported / "model.onnx")
    assert network.metadata == model.metadata
    assert network.input == DEEP
    assert network.limit == LIMIT
    content = (exported / "model.onnx").read_bytes()
    for private in (str(Path(ich.__file__).parents[1]), str(Path(timm.__file__).parents[1]), ".py"):
        assert private.encode() not in content
    assert sorted(path.name for path in exported.iterdir()) == ["model.onnx", "model.zip"]


def make_older(description: Fields) -> None:
    """Turns the description into that of "ich network 1", with the names of then."""
    (member,) = description.pop("ensemble")["members"]
    card = member | {"format": "ich slice classifier 1", "labels": list(LABELS)}
    spec = card["model"]["input"]
    spec |= {"neighbours": spec.pop("neighbors"), "normalisation": spec.pop("normalization")}
    description |= {"format": "ich network 1", "card": card}


def test_network_of_format_1_is_read(exported: Path, tmp_path: Path) -> None:
    model = onnx.load_model_from_string((exported / "model.onnx").read_bytes())
    change_description(make_older)(model)
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    old, new = load_network(tmp_path / "old.onnx"), load_network(exported / "model.onnx")
    assert (old.metadata, old.input, old.limit) == (new.metadata, new.input, new.limit)


@pytest.mark.trains
def test_distances_and_probabilities_are_those_of_the_model(exported: Path) -> None:
    hu = draw_slices(3)
    ours, theirs = (load_network(exported / name, gpus=0).run(hu) for name in ("model.zip", "model.onnx"))
    np.testing.assert_allclose(ours.probs, theirs.probs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours.distance, theirs.distance, rtol=1e-4)


@pytest.mark.trains
def test_the_same_twice_and_in_any_number_by_onnx(exported: Path) -> None:
    network, hu = load_network(exported / "model.onnx", threads=1), draw_slices(3)
    every, again = network.run(hu), network.run(hu)
    np.testing.assert_array_equal(every.probs, again.probs)
    np.testing.assert_array_equal(every.distance, again.distance)
    one = np.concatenate([network.run(hu[number : number + 1]).probs for number in range(len(hu))])
    np.testing.assert_allclose(one, every.probs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [("head.1.bias", "in a probability by"), ("ood.mean", "in a distance by")],
)
def test_what_differs_is_not_written(
    exported: Path, checks: list[str], tmp_path: Path, monkeypatch, capsys, weights: str, message: str
) -> None:
    file = onnx.load(exported / "model.onnx")
    (tensor,) = (tensor for tensor in file.graph.initializer if tensor.name.endswith(weights))
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 0.01, tensor.name))
    monkeypatch.setattr(ich.networks.export, "_convert", lambda *_: file.SerializeToString())
    command = ("export", str(exported / "model.zip"), str(tmp_path / "model.onnx"), "--check", *checks)
    assert call(*command) == 2
    assert f"was not written, because over 20 slices it differs from the model {message}" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(exported: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def refuse(source: Path, out: Path, *check: str) -> str:
        assert call("export", str(source), str(out), *check) == 2
        return one_line(capsys)

    (tmp_path / "text.dcm").write_text("no slice")
    assert "exists; name a new file" in refuse(exported / "model.zip", exported / "model.onnx")
    assert "is an ONNX file; give the checkpoint" in refuse(exported / "model.onnx", tmp_path / "again.onnx")
    assert "does not exist" in refuse(exported / "model.zip", tmp_path / "none" / "model.onnx")
    checks = ("--check", str(tmp_path))
    assert "no readable CT slice" in refuse(exported / "model.zip", tmp_path / "model.onnx", *checks)
    monkeypatch.setattr(ich.networks.export, "LARGEST", 1000)
    assert "GB of weights, but one ONNX file holds at most" in refuse(
        exported / "model.zip", tmp_path / "model.onnx"
    )
    monkeypatch.setattr(ich.networks.export, "find_spec", lambda name: None)
    assert "pip install 'ich[onnx]'" in refuse(exported / "model.zip", tmp_path / "model.onnx")


def test_onnx_runs_on_the_cpu(exported: Path) -> None:
    with pytest.raises(UserError, match="is an ONNX file, which runs on the CPU"):
        load_network(exported / "model.onnx", gpus=1)


@pytest.mark.trains
@pytest.mark.parametrize("file", ["model.zip", "model.onnx"])
def test_views(exported: Path, file: str) -> None:
    network, hu = load_network(exported / file, gpus=0), draw_slices(3)
    assert augmented(network, ()) is network
    plain, flipped = network.run(hu), network.run(hu[..., ::-1])
    flip = augmented(network, ["flip"]).run(hu)
    np.testing.assert_allclose(flip.probs, (plain.probs + flipped.probs) / 2, atol=1e-6)
    np.testing.assert_array_equal(flip.distance, plain.distance)
    reverse, turned = augmented(network, ["reverse"]).run(hu), network.run(hu[:, ::-1])
    np.testing.assert_allclose(reverse.probs, (plain.probs + turned.probs) / 2, atol=1e-6)
    assert np.abs(reverse.probs - plain.probs).max() > 1e-3
    every = augmented(network, TTA)
    assert (every.metadata, every.input, every.limit) == (network.metadata, network.input, network.limit)
    # OpenCV moves by whole 32nds of a pixel, which are not the same from the right.
    np.testing.assert_allclose(every.run(hu[..., ::-1]).probs, every.run(hu).probs, atol=1e-3)
    assert np.abs(every.run(hu).probs - flip.probs).max() > 1e-2
    with pytest.raises(UserError, match=r"tta=turn: expected some of flip, scale, reverse"):
        augmented(network, ["turn"])


@pytest.mark.trains
def test_a_study_is_read_as_by_the_model_itself(exported: Path, study: Path, tmp_path: Path) -> None:
    given = (str(exported / "model.onnx"), str(study), "--out", str(tmp_path / "out"))
    assert call("predict", *given, "--tta", "flip", "--write", "page") == 0
    result = read_json(tmp_path / "out" / "results" / "0001.json")
    (expected,) = Predictor.load(exported / "model.zip", tta=["flip"]).predict(study)
    assert result.outcome is expected.outcome
    for one, other in zip(result.slices, expected.slices, strict=True):
        assert one.probs == pytest.approx(other.probs, abs=1e-4)
    assert result.distance == pytest.approx(expected.distance, rel=1e-3)
    assert "has no gradients" in (tmp_path / "out" / "pages" / "0001.html").read_text()


Fields = dict[str, Any]


def change_description(change: Callable[[Fields], None]) -> Callable[[onnx.ModelProto], None]:
    def apply(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        description = json.loads(entry.value)
        change(description)
        entry.value = json.dumps(description)

    return apply


def point_outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")


def add_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.somebody"


def nest(model: onnx.ModelProto) -> None:
    graph = onnx.helper.make_graph([], "inner", [], [])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", graph))


def rename_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "logits"


def break_graph(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nothing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_description(lambda found: found.update(format="ich network 9")), "expected 'ich network 4'"),
        (change_description(lambda found: found.update(_target_="os.system")), "unknown field '_target_'"),
        (
            change_description(lambda found: found["ensemble"]["members"][0].update(labels=["any"])),
            "labels is",
        ),
        (
            change_description(
                lambda found: found["ensemble"]["members"][0]["model"]["input"].update(size=32)
            ),
            "its metadata says",
        ),
        (change_description(lambda found: found.update(limit="2.5")), "limit is '2.5'; expected a number"),
        (change_description(lambda found: found.update(limit=None)), "its metadata says"),
        (lambda model: model.ClearField("metadata_props"), "`ich export` did not write it"),
        (lambda model: setattr(model.metadata_props[0], "key", KEY * 2), "`ich export` did not write it"),
        (point_outside, "has weights in other files"),
        (add_operator, "operators outside the ONNX standard"),
        (nest, "nested graphs"),
        (rename_output, "its metadata says"),
        (break_graph, "is not a network that onnxruntime can run"),
    ],
)
def test_prepared_files_are_refused(exported: Path, tmp_path: Path, change, message: str) -> None:
    model = onnx.load(exported / "model.onnx")
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=message):
        load_network(path)


def test_damaged_files_are_refused(exported: Path, tmp_path: Path) -> None:
    content, path = (exported / "model.onnx").read_bytes(), tmp_path / "model.onnx"
    for damaged in (content[: len(content) // 2], content[:1], b"\x08\xff" * 99):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"ONNX file"):
            load_network(path)


def test_the_name_of_a_file_says_nothing(exported: Path, tmp_path: Path) -> None:
    hu: NDArray[np.int16] = draw_slices(3)
    for source, name in (("model.onnx", "model.zip"), ("model.zip", "model.onnx")):
        path = tmp_path / name
        path.write_bytes((exported / source).read_bytes())
        np.testing.assert_array_equal(
            load_network(path, gpus=0).run(hu).probs, load_network(exported / source, gpus=0).run(hu).probs
        )
