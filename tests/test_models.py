from __future__ import annotations

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from pytorch_lightning import Callback
from sklearn.metrics import log_loss
from torch import nn
from torch.utils.data import DataLoader

from ich.models import SliceClassifier, load_slice_net
from ich.models.backbones import create_backbone
from ich.models.losses import SoftmaxCrossEntropy
from ich.models.optim import OptimSpec
from ich.schema import LABELS, InputSpec, UserError
from ich.train.trainer import build_trainer

SPEC = InputSpec(size=64)
TINY = "test_resnet"


def make(backbone: str = TINY, spec: InputSpec = SPEC, **kwargs) -> SliceClassifier:
    return SliceClassifier(backbone, input=spec, pretrained=False, **kwargs)


def make_batch(spec: InputSpec = SPEC, count: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (count, spec.in_chans, spec.size, spec.size)
    return {
        "image": torch.randn(shape, generator=generator),
        "target": (torch.rand((count, 6), generator=generator) < 0.5).float(),
        "row": torch.arange(count),
    }


def fit(model: SliceClassifier, batches: list[dict], epochs: int = 1, **kwargs) -> SliceClassifier:
    trainer = build_trainer(gpus=0, max_epochs=epochs, **kwargs)
    trainer.fit(model, DataLoader(batches, batch_size=None), DataLoader(batches[:1], batch_size=None))
    return model


def save(model: SliceClassifier, path: Path) -> Path:
    trainer = build_trainer(gpus=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "test_byobnet"]
)
def test_any_backbone_and_any_number_of_channels(backbone: str) -> None:
    size = 160 if backbone == "test_vit" else 64
    spec = InputSpec(size=size, neighbors=1, windows=("brain", "bone"))
    logits = make(backbone, spec)(torch.zeros(2, 6, size, size))
    assert logits.shape == (2, 6)


def test_head_starts_at_the_prevalences() -> None:
    model = make().eval()
    prevalences = (0.004, 0.05, 0.035, 0.05, 0.06, 0.14)
    model.start_at(prevalences)
    nn.init.zeros_(model.net.get_parameter("head.1.weight"))
    probs = model.net.to_probs(model(make_batch()["image"]))
    torch.testing.assert_close(probs.mean(dim=0), torch.tensor(prevalences))


def test_baseline_cnn_is_as_it_was_described() -> None:
    spec = InputSpec(size=128, windows=(), normalization="max_abs")
    model = make("baseline_cnn", spec)
    # By hand: 7x7x16 + 16, 5x5x16x32 + 32, then 128 -> 122 -> 61 -> 57 -> 28 pixels a side, 16 units, 6.
    expected = (49 * 16 + 16) + (25 * 16 * 32 + 32) + (28 * 28 * 32 * 16 + 16) + (16 * 6 + 6)
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model(torch.zeros(2, 1, 128, 128)).shape == (2, 6)


@pytest.mark.trains
def test_frozen_backbone_stays_as_it_is_and_the_head_learns() -> None:
    model = make(optim=OptimSpec(freeze_epochs=1, warmup_fraction=0.0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, [make_batch()] * 3)
    after = model.state_dict()
    for name, value in before.items():
        if name.startswith("backbone."):
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["head.1.weight"], before["head.1.weight"])
    fit(model.train(), [make_batch()] * 3, epochs=2)
    assert not torch.equal(model.state_dict()["backbone.conv1.0.weight"], before["backbone.conv1.0.weight"])


@pytest.mark.trains
def test_discriminative_learning_rates_reach_the_optimizer() -> None:
    model = make(optim=OptimSpec(lr=1e-3, backbone_lr_factor=0.1, schedule="constant", warmup_fraction=0.0))
    trainer = build_trainer(gpus=0, max_epochs=1)
    loader = DataLoader([make_batch()], batch_size=None)
    trainer.fit(model, loader, loader)
    rates = {group["part"]: group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {"backbone": pytest.approx(1e-4), "head": pytest.approx(1e-3)}


@pytest.mark.trains
def test_learnable_windows_are_trained() -> None:
    spec = InputSpec(size=64, learnable=True)
    model = make(spec=spec)
    batch = {**make_batch(), "hu": torch.randint(-100, 200, (4, 1, 64, 64), dtype=torch.int16)}
    del batch["image"]
    before = model.net.window.center.detach().clone()
    fit(model, [batch] * 5)
    assert not torch.equal(model.net.window.center.detach(), before)


class Recorder(Callback):
    """Keeps a weight as it is after each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, *args) -> None:
        self.weights.append(pl_module.net.get_parameter("head.1.weight").detach().clone())


@pytest.mark.trains
def test_moving_average_is_what_is_kept() -> None:
    model, recorder = make(), Recorder()
    trainer = build_trainer(gpus=0, max_epochs=1, ema_decay=0.9)
    trainer.callbacks.append(recorder)
    trainer.fit(
        model, DataLoader([make_batch()] * 5, batch_size=None), DataLoader([make_batch()], batch_size=None)
    )
    average = recorder.weights[0]
    for weight in recorder.weights[1:]:
        average = 0.9 * average + 0.1 * weight
    torch.testing.assert_close(model.net.get_parameter("head.1.weight").detach(), average)


@pytest.mark.trains
def test_test_step_gives_the_metrics_of_scikit_learn() -> None:
    model, batch = make().eval(), make_batch()
    (found,) = build_trainer(gpus=0).test(model, DataLoader([batch], batch_size=None), verbose=False)
    probs = model.net.to_probs(model(batch["image"])).detach().double().flatten()
    weights = np.tile([1, 1, 1, 1, 1, 2], len(batch["row"]))
    target = batch["target"].flatten().numpy()
    expected = log_loss(target, probs.numpy(), sample_weight=weights, labels=[0, 1])
    assert found["test_weighted_log_loss"] == pytest.approx(expected, rel=1e-5)


def test_softmax_link_gives_probabilities_that_sum_to_one() -> None:
    model = make(link="softmax", loss=SoftmaxCrossEntropy()).eval()
    probs = model.net.to_probs(model(make_batch()["image"]))
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(4))


def test_compiled_backbone_has_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    model = make(compile=True)
    assert compiled == [model.backbone]
    assert model.state_dict().keys() == make().state_dict().keys()


def test_checkpoint_is_all_it_takes_to_load(tmp_path: Path) -> None:
    spec = InputSpec(size=64, neighbors=1, windows=("brain", (50.0, 150.0)), normalization="unit")
    model = make(spec=spec, drop_rate=0.3).eval()
    loaded = load_slice_net(save(model, tmp_path / "model.ckpt"))
    assert loaded.input == spec
    image = make_batch(spec)["image"]
    assert torch.equal(loaded(image), model(image))


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its tensors are named as a network names them, whatever holds the network in training."""
    torch.manual_seed(0)
    spec = InputSpec(size=64, learnable=True)
    backbone = timm.create_model(TINY, pretrained=False, num_classes=0).eval()
    head, shift = nn.Linear(backbone.num_features, 6), torch.tensor([0.1, 0.0, -0.1])
    weights = {
        "loss.pos_weight": torch.ones(6),
        "window.shift": shift,
        "window.log_scale": torch.zeros(3),
        **{f"backbone.{name}": value for name, value in backbone.state_dict().items()},
        **{f"head.1.{name}": value for name, value in head.state_dict().items()},
    }
    settings = {"drop_rate": 0.0, "drop_path_rate": 0.0, "link": "sigmoid", "channels_last": True}
    before = spec.to_dict()  # with the names of then
    before |= {"neighbours": before.pop("neighbors"), "normalisation": before.pop("normalization")}
    card = {
        "format": "ich slice classifier 1",
        "version": "0.1.0",
        "labels": list(LABELS),
        "model": {"backbone": TINY, "input": before, **settings},
    }
    torch.save({"state_dict": weights, "card": card}, tmp_path / "old.ckpt")
    net = load_slice_net(tmp_path / "old.ckpt")
    image = net.window(torch.randint(-100, 200, (2, 1, 64, 64), dtype=torch.int16))
    assert torch.equal(net.window.center, net.window.first_center + net.window.first_width * shift)
    torch.testing.assert_close(net(image), head(backbone(image)))
    model = make(spec=spec, loss=nn.BCEWithLogitsLoss(pos_weight=2 * torch.ones(6)))
    assert list(model.state_dict()) == list(weights)
    model.load_state_dict(weights)
    assert torch.equal(model.eval()(image), net(image))
    assert model.loss.pos_weight.tolist() == [1.0] * 6


def test_fine_tuning_starts_from_the_given_weights(tmp_path: Path) -> None:
    model = make()
    path = save(model, tmp_path / "model.ckpt")
    tuned = make(init_from=str(path))
    assert not tuned.has_new_head
    assert all(torch.equal(v, tuned.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(UserError, match=r"set model\.backbone=test_resnet"):
        make("test_vit", InputSpec(size=160), init_from=str(path))
    with pytest.raises(UserError, match="does not fit"):
        make(spec=InputSpec(size=64, neighbors=1), init_from=str(path))


def test_weights_file_is_loaded(tmp_path: Path) -> None:
    source = timm.create_model(TINY, pretrained=False)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    backbone = create_backbone(
        TINY, in_chans=3, img_size=64, pretrained=True, weights_file=str(tmp_path / "weights.pth")
    )
    assert torch.equal(backbone.get_parameter("conv1.0.weight"), source.get_parameter("conv1.0.weight"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet81"}, r"resnet81.*nearest:.*resnet18"),
        ({"weights_file": "/nowhere/weights.pth"}, r"weights_file=/nowhere/weights\.pth does not exist"),
        ({"link": "probit"}, "model.link=probit"),
        ({"init_from": "/nowhere/best.ckpt"}, r"/nowhere/best\.ckpt does not exist"),
        ({"backbone": "baseline_cnn", "pretrained": True}, "no pretrained weights"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SliceClassifier(**{"backbone": TINY, "input": SPEC, "pretrained": False} | arguments)


def test_hub_out_of_reach_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"model\.weights_file=FILE.*model\.pretrained=false"):
        create_backbone("resnet18.a1_in1k", in_chans=3, img_size=64, pretrained=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.ckpt is not a checkpoint"):
        load_slice_net(path)


def test_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="another kind of checkpoint"):
        load_slice_net(tmp_path / "other.ckpt")
    torch.save(nn.Linear(1, 1), tmp_path / "pickle.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint that loads safely"):
        load_slice_net(tmp_path / "pickle.ckpt")
