"""A backbone of the user's own: trained, gone on with, loaded where it is trusted, used by each command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from command import call
from networks import draw_slices
from torch import nn

from ich.model_files.bundle import write_bundle
from ich.model_files.metadata import OwnBackbone
from ich.models import SliceClassifier, SliceNet, load_slice_net
from ich.models.own import find_maker
from ich.networks import load_network
from ich.predict import Predictor
from ich.schema import InputSpec, UserError

TINY = [
    *(
        "input.size=32",
        "input.windows=[brain]",
        "trainer.gpus=0",
        "data.num_workers=0",
        "data.val_fraction=0.5",
    ),
    *("trainer.max_epochs=2", "logger=csv", "model=mine"),
]
BEST = "checkpoints/best.ckpt"


class Net(nn.Module):
    """Gives a feature map."""

    def __init__(self, in_chans: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_chans, width, 3, stride=2)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(image).relu()).relu()


class Flat(nn.Module):
    """Gives features, and has no grid that a heat map could be made on."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        self.line = nn.LazyLinear(features)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.line(image.flatten(1)).relu()


class Outer:
    class Inner(Flat):
        """Has a name with one more dot."""

    @classmethod
    def build(cls, features: int = 5) -> Flat:
        return Flat(features)


def make_local_class() -> type[nn.Module]:
    class Local(Flat):
        """Exists only while the function runs."""

    return Local


def hide_class() -> type[nn.Module]:
    """Makes a class whose name belongs to another."""
    return type("Flat", (Flat,), {"__module__": "mine", "__qualname__": "Flat"})


def give_list(**_: Any) -> list[int]:
    return []


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own, which also holds what it has imported."""
    module = ModuleType("mine")
    module.__dict__.update(Net=Net, Flat=Flat, Outer=Outer, give_list=give_list, Linear=nn.Linear)
    for each in (Net, Flat, Outer, Outer.Inner, Outer.build.__func__, give_list):
        monkeypatch.setattr(each, "__module__", "mine")
    monkeypatch.setitem(sys.modules, "mine", module)


def make(backbone: Any, **settings: Any) -> SliceNet:
    torch.manual_seed(0)
    spec = InputSpec(size=64, windows=("brain",))
    return SliceClassifier(backbone, input=spec, pretrained=False, **settings).net.eval()


def write(backbone: Any, folder: Path) -> Path:
    net = make(backbone)
    write_bundle(net.metadata, net.state_dict(), folder / "model.zip")
    return folder / "model.zip"


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.trains
def test_it_is_trained_gone_on_with_and_predicts(
    phantom: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my/model").mkdir(parents=True)
    text = "backbone: {_target_: mine.Net, width: 4}\npretrained: false\n"
    Path("my/model/mine.yaml").write_text(f"defaults: [/signature/SliceClassifier@_here_]\n{text}")
    given = ["train", "--config-dir", "my", "data=rsna", f"data.root={phantom}", *TINY]
    assert call(*given, "run_dir=run") == 2
    assert "_target_=mine.Net is not on the list" in caplog.text
    assert not Path("run").exists()
    assert call(*given, "run_dir=whole", "trusted=[mine.]") == 0
    assert call(*given, "run_dir=run", "trainer.max_epochs=1", "trusted=[mine.]") == 0
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 2
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2", "trusted=[mine.]") == 0
    assert pd.read_csv("run/metrics.csv")["epoch"].tolist() == [0, 1]

    net = load_slice_net(f"whole/{BEST}", trusted=["mine."])
    assert net.metadata.model.backbone == "mine.Net"
    assert net.metadata.model.own == OwnBackbone({"width": 4})
    assert net.backbone.first.weight.shape == (4, 1, 3, 3)
    assert net.ood is not None
    with pytest.raises(UserError, match=r"mine\.Net\. If you trust this code, give --trust mine\."):
        load_slice_net(f"whole/{BEST}")
    tuned = SliceClassifier(
        partial(Net, width=4), input=net.input, pretrained=False, init_from=f"whole/{BEST}"
    )
    assert torch.equal(tuned.net.get_parameter("head.1.weight"), net.get_parameter("head.1.weight"))

    capsys.readouterr()
    assert call("predict", "whole", str(study), "--out", "none") == 2
    assert "give --trust mine." in one_line(capsys)
    assert call("predict", "whole", str(study), "--out", "out", "--trust", "mine.") == 0
    assert call("bundle", "whole", "model.zip", "--trust", "mine.") == 0
    (result,) = Predictor.load("model.zip", trusted=["mine.Net"]).predict(study)
    table = pd.read_csv("out/slices.csv")
    np.testing.assert_allclose(table["prob_any"], [each.probs["any"] for each in result.slices], atol=1e-6)
    assert result.algorithm.name == "mine.Net"


@pytest.mark.trains
def test_it_is_explained_and_exported(phantom: Path, tmp_path: Path, capsys) -> None:
    model, slices = write(partial(Net, width=4), tmp_path), str(phantom)
    trust = ("--trust", "mine.")
    explain = ("explain", str(model), slices, "--limit", "2", "--out")
    assert call(*explain, str(tmp_path / "heat"), *trust) == 0
    assert len(list((tmp_path / "heat").glob("*.png"))) == 2
    assert call("export", str(model), str(tmp_path / "model.onnx"), *trust) == 0
    hu = draw_slices(1)
    ours, theirs = (
        load_network(tmp_path / name, gpus=0, trusted=["mine."]).run(hu)
        for name in ("model.zip", "model.onnx")
    )
    np.testing.assert_allclose(ours.probs, theirs.probs, atol=1e-5)
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx")  # which runs no code of the user's
    assert load_network(tmp_path / "model.onnx").metadata.model.backbone == "mine.Net"


def test_without_a_grid_it_is_not_explained(phantom: Path, tmp_path: Path, capsys) -> None:
    model = write(Flat, tmp_path)
    given = ("explain", str(model), str(phantom), "--out", str(tmp_path / "heat"), "--trust", "mine.")
    assert call(*given) == 2
    assert "no heat map of Flat: it has no square grid of features" in one_line(capsys)


@pytest.mark.parametrize(
    "backbone", [Net, partial(Net, width=3), Flat, partial(Flat, features=7), Outer.Inner, Outer.build]
)
def test_a_file_builds_it_again(backbone: Callable[..., nn.Module], tmp_path: Path) -> None:
    net, image = make(backbone), torch.randn(2, 1, 64, 64)
    write_bundle(net.metadata, net.state_dict(), tmp_path / "model.zip")
    loaded = load_slice_net(tmp_path / "model.zip", trusted=["mine."])
    assert torch.equal(loaded(image), net(image))
    assert net.extract(image).shape == (2, net.features)


def test_an_object_is_taken_and_given_again(tmp_path: Path) -> None:
    net, image = make(Net(1, 3)), torch.randn(2, 1, 64, 64)
    write_bundle(net.metadata, net.state_dict(), tmp_path / "model.zip")
    with pytest.raises(UserError, match=r"given as an object, mine\.Net.*backbone=Net\(\.\.\.\)"):
        load_slice_net(tmp_path / "model.zip", trusted=["mine."])
    loaded = load_slice_net(tmp_path / "model.zip", backbone=Net(1, 3))
    assert torch.equal(loaded(image), net(image))


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        (Net, {"pretrained": True}, r"model\.pretrained=true: mine\.Net is not a timm model"),
        (Net, {"drop_path_rate": 0.1}, r"model\.drop_path_rate=0\.1: mine\.Net is not a timm model"),
        (Net, {"weights_file": "w.pth"}, r"model\.weights_file=w\.pth: mine\.Net is not a timm model"),
        (partial(Net, depth=3), {}, r"mine\.Net cannot be built: .*unexpected keyword argument 'depth'"),
        (partial(Net, 1), {}, r"mine\.Net: give each argument by its name"),
        (partial(Flat, features=nn.ReLU()), {}, r"a file cannot keep features=ReLU\(\)"),
        (partial(Net, in_chans=9), {}, r"does not take images of shape \(1, 1, 64, 64\)"),
        (make_local_class(), {}, r"<locals>\.Local: .*define it at the top level of a module"),
        (partial(make_local_class(), features=3), {}, r"define it at the top level of a module"),
        (make_local_class()(), {}, r"<locals>\.Local: .*define it at the top level of a module"),
        (lambda: Flat(), {}, r"<lambda>: .*define it at the top level of a module"),
        (type("Größe", (Flat,), {"__module__": "mine"}), {}, r"mine\.Größe: .*ASCII letters"),
        (hide_class(), {}, r"mine\.Flat: a file cannot keep this name, .*does not import the same"),
        (give_list, {}, r"mine\.give_list makes a list; expected a torch\.nn\.Module"),
        (partial(nn.Flatten, start_dim=0), {}, r"into \(4096,\); expected \(1, F\) or \(1, F, h, w\)"),
    ],
)
def test_a_part_that_is_not_a_backbone_is_one_message(
    backbone: Any, settings: dict[str, Any], message: str
) -> None:
    spec = InputSpec(size=64, windows=("brain",))
    with pytest.raises(UserError, match=message):
        SliceClassifier(backbone, input=spec, **{"pretrained": False} | settings)


@pytest.mark.parametrize(
    ("change", "trusted", "message"),
    [
        ({"backbone": "os.system"}, ["mine."], r"a backbone that is not a timm model, os\.system"),
        ({"backbone": "mine.Linear"}, ["mine."], r"mine\.Linear, which is torch\.nn\..*Linear and so is not"),
        ({"backbone": "mine.Gone"}, ["mine."], "which is not there: install its package"),
        ({"backbone": "mine"}, ["mine."], "a backbone that is not a timm model, mine"),
        ({"backbone": "hf-hub:mine.Net"}, ["mine."], "expected the name of a timm model"),
        ({"own": {"arguments": [1]}}, ["mine."], r"model\.own\.arguments is \[1\]; expected fields"),
        ({}, ["mine"], r"trusted=mine: expected a prefix that ends with a dot"),
    ],
)
def test_a_file_cannot_have_other_code_run(
    change: dict[str, Any], trusted: list[str], message: str, tmp_path: Path
) -> None:
    net = make(Net)
    metadata = net.metadata.to_plain()
    metadata["model"] |= change
    torch.save({"state_dict": net.state_dict(), "metadata": metadata}, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=message):
        load_slice_net(tmp_path / "model.ckpt", trusted=trusted)


def test_a_file_does_not_talk_anybody_into_trusting_the_whole_of_python() -> None:
    with pytest.raises(UserError, match=r"give --trust os\.system \(in Python trusted=\['os\.system'\]\)"):
        find_maker("os.system", {}, (), "model.zip")
