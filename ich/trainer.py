"""Lightning's Trainer as this library runs it: devices, checkpoints, the log of metrics."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException

from ich.checkpoint import CHECKPOINTS
from ich.schema import MONITOR, UserError
from ich.tables import write_table

log = logging.getLogger(__name__)


class MetricsLog(Callback):
    """Writes the metrics of an epoch as a row of ``metrics.csv`` and a line of the log.

    Lightning's own CSV logger deletes the file of a run that goes on; this one keeps its rows.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, and drops rows that a resumed run is going to write again."""
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            table = pd.read_csv(self.path)
            write_table(table[table["epoch"] < trainer.current_epoch], self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row and the line."""
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": _head_lr(trainer), **values}
        rows = pd.DataFrame([row])
        if self.path.exists():
            rows = pd.concat([pd.read_csv(self.path), rows])
        write_table(rows, self.path)
        shown = ("train_loss", "val_loss", MONITOR, "val_auroc_any", "val_auroc_mean")
        figures = "  ".join(f"{name} {values[name]:.4f}" for name in shown if name in values)
        log.info("epoch %d of %s  %s", trainer.current_epoch + 1, trainer.max_epochs, figures)


class MovingAverage(WeightAveraging):
    """Lightning's exponential moving average of the weights, fit to be sent to spawned processes.

    Args:
        decay: Share of the average that a step keeps.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, avg_fn=partial(_average, decay))


def _average(decay: float, averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
    return torch.lerp(averaged.float(), current.float(), 1 - decay).to(averaged.dtype)


def _head_lr(trainer: Trainer) -> float:
    groups = trainer.optimizers[0].param_groups
    return float(max(group["lr"] for group in groups))


def build_trainer(
    *,
    run_dir: str | Path | None = None,
    gpus: int | None = None,
    devices: int | None = None,
    max_epochs: int = 5,
    precision: str | None = None,
    patience: int | None = None,
    ema_decay: float | None = None,
    loggers: Sequence[Any] = (),
    **lightning: Any,
) -> Trainer:
    """Builds Lightning's Trainer.

    Args:
        run_dir: Folder for metrics and checkpoints; without one nothing is written.
        gpus: None uses what is there, 0 the CPU, n that many GPUs.
        devices: Processes, one a device, in place of as many as ``gpus`` says.
        max_epochs: Epochs to train.
        precision: Lightning's; by default bf16 on a GPU that has it, else 32 bit.
        patience: Epochs without a better log loss after which the run stops; None trains to the end.
        ema_decay: Keep an exponential moving average of the weights; it is what is validated and saved.
        loggers: Lightning's loggers, beside ``metrics.csv``.
        **lightning: Any other argument of Lightning's Trainer.

    Returns:
        The trainer.

    Raises:
        UserError: If there are fewer GPUs than asked for, the precision needs one, or a number is out of
            range.
    """
    if max_epochs < 1:
        raise UserError(f"trainer.max_epochs={max_epochs}: expected 1 or more")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise UserError(f"trainer.ema_decay={ema_decay}: expected a number between 0 and 1")
    placement = place(gpus)
    if devices is not None:
        placement |= {"devices": devices, "strategy": "ddp_spawn" if devices > 1 else "auto"}
    if precision is None:
        bf16 = placement["accelerator"] == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if bf16 else "32-true"
    if precision == "16-mixed" and placement["accelerator"] == "cpu":
        raise UserError("trainer.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on a CPU")
    if lightning.get("strategy", "auto") != "auto":
        placement["strategy"] = lightning["strategy"]
    callbacks: list[Callback] = []
    if run_dir is not None:
        callbacks += [MetricsLog(Path(run_dir) / "metrics.csv"), *_checkpoints(Path(run_dir) / CHECKPOINTS)]
    if patience is not None:
        callbacks.append(EarlyStopping(MONITOR, patience=patience, mode="min"))
    if ema_decay is not None:
        callbacks.append(MovingAverage(ema_decay))
    bar = sys.stderr.isatty() and lightning.get("enable_progress_bar") is not False
    if bar:
        callbacks.append(RichProgressBar(leave=False))
    return Trainer(
        **{
            **lightning,
            **placement,
            "max_epochs": max_epochs,
            "precision": precision,
            "callbacks": callbacks,
            "logger": list(loggers) or False,
            "default_root_dir": run_dir,
            "enable_progress_bar": bar,
            "enable_model_summary": False,
            "enable_checkpointing": run_dir is not None,
            # Metrics are logged by epoch; by step there is nothing.
            "log_every_n_steps": 1,
        }
    )


def fit(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    *,
    settings: Mapping[str, Any],
    ckpt_path: Path | None = None,
) -> None:
    """Trains, in this process or in several.

    Args:
        trainer: From ``build_trainer``.
        model: To be trained.
        datamodule: Gives the batches.
        settings: Of the run, plain values; they go to its loggers.
        ckpt_path: Checkpoint to go on from.

    Raises:
        UserError: As raised by the model or the data module, also where that was in a spawned process.
    """
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(settings))
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except ProcessRaisedException as error:
        # All that comes out of a spawned process is the text of its traceback.
        if (raised := re.search(r"^ich\.schema\.(?:User|Read)Error: (.+)", error.msg, re.MULTILINE)) is None:
            raise
        raise UserError(raised[1], kept="training stopped; the terminal says why") from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next job of a multirun would write into this one


def place(gpus: int | None) -> dict[str, Any]:
    """Translates a number of GPUs into Lightning's ``accelerator``, ``devices`` and ``strategy``.

    Several GPUs are driven by spawned processes: started as commands they would run the whole of a Hydra
    multirun again.

    Raises:
        UserError: If there are fewer GPUs than asked for.
    """
    cuda = torch.cuda.device_count()
    there = cuda or int(torch.backends.mps.is_available())
    wanted = there if gpus is None else gpus
    if not 0 <= wanted <= there:
        raise UserError(
            f"trainer.gpus={gpus}: this machine has {there} GPUs; leave it out to use what is there, "
            "0 is the CPU"
        )
    if wanted == 0:
        return {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    accelerator = "cuda" if cuda else "mps"
    return {"accelerator": accelerator, "devices": wanted, "strategy": "ddp_spawn" if wanted > 1 else "auto"}


def _checkpoints(folder: Path) -> list[ModelCheckpoint]:
    best = ModelCheckpoint(folder, "best", monitor=MONITOR, mode="min", enable_version_counter=False)
    last = ModelCheckpoint(folder, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    return [best, last]
