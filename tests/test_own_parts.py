"""What users bring with them: callbacks, loggers, a loss; and runs for debugging."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from command import call
from omegaconf import OmegaConf
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    RichModelSummary,
    Timer,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger

from ich.model_files.durable import DurableIO
from ich.schema import UserError
from ich.train.settings import OF_A_RUN
from ich.train.trainer import build_trainer
from ich.train.trust import TRUSTED, Builder, allowing, check_trusted

TINY = [
    *("input.size=32", "model.backbone=test_resnet", "model.pretrained=false", "trainer.gpus=0"),
    *("data.num_workers=0", "data.batch_size=48", "trainer.max_epochs=1", "logger=csv"),
]


class OwnLoss(torch.nn.BCEWithLogitsLoss):
    """Somebody's, in a module of their own."""


class Settings(CSVLogger):
    """Somebody's logger, which takes no ``save_dir``."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)


class Last(Callback):
    """Keeps the trainer that it was used by."""

    trainer: Trainer | None = None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Last.trainer = trainer


class Keeper(Callback):
    """Keeps a value in the checkpoints of a run."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def state_dict(self) -> dict[str, Any]:
        return {"kept": KEPT[self.kind]}


KEPT = {
    "number": np.float64(0.5),
    "array": np.zeros(2),
    "path": Path("x"),
    "time": datetime(2026, 1, 1, tzinfo=UTC),
    "function": lambda: 0,
    "plain": [1, 0.5, "x", None, {"tensor": torch.zeros(2)}],
}


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own, which also holds what it has imported."""
    module = ModuleType("mine")
    module.__dict__.update(OwnLoss=OwnLoss, Settings=Settings, Last=Last, Keeper=Keeper, sys=sys)
    for each in (OwnLoss, Settings, Last, Keeper):
        monkeypatch.setattr(each, "__module__", "mine")
    monkeypatch.setitem(sys.modules, "mine", module)


@pytest.fixture
def small(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a tiny run in a folder of its own, with a folder ``my`` of the user's configuration."""
    monkeypatch.chdir(tmp_path)
    write("my/loss/plain.yaml", "_target_: torch.nn.BCEWithLogitsLoss")
    write("my/loss/own.yaml", "_target_: mine.OwnLoss")
    write("my/logger/own.yaml", "own: {_target_: mine.Settings, folder: logged}")
    write("my/callbacks/own.yaml", "own: {_target_: mine.Last}")
    write("my/callbacks/keeper.yaml", "keeper: {_target_: mine.Keeper, kind: plain}")
    return ["train", "--config-dir", "my", "data=rsna", f"data.root={phantom}", *TINY]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text + "\n")


def test_given_parts_are_used_beside_those_that_a_run_needs(tmp_path: Path) -> None:
    timer, logger, bar = Timer(), CSVLogger(tmp_path), TQDMProgressBar()
    other = ModelCheckpoint(dirpath=tmp_path / "mine")
    trainer = build_trainer(
        run_dir=tmp_path / "run",
        gpus=0,
        patience=3,
        callbacks=[timer, bar, other, EarlyStopping("val_loss")],
        logger=logger,
        log_every_n_steps=50,
        enable_model_summary=True,
        plugins=[],
    )
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert {timer, bar, other} <= set(trainer.callbacks)
    assert {"LossWatch", "MetricsLog", "Checkpoints", "Patience", RichModelSummary.__name__} <= set(names)
    assert trainer.loggers == [logger]
    assert trainer.log_every_n_steps == 50
    alone = build_trainer(gpus=0, callbacks=timer)
    assert [type(callback).__name__ for callback in alone.callbacks] == ["LossWatch", "Timer"]
    assert (alone.loggers, alone.log_every_n_steps) == ([], 1)
    assert build_trainer(gpus=0, callbacks=[ModelCheckpoint(tmp_path)]).checkpoint_callback is not None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"default_root_dir": "x"}, r"trainer\.default_root_dir=x beside run_dir="),
        ({"enable_checkpointing": False}, r"trainer\.enable_checkpointing=false with run_dir="),
        (
            {"callbacks": ModelCheckpoint()},
            r"ModelCheckpoint\(dirpath=None\) would write beside the run's own best\.ckpt",
        ),
        ({"callbacks": EMAWeightAveraging(), "ema_decay": 0.9}, r"trainer\.ema_decay and a WeightAveraging"),
        ({"plugins": DurableIO()}, r"trainer\.plugins has a CheckpointIO"),
        ({"accelerator": "cpu"}, r"trainer\.accelerator=cpu: gpus chooses the devices"),
        ({"overfit_batches": 2, "devices": 2}, r"trainer\.overfit_batches needs a single device"),
    ],
)
def test_what_cannot_stand_there_is_refused_by_name(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        build_trainer(run_dir="run", gpus=0, **given)


def test_other_checkpoints_have_a_folder_of_their_own(tmp_path: Path) -> None:
    taken = tmp_path / "checkpoints"
    with pytest.raises(UserError, match=f"give it a dirpath other than {taken}"):
        build_trainer(run_dir=tmp_path, gpus=0, callbacks=ModelCheckpoint(taken))


@pytest.mark.trains
def test_callbacks_and_loggers_of_the_configuration_are_used(small: list[str], mine: None) -> None:
    own = ["callbacks=[timer,model_summary,own]", "logger=own", "trainer.log_every_n_steps=5"]
    assert call(*small, "run_dir=run", *own, "trusted=[mine.]") == 0
    trainer = Last.trainer
    assert trainer is not None
    assert {"Timer", "RichModelSummary", "Last"} <= {
        type(callback).__name__ for callback in trainer.callbacks
    }
    assert [type(logger).__name__ for logger in trainer.loggers] == ["Settings"]
    assert trainer.log_every_n_steps == 5
    assert list(Path("logged").rglob("hparams.yaml"))


@pytest.mark.trains
def test_a_callback_that_does_not_fit_is_one_message(
    small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert call(*small, "run_dir=run", "callbacks=timer", "callbacks.timer.duration=soon") == 2
    assert call(*small, "run_dir=run", "callbacks=learning_rate_monitor") == 2
    other = "callbacks.early_stopping.monitor=val_f1"
    assert call(*small, "run_dir=other", "callbacks=early_stopping", other) == 2
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors[0].startswith("callbacks.timer cannot be built: pytorch_lightning.callbacks.Timer: ")
    assert errors[1].startswith("a callback or logger does not fit: Cannot use `LearningRateMonitor`")
    assert errors[2].startswith("Early stopping conditioned on metric `val_f1` which is not available.")


@pytest.mark.trains
def test_a_callback_whose_state_cannot_be_loaded_again_is_refused_before_a_save(
    small: list[str], mine: None, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = [*small, "run_dir=run", "callbacks=keeper", "trusted=[mine.]"]
    assert call(*keeper, "callbacks.keeper.kind=number") == 2
    assert "the state_dict of the callback Keeper holds values that" in caplog.text
    assert not list(Path("run").rglob("*.ckpt"))


@pytest.mark.trains
def test_a_callback_with_plain_values_as_state_resumes(small: list[str], mine: None) -> None:
    assert call(*small, "run_dir=run", "callbacks=keeper", "trusted=[mine.]") == 0
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2", "trusted=[mine.]") == 0


@pytest.mark.parametrize("kind", KEPT)
def test_states_that_are_refused_are_those_that_a_checkpoint_does_not_give_back(
    kind: str, tmp_path: Path
) -> None:
    trainer = build_trainer(run_dir=tmp_path / "run", gpus=0, callbacks=Keeper(kind))
    (saving,) = (each for each in trainer.callbacks if type(each).__name__ == "Checkpoints")
    states = {each.state_key: each.state_dict() for each in trainer.callbacks}
    with nullcontext() if kind == "plain" else pytest.raises(UserError, match="callback Keeper holds"):
        saving.on_save_checkpoint(trainer, LightningModule(), {"callbacks": states})


@pytest.mark.trains
def test_a_loss_of_torch_trains_and_resumes(small: list[str]) -> None:
    assert call(*small, "run_dir=run", "loss=plain") == 0
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
    assert pd.read_csv("run/metrics.csv")["epoch"].tolist() == [0, 1]


@pytest.mark.trains
def test_a_loss_of_ones_own_is_trusted_by_the_user_and_never_by_the_run(
    small: list[str], mine: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(*small, "run_dir=run", "loss=own") == 2
    assert "add trusted=[mine.] to the command line" in caplog.text
    assert not Path("run").exists()
    assert call(*small, "run_dir=run", "loss=own", "trusted=[mine.]") == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["trusted"] == ["mine."]
    caplog.clear()
    on = ["ckpt_path=run", "trainer.max_epochs=2"]
    assert call("train", *on) == 2
    assert "_target_=mine.OwnLoss is not on the list" in caplog.text
    write("my/local/default.yaml", "# @package _global_\ntrusted: [mine.]")
    assert call("train", "--config-dir", "my", *on) == 0
    assert call("train", "ckpt_path=run", "trainer.max_epochs=3", "trusted=mine.") == 0
    assert pd.read_csv("run/metrics.csv")["epoch"].tolist() == [0, 1, 2]


def test_a_run_cannot_carry_the_environment_away(small: list[str], caplog: pytest.LogCaptureFixture) -> None:
    config = dict.fromkeys(OF_A_RUN) | {"logger": {"x": {"tracking_uri": "http://x/${oc.env:HOME}"}}}
    write("run/config.yaml", yaml.safe_dump(config))
    assert call("train", "ckpt_path=run") == 2
    assert "run/config.yaml holds ${...}, which no run writes" in caplog.text


@pytest.mark.trains
def test_an_older_run_without_callbacks_resumes(small: list[str]) -> None:
    assert call(*small, "run_dir=run") == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    del config["callbacks"], config["trusted"]
    text = yaml.safe_dump(config)
    for new, old in (("models.losses", "losses"), ("models.optim", "optim"), ("train.trainer", "trainer")):
        assert f"_target_: ich.{new}." in text
        text = text.replace(f"_target_: ich.{new}.", f"_target_: ich.{old}.")
    Path("run/config.yaml").write_text(text)
    assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0


@pytest.mark.parametrize(
    ("target", "trusted", "reason"),
    [
        ("os.system", (), r"is not on the list .* add trusted=\[os\.system\]"),
        ("torch.load", (), r"is not on the list .* add trusted=\[torch\.load\]"),
        ("torch.hub.load", (), "is not on the list"),
        ("pytorch_lightning.Trainer", (), "is not on the list"),
        # What a module has imported, and functions of ours that read and write files.
        ("ich.train.os.system", (), "which is posix.system, is not on the list"),
        (
            "pytorch_lightning.callbacks.timer.timedelta",
            (),
            "which is datetime.timedelta, is not on the list",
        ),
        ("ich.phantom.write_phantom", (), "is not on the list"),
        ("ich.data.HeadCTDataModule.load_from_checkpoint", (), "is not on the list"),
        ("torch.nn.utils.prune.Identity.apply", (), "is not on the list"),
        ("mine.sys.exit", ("mine.",), "which is sys.exit, is not on the list"),
        ("mine.Settings", (), r"add trusted=\[mine\.\]"),
        ("mine.Last", ("mine.Settings",), "is not on the list"),
        ("torch.nn.NoSuchLoss", (), "is not installed here"),
    ],
)
def test_what_is_not_on_the_list_is_not_built(
    target: str, trusted: Sequence[str], reason: str, mine: None
) -> None:
    for settings in ({"_target_": target}, {"_target_": "torch.nn.Identity", "x": [{"_target_": target}]}):
        with pytest.raises(UserError, match=reason):
            Builder(OmegaConf.create({"trusted": list(trusted), "loss": settings}))("loss")


def test_what_is_on_the_list_is_built(mine: None) -> None:
    for target, trusted in [
        ("ich.models.losses.FocalLoss", ()),
        ("torch.nn.BCEWithLogitsLoss", ()),
        ("timm.loss.AsymmetricLossMultiLabel", ()),
        ("pytorch_lightning.callbacks.Timer", ()),
        ("albumentations.HorizontalFlip", ()),
        ("mine.OwnLoss", ("mine.",)),
        ("mine.OwnLoss", ("mine.OwnLoss",)),
    ]:
        cfg = OmegaConf.create({"trusted": list(trusted), "loss": {"_target_": target}})
        built = Builder(cfg)("loss")
        assert type(built).__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (3, "loss names nothing to build: give it a _target_"),
        ({"weight": 3}, "loss names nothing to build: give it a _target_"),
        ({"_target_": "torch.nn.MSELoss", "weights": 3}, "loss cannot be built: .*MSELoss: .*'weights'"),
        ({"_target_": "pytorch_lightning.callbacks.Timer"}, "Timer is not a torch.nn.modules.module.Module"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(settings: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Builder(OmegaConf.create({"trusted": [], "loss": settings}))("loss", torch.nn.Module)


@pytest.mark.parametrize("trusted", [["mine"], ["*"], ["."], [""], [3], ["a b."], "os"])
def test_what_is_trusted_is_a_prefix_or_a_name(trusted: Any) -> None:
    with pytest.raises(UserError, match="expected a prefix that ends with a dot"):
        check_trusted(trusted)


def test_hydra_gets_the_same_list(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    def execution_whitelist(entries: list[str]) -> Any:
        told.append(entries)
        return nullcontext()

    monkeypatch.setattr(hydra.utils, "execution_whitelist", execution_whitelist, raising=False)
    with allowing(["mine.", "yours.Loss"]):
        pass
    assert told == [[*(f"{prefix}*" for prefix in TRUSTED), "mine.*", "yours.Loss"]]


@pytest.mark.trains
@pytest.mark.parametrize("how", ["debug=fast", "trainer.fast_dev_run=true"])
def test_a_fast_run_uses_one_batch_of_each_part(
    small: list[str], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(*small, "run_dir=run", "data.batch_size=8", how) == 0
    assert "the figures mean nothing" in caplog.text
    assert pd.read_csv("run/metrics.csv")["step"].tolist() == [1]
    assert len(pd.read_csv("run/predictions_val.csv")) == 8
    assert len(pd.read_csv("run/predictions_test.csv")) == 8


@pytest.mark.trains
def test_overfitting_sees_the_same_batches_in_each_epoch(
    small: list[str], mine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[list[int]] = []

    def see(self: Last, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        rows.append(batch["row"].tolist())

    monkeypatch.setattr(Last, "on_train_batch_end", see)
    own = ["callbacks=own", "trusted=[mine.]", "data.batch_size=8", "trainer.max_epochs=3"]
    assert call(*small, "run_dir=run", "debug=overfit", *own) == 0
    assert len(rows) == 6
    assert rows[:2] == rows[2:4] == rows[4:]
    assert len(pd.read_csv("run/predictions_val.csv")) == 16
