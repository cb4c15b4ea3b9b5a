"""Weights of other programs as bundles: what they compute must be what the other program computes."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from command import call
from numpy.typing import NDArray
from torch import Tensor, nn

from ich.calibration import NotFitted
from ich.model_files.bundle import read_bundle
from ich.model_files.metadata import Origin
from ich.models import SliceClassifier
from ich.networks import load_network
from ich.schema import LABELS, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet

TINY = "test_resnet"
WINDOWS = np.array([[40, 80], [80, 200], [600, 2800]], np.float32)  # centers and widths, in HU
THREE = "windows=[brain,subdural,bone]"
OTHER_ORDER = ("any", *reversed(LABELS[:-1]))


def draw_hu(size: int) -> NDArray[np.int16]:
    """(N, D, S, S): two slices with their neighbors."""
    return np.random.default_rng(0).integers(-1000, 1500, (2, 3, size, size)).astype(np.int16)


def window(hu: NDArray[np.int16]) -> Tensor:
    """(N, D, S, S) -> (N, D, W, S, S) in [0, 1], as other programs do it."""
    low, high = WINDOWS[:, 0] - WINDOWS[:, 1] / 2, WINDOWS[:, 0] + WINDOWS[:, 1] / 2
    clipped = np.clip(hu[:, :, None].astype(np.float32), low[:, None, None], high[:, None, None])
    return torch.from_numpy((clipped - low[:, None, None]) / WINDOWS[:, 1][:, None, None])


class Mapped(nn.Module):
    """Takes the mean of the backbone's last map, and scales its images to [-1, 1]."""

    def __init__(self, backbone: str, **settings: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, num_classes=0, global_pool="", in_chans=9, **settings)
        self.linear = nn.Linear(512, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.backbone(2 * x - 1).mean(dim=(2, 3))).sigmoid()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A network with the classifier that timm gives it, and the file of its weights."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, in_chans=9, num_classes=6).eval()
    file = tmp_path_factory.mktemp("foreign") / "weights.pth"
    extra = {"net.ema.decay": torch.ones(1)}
    torch.save({f"net.{name}": value for name, value in model.state_dict().items()} | extra, file)
    return model, file


OPTIONS = {
    "--backbone": [TINY],
    "--license": ["CC-BY-4.0"],
    "--input": ["size=64", "neighbors=1", THREE, "normalization=unit"],
    "--map": ["net.=backbone.", "net.fc.=head.1.", "net.ema.="],
    "--labels": list(OTHER_ORDER),
}


def import_(file: Path, out: Path, **changed: list[str] | None) -> int:
    """Calls ``ich import``; an option that is None is left out."""
    options = OPTIONS | {f"--{name}": value for name, value in changed.items()}
    words = [word for name, value in options.items() if value is not None for word in (name, *value)]
    return call("import", str(file), str(out), *words)


@pytest.mark.parametrize("channels", ["slice", "window"])
def test_an_imported_network_gives_the_probabilities_of_the_foreign_one(
    foreign: tuple[nn.Module, Path], tmp_path: Path, channels: str
) -> None:
    model, file = foreign
    assert import_(file, tmp_path / "model.zip", channels=[channels]) == 0
    network = load_network(tmp_path / "model.zip")
    image = window(draw_hu(64))
    with torch.no_grad():
        image = image.flatten(1, 2) if channels == "slice" else image.transpose(1, 2).flatten(1, 2)
        expected = model(image).sigmoid()[:, [OTHER_ORDER.index(label) for label in LABELS]]
    torch.testing.assert_close(torch.from_numpy(network.run(draw_hu(64)).probs), expected)
    assert network.metadata.labels == RSNA_LABELS
    tuned = SliceClassifier(TINY, input=network.input, init_from=str(tmp_path / "model.zip"))
    assert tuned.net.metadata.origin == network.metadata.origin


@pytest.mark.trains
def test_the_preset_is_a_network_of_that_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a file of the layout that the model's author publishes, at a smaller size."""
    torch.manual_seed(0)
    model = Mapped("maxvit_tiny_tf_512", img_size=64).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    out = tmp_path / "model.zip"
    assert (
        call(
            "import",
            str(tmp_path / "model.safetensors"),
            str(out),
            "--preset",
            "ianpan",
            "--input",
            "size=64",
        )
        == 0
    )
    with torch.no_grad():
        expected = model(window(draw_hu(64)).flatten(1, 2))
    network = load_network(out)
    torch.testing.assert_close(torch.from_numpy(network.run(draw_hu(64)).probs), expected)
    name = "imported weights of ianpan/ct-head-hemorrhage-detection"
    assert network.metadata.origin == Origin(name, "MIT", digest)
    assert network.metadata.thickness == 5.0
    assert "MIT" in read_bundle(out).model_card


def test_what_is_known_of_an_imported_model_is_said(
    foreign: tuple[nn.Module, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, file = foreign
    out = tmp_path / "model.zip"
    assert import_(file, out, labels=["a", "b", "c", "d", "e", "f"], decides=["c"]) == 0
    assert "no_decision" in capsys.readouterr().out
    bundle = read_bundle(out)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert bundle.metadata.origin == Origin("imported weights of another program", "CC-BY-4.0", digest)
    assert bundle.metadata.labels == LabelSet(tuple("abcdef"), (1,) * 6, decides="c")
    assert bundle.metadata.ood == NotFitted("the model was imported")
    assert bundle.metadata.decisions is None
    assert call("bundle", str(out)) == 0
    shown = capsys.readouterr().out
    assert f"imported weights of another program, license CC-BY-4.0, SHA-256 {digest}" in shown
    assert "calibration and operating points: by nothing" in shown
    assert bundle.model_card.strip() in shown
    assert digest in bundle.model_card
    assert str(file) not in shown


def test_the_place_of_the_mean_is_kept(foreign: tuple[nn.Module, Path], tmp_path: Path) -> None:
    """This backbone has no layer after the mean, so it gives the same with either."""
    model, file = foreign
    path = str(tmp_path / "model.zip")
    assert import_(file, Path(path), pool=["last"], labels=list(LABELS)) == 0
    network = load_network(path)
    with torch.no_grad():
        expected = model(window(draw_hu(64)).flatten(1, 2)).sigmoid()
    torch.testing.assert_close(torch.from_numpy(network.run(draw_hu(64)).probs), expected)
    assert (
        SliceClassifier(TINY, input=network.input, init_from=path, pool="last").net.metadata.model.pool
        == "last"
    )
    with pytest.raises(UserError, match=r"model\.zip has model\.pool=last; set it"):
        SliceClassifier(TINY, input=network.input, init_from=path)


@pytest.mark.trains
def test_the_way_to_a_decision_is_the_printed_one(
    foreign: tuple[nn.Module, Path], phantom: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert import_(foreign[1], Path("model.zip")) == 0
    (command,) = re.findall(r"^  ich (.*)$", capsys.readouterr().out, re.MULTILINE)
    named = {"STUDIES": str(phantom), "LABELS.csv": str(phantom / "stage_2_train.csv")}
    assert call(*(named.get(word, word) for word in shlex.split(command))) == 0
    result = json.loads(next(Path("recalibrated/predicted/results").iterdir()).read_text())
    assert result["outcome"] == "INDETERMINATE"
    assert {reason["code"] for reason in result["reasons"]} >= {"no_decision", "no_reference"}
    fitted = read_bundle("recalibrated/model.zip").metadata
    assert fitted.decisions is not None
    assert fitted.origin == read_bundle("model.zip").metadata.origin


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"license": None}, "--license is needed: name the license"),
        ({"backbone": None}, "--backbone is needed"),
        ({"labels": None}, "--labels is needed"),
        ({"input": ["size=64", THREE]}, "--input normalization=... is needed"),
        (
            {"input": [*OPTIONS["--input"], "mean=0.5"]},
            "--input mean is not a setting; there are size, neighbors",
        ),
        ({"input": ["size=64", THREE, "normalization=rgb"]}, "input.normalization=rgb: expected one of unit"),
        ({"input": ["size=64", THREE, "normalization=unit"]}, r"3 channels: .* 1 have another shape in it"),
        ({"labels": ["any"]}, r"1 labels .* 2 have another shape in it \(head\.1\.weight \(6, "),
        (
            {"map": ["net.=backbone.", "net.ema.="]},
            r"2 are not in the file \(head\.1\.weight, head\.1\.bias\)",
        ),
        (
            {"map": ["net.=backbone.", "net.fc.=head.1."]},
            r"do not belong to test_resnet \(backbone\.ema\.decay\)",
        ),
        (
            {"map": ["net.=backbone.", "fc.=head.1."]},
            r"--map fc\.=head\.1\.: no tensor of .* begins like that",
        ),
        (
            {"map": ["net.conv1.0.=x.", "net.conv1.1.=x."]},
            r"--map gives two tensors of .* the name x\.weight",
        ),
        ({"preset": ["nobody"]}, "--preset nobody: expected one of ianpan"),
        ({"backbone": ["test_vit"], "input": ["size=160", THREE, "normalization=unit"]}, "does not hold"),
        ({"pool": ["last"], "backbone": ["test_vit"]}, "model.pool=last: the last layer of .* gives no map"),
    ],
)
def test_what_does_not_fit_is_refused(
    foreign: tuple[nn.Module, Path],
    tmp_path: Path,
    capsys,
    changed: dict[str, list[str] | None],
    message: str,
) -> None:
    assert import_(foreign[1], tmp_path / "model.zip", **changed) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "model.zip").exists()


def test_a_file_of_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "w.pth")
    assert import_(tmp_path / "w.pth", tmp_path / "model.zip") == 2
    assert "cannot be read safely" in capsys.readouterr().err
    assert import_(tmp_path / "none.pth", tmp_path / "model.zip") == 2
    assert "none.pth does not exist" in capsys.readouterr().err
