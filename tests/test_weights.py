"""Weights of a backbone in a file: all of them, or an error; and what is said of them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
import yaml
from command import call
from torch import Tensor, nn

from ich.evaluation_report.run import read_run
from ich.model_files.bundle import read_bundle
from ich.models import SliceClassifier
from ich.models.backbones import create_backbone
from ich.schema import InputSpec, UserError
from ich.train.trainer import build_trainer

TINY = "test_resnet"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """What timm would publish: a backbone with a classifier of 1,000 classes."""
    return timm.create_model(TINY, pretrained=False).state_dict()


def load(path: Path, weights: dict, *, in_chans: int = 3, name: str = TINY) -> nn.Module:
    torch.save(weights, path)
    return create_backbone(name, in_chans=in_chans, img_size=64, pretrained=True, weights_file=str(path))


def is_loaded(backbone: nn.Module, published: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, published[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "base_encoder."),
        *("module.encoder_q.", "model.backbone.", "module.base_encoder.", "teacher.backbone."),
    ],
)
def test_known_prefixes_are_stripped(tmp_path: Path, published: dict[str, Tensor], prefix: str) -> None:
    beside = {"queue": torch.zeros(2), "projector.0.weight": torch.zeros(2, 2)} if prefix else {}
    weights = {f"{prefix}{name}": value for name, value in published.items()} | beside
    assert is_loaded(load(tmp_path / "w.pth", {"state_dict": weights, "epoch": 3}), published)


def test_the_query_encoder_is_taken_of_the_two_of_moco(tmp_path: Path, published: dict[str, Tensor]) -> None:
    key = {f"module.encoder_k.{name}": torch.zeros_like(value) for name, value in published.items()}
    query = {f"module.encoder_q.{name}": value for name, value in published.items()}
    head = {"module.encoder_q.fc.0.weight": torch.zeros(3, 3)}
    assert is_loaded(load(tmp_path / "w.pth", {"state_dict": key | query | head}), published)


def test_safetensors_are_read(tmp_path: Path, published: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(published, tmp_path / "w.safetensors")
    file = str(tmp_path / "w.safetensors")
    backbone = create_backbone(TINY, in_chans=3, img_size=64, pretrained=True, weights_file=file)
    assert is_loaded(backbone, published)


def test_only_the_stem_is_changed(tmp_path: Path, published: dict[str, Tensor]) -> None:
    """A gray image gives the same features through any number of channels."""
    gray = torch.rand(1, 1, 64, 64)
    single = timm.create_model(TINY, pretrained=False, in_chans=1).state_dict()
    nine = timm.create_model(TINY, pretrained=False, in_chans=9).state_dict()
    with torch.no_grad():
        for weights in (published, single, nine):
            found = []
            for in_chans in (1, 3, 9):
                backbone = load(tmp_path / "w.pth", weights, in_chans=in_chans).eval()
                found.append(backbone(gray.expand(-1, in_chans, -1, -1)))
            assert torch.allclose(found[0], found[1], atol=1e-4)
            assert torch.allclose(found[0], found[2], atol=1e-4)
    assert is_loaded(load(tmp_path / "w.pth", nine, in_chans=9), nine)


def _rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"my.own.{name}": value for name, value in weights.items()}


def _cut(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith("layer4")}


def _deepen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    block = {name.replace("layer4.0", "layer4.1"): v for name, v in weights.items() if "layer4.0" in name}
    return weights | block


def _widen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return weights | {"layer1.0.bn1.weight": torch.zeros(7)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename, r"0 of its \d+ tensors fit; \d+ are not in the file \(conv1\.0\.weight, .*my\.own\.conv1"),
        (_cut, r"\d+ are not in the file \(layer4\.0"),
        (_deepen, r"\d+ of the file do not belong to test_resnet \(layer4\.1"),
        (_widen, r"1 have another shape in it \(layer1\.0\.bn1\.weight \(7,\) for \("),
        (lambda weights: {"fc.weight": weights["fc.weight"]}, "0 of its"),
        (lambda weights: {"epoch": 3, "args": {"lr": 0.1}}, "holds no tensors by name; found args, epoch"),
        (lambda weights: [1, 2], "cannot be read"),
    ],
)
def test_what_does_not_fit_is_an_error_with_counts_and_names(
    tmp_path: Path, published: dict[str, Tensor], change, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path / "w.pth", change(published))


def test_weights_of_another_family_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\d+ of its \d+ tensors fit; \d+ are not in the file"):
        load(tmp_path / "w.pth", timm.create_model("test_efficientnet").state_dict())


def test_a_file_of_another_digest_is_refused(tmp_path: Path, published: dict[str, Tensor]) -> None:
    torch.save(published, tmp_path / "w.pth")
    found = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    settings = {"input": InputSpec(size=64), "weights_file": str(tmp_path / "w.pth")}
    assert SliceClassifier(TINY, **settings, weights_sha256=found)
    with pytest.raises(UserError, match=f"{found}.*weights_sha256={'0' * 64}"):
        SliceClassifier(TINY, **settings, weights_sha256="0" * 64)


@pytest.mark.trains
def test_the_model_card_says_what_was_loaded(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: dict[str, Tensor]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(published, "w.pth")
    digest = hashlib.sha256(Path("w.pth").read_bytes()).hexdigest()
    tiny = [f"model.backbone={TINY}", "trainer.max_epochs=1", "trainer.gpus=0", "data.num_workers=0"]
    start = ["model.weights_file=w.pth", "run_dir=run"]
    data = ["data=rsna", f"data.root={phantom}", "input.size=32", "logger=csv"]
    assert call("train", *data, *tiny, *start) == 0
    said = f"all weights of the backbone from a user's file, SHA-256 {digest}"
    assert said in Path("run/model_card.md").read_text()
    assert read_run(Path("run")).settings["start"] == said
    assert yaml.safe_load(Path("run/config.yaml").read_text())["model"]["weights_sha256"] == digest
    assert call("bundle", "run", "model.zip") == 0
    assert said in read_bundle("model.zip").model_card
    Path("w.pth").unlink()  # a run that goes on needs it no more
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
    assert said in Path("run/model_card.md").read_text()


def test_one_failed_look_for_the_hub_does_not_keep_later_jobs_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="are not available"):
        create_backbone("resnet18.a1_in1k", in_chans=3, img_size=64, pretrained=True)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("setting", ["seed=-1", "seed=4294967296", "seed=null", "data.seed=-1"])
def test_a_seed_that_no_generator_takes_is_one_message(
    setting: str, phantom: Path, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [f"model.backbone={TINY}", "model.pretrained=false", "trainer.gpus=0"]
    with caplog.at_level(logging.ERROR):
        assert call("train", "data=rsna", f"data.root={phantom}", "input.size=64", *tiny, setting) == 2
    assert "seed=" in caplog.text
    assert "expected a whole number from 0 to 4294967295" in caplog.text


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_refused(precision: str) -> None:
    wanted = f"{precision.partition('-')[0]}-mixed"
    with pytest.raises(UserError, match=f"trainer.precision={precision} .*use {wanted}"):
        build_trainer(gpus=0, precision=precision)


@pytest.mark.trains
def test_weights_of_64_bits_train(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = [f"model.backbone={TINY}", "model.pretrained=false", "trainer.max_epochs=1", "trainer.gpus=0"]
    data = ["data=rsna", f"data.root={phantom}", "input.size=32", "data.num_workers=0", "run_dir=run"]
    assert call("train", *data, *tiny, "trainer.precision=64-true") == 0
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert saved["head.1.weight"].dtype == torch.float64
    assert call("bundle", "run", "model.zip") == 0
