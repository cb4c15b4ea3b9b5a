"""Lightning's Trainer as this library runs it: devices, checkpoints, the log of metrics."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import WandbLogger
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ich.checkpoint import CHECKPOINTS, DurableIO
from ich.schema import UserError
from ich.trainer.callbacks import LossWatch, MetricsLog, MovingAverage, Patience
from ich.trainer.saving import Checkpoints
from ich.trainer.signals import STOPS, exit_at_once, exit_code, handling_stops

SIXTEEN_BIT_WEIGHTS = ("16-true", "bf16-true")
"""Precisions of Lightning with weights of 16 bits. bfloat16 has 8 bits of precision: a step of less than
1/512 of a weight leaves it as it was, and AdamW takes such steps at most of the rates of a schedule."""


def build_trainer(
    *,
    run_dir: str | Path | None = None,
    gpus: int | None = None,
    devices: int | None = None,
    max_epochs: int = 5,
    precision: str | None = None,
    patience: int | None = None,
    ema_decay: float | None = None,
    save_minutes: float = 10.0,
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
        save_minutes: Minutes between saves within an epoch; at its end a run is saved anyway.
        loggers: Lightning's loggers, beside ``metrics.csv``.
        **lightning: Any other argument of Lightning's Trainer.

    Returns:
        The trainer.

    Raises:
        UserError: If there are fewer GPUs than asked for, the precision needs one or keeps weights in 16
            bits, or a number is out of range.
    """
    if max_epochs < 1:
        raise UserError(f"trainer.max_epochs={max_epochs}: expected 1 or more")
    if ema_decay is not None and not 0 < ema_decay < 1:
        raise UserError(f"trainer.ema_decay={ema_decay}: expected a number between 0 and 1")
    if not save_minutes >= 0:
        raise UserError(f"trainer.save_minutes={save_minutes}: expected 0, after every step, or more")
    placement = place(gpus)
    if devices is not None:
        placement |= {"devices": devices, "strategy": "ddp_spawn" if devices > 1 else "auto"}
    if precision is None:
        bf16 = placement["accelerator"] == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16-mixed" if bf16 else "32-true"
    if precision == "16-mixed" and placement["accelerator"] == "cpu":
        raise UserError("trainer.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on a CPU")
    if precision in SIXTEEN_BIT_WEIGHTS:
        raise UserError(
            f"trainer.precision={precision} keeps the weights themselves in 16 bits, which loses the small "
            f"steps of training; use {precision.partition('-')[0]}-mixed, which computes in 16 bits and "
            "keeps weights in 32"
        )
    if lightning.get("strategy", "auto") != "auto":
        placement["strategy"] = lightning["strategy"]
    watch = LossWatch()
    callbacks: list[Callback] = [watch]
    if run_dir is not None:
        callbacks.append(MetricsLog(Path(run_dir) / "metrics.csv"))
        callbacks.append(Checkpoints(Path(run_dir) / CHECKPOINTS, save_minutes, watch))
    if patience is not None:
        callbacks.append(Patience(patience))
    if ema_decay is not None:
        callbacks.append(MovingAverage(ema_decay))
    bar = sys.stderr.isatty() and lightning.get("enable_progress_bar") is not False
    if bar:
        callbacks.append(_Bar(leave=False))
    return Trainer(
        **{
            **lightning,
            **placement,
            "max_epochs": max_epochs,
            "precision": precision,
            "callbacks": callbacks,
            "plugins": [*_as_list(lightning.get("plugins")), DurableIO()],
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
        SystemExit: Where a signal has stopped it; what was reached is saved.
    """
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(settings))
    try:
        with handling_stops(_forward(trainer)):
            trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except ProcessExitedException as error:
        if error.exit_code not in [code for stop in STOPS for code in (exit_code(stop), -stop)]:
            raise
        raise SystemExit(exit_code(-error.exit_code) if error.exit_code < 0 else error.exit_code) from None
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


class _Bar(RichProgressBar):
    """Lightning's bar without the logger's version, which is the last letters of a folder's name here."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _forward(trainer: Trainer) -> Callable[[int], None]:
    """What to do with a signal: pass it to the processes that train, or exit where this one does."""
    launcher = trainer.strategy.launcher
    return exit_at_once if launcher is None else launcher.kill


def _as_list(plugins: Any) -> list[Any]:
    if plugins is None:
        return []
    return plugins if isinstance(plugins, list) else [plugins]
