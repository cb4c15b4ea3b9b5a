"""Lightning's Trainer for this library: devices, checkpoints and the log of metrics."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ProgressBar, RichProgressBar
from pytorch_lightning.loggers import Logger, WandbLogger
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from ich.model_files.checkpoint import CHECKPOINTS
from ich.model_files.durable import DurableIO
from ich.schema import UserError
from ich.schema.exits import find_signal_code
from ich.train.trainer.beside import as_list, has_checkpoint_io, has_environment, require_no_collision
from ich.train.trainer.callbacks import LossWatch, MetricsLog, MovingAverage, Patience
from ich.train.trainer.launch import Launch, find_launch, leave_group
from ich.train.trainer.saving import Checkpoints
from ich.train.trainer.signals import STOPS, exit_at_once, handling_stops

__all__ = ["build_single_trainer", "build_trainer", "fit"]

SIXTEEN_BIT_WEIGHTS = ("16-true", "bf16-true")
"""Precisions of Lightning with weights of 16 bits. bfloat16 has 8 bits of precision: a step of less than
1/512 of a weight does not change it, and AdamW takes such steps at most learning rates of a schedule."""


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
    callbacks: Callback | Sequence[Callback] = (),
    logger: Logger | Sequence[Logger] | bool | None = None,
    **lightning: Any,
) -> Trainer:
    """Builds Lightning's Trainer.

    Args:
        run_dir: Folder for metrics and checkpoints; without it, nothing is written.
        gpus: None uses the GPUs that are there, 0 the CPU, and n that many GPUs.
        devices: Number of processes on a machine, one per device, instead of the number in ``gpus``. torchrun
            and SLURM decide it for the processes that they start.
        max_epochs: Number of epochs.
        precision: Lightning's precision; by default bf16 on a GPU that supports it, else 32 bit.
        patience: Stop after this many epochs without a better log loss; None trains to the end.
        ema_decay: Decay of an exponential moving average of the weights, which is validated and saved.
        save_minutes: Minutes between saves within an epoch; a run is always saved at the end of an epoch.
        callbacks: Your callbacks, beside those of a run.
        logger: Your loggers, beside ``metrics.csv``.
        **lightning: Any other argument of Lightning's Trainer.

    Returns:
        The trainer.

    Raises:
        UserError: If there are fewer GPUs than requested, the precision needs one or keeps weights in 16
            bits, a number is out of range, or an argument conflicts with the needs of a run.
    """
    _require_range("max_epochs", max_epochs, "1 or more", max_epochs >= 1)
    decays = ema_decay is None or 0 < ema_decay < 1
    _require_range("ema_decay", ema_decay, "a number between 0 and 1", decays)
    _require_range("save_minutes", save_minutes, "0, after every step, or more", save_minutes >= 0)
    lightning = {name: value for name, value in lightning.items() if value is not None}
    given, plugins = as_list(callbacks), as_list(lightning.pop("plugins", None))
    launch = None if has_environment(plugins) else find_launch()
    placement = place(gpus) if launch is None else place_launched(gpus, launch)
    if devices is not None and launch is None:
        placement |= {"devices": devices, "strategy": "ddp_spawn" if devices > 1 else "auto"}
    _require_launched(launch, lightning.pop("num_nodes", None), devices)
    if (strategy := lightning.get("strategy", "auto")) != "auto":
        placement["strategy"] = strategy if launch is not None else _spawn(strategy, placement["devices"])
    require_no_collision(run_dir, given, plugins, lightning, averages=ema_decay is not None)
    if lightning.get("overfit_batches") and placement["devices"] > 1:
        raise UserError("trainer.overfit_batches needs a single device; add trainer.gpus=1")
    watch = LossWatch()
    every: list[Callback] = [watch, *given]  # before the log of metrics: it has what they log
    if run_dir is not None:
        every.append(MetricsLog(Path(run_dir) / "metrics.csv"))
        every.append(Checkpoints(Path(run_dir) / CHECKPOINTS, save_minutes, watch))
    every += [] if patience is None else [Patience(patience)]
    every += [] if ema_decay is None else [MovingAverage(ema_decay)]
    bar = _add_bar(every, lightning.get("enable_progress_bar"))
    defaults = {
        "log_every_n_steps": 1,  # metrics are logged by epoch; by step there is nothing
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in every),
        "default_root_dir": run_dir,
    }
    own = {
        "max_epochs": max_epochs,
        "precision": _choose_precision(precision, placement["accelerator"]),
        "callbacks": every,
        "plugins": plugins if has_checkpoint_io(plugins) else [*plugins, DurableIO()],
        "logger": as_list(logger) if not isinstance(logger, bool) else logger,
        "enable_progress_bar": bar,
    }
    return Trainer(**{**defaults, **lightning, **placement, **own})


def build_single_trainer(gpus: int | None, **arguments: Any) -> Trainer:
    """Builds a trainer of one device, also in one of several processes that a launcher has started.

    Args:
        gpus: As in ``build_trainer``; more than one counts as one.
        **arguments: Further arguments of ``build_trainer``.
    """
    gpus = gpus if gpus is None else min(gpus, 1)
    return build_trainer(gpus=gpus, devices=1, plugins=[LightningEnvironment()], **arguments)


def _spawn(strategy: Any, devices: int) -> Any:
    """Returns a strategy whose processes this one can spawn; Lightning would start the command once more.

    Raises:
        UserError: If several processes need a launcher.
    """
    if not isinstance(strategy, str) or any(way in strategy for way in ("spawn", "fork", "notebook")):
        return strategy
    if strategy.startswith("ddp"):
        return strategy.replace("ddp", "ddp_spawn", 1) if devices > 1 else "auto"
    if devices > 1 and strategy.startswith(("fsdp", "deepspeed")):
        raise UserError(
            f"trainer.strategy={strategy} needs a launcher: torchrun --nproc-per-node={devices} train.py ... "
            "run_dir=DIR"
        )
    return strategy


def _require_launched(launch: Launch | None, nodes: int | None, devices: int | None) -> None:
    """Refuses numbers that disagree with the processes that a launcher has started, or has not."""
    if launch is None:
        if nodes not in (None, 1):
            raise UserError(
                f"trainer.num_nodes={nodes}: this command alone trains on one machine; start it on each "
                "machine with torchrun or srun, which know their number"
            )
        return
    for name, number, started in (
        ("num_nodes", nodes, launch.nodes),
        ("devices", devices, launch.per_node),
    ):
        if number is not None and number != started:
            raise UserError(
                f"trainer.{name}={number}: the launcher has started {started}; leave out trainer.{name}"
            )


def _require_range(name: str, value: Any, expected: str, holds: bool) -> None:
    if not holds:
        raise UserError(f"trainer.{name}={value}: expected {expected}")


def _choose_precision(precision: str | None, accelerator: str) -> str:
    if precision is None:
        bf16 = accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if bf16 else "32-true"
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision=16-mixed needs a GPU; use bf16-mixed or 32-true on a CPU")
    if precision in SIXTEEN_BIT_WEIGHTS:
        raise UserError(
            f"trainer.precision={precision} keeps the weights themselves in 16 bits, which loses the small "
            f"steps of training; use {precision.partition('-')[0]}-mixed, which computes in 16 bits and "
            "keeps weights in 32"
        )
    return precision


def _add_bar(callbacks: list[Callback], wanted: bool | None) -> bool:
    """Adds a progress bar on a terminal if there is none; returns whether there is one."""
    if any(isinstance(callback, ProgressBar) for callback in callbacks):
        return wanted is not False
    if sys.stderr.isatty() and wanted is not False:
        callbacks.append(_Bar(leave=False))
        return True
    return False


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
        model: Model to train.
        datamodule: Provides the batches.
        settings: The run's settings as plain values, for its loggers.
        ckpt_path: Checkpoint to resume from.

    Raises:
        UserError: As raised by the model or the data module, also in a spawned process, and for callbacks
            that Lightning refuses.
        SystemExit: If a signal has stopped it; the state is saved.
    """
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(settings))
    try:
        with handling_stops(_forward(trainer)):
            trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        leave_group()
    except ProcessExitedException as error:
        if error.exit_code not in [code for stop in STOPS for code in (find_signal_code(stop), -stop)]:
            raise
        raise SystemExit(
            find_signal_code(-error.exit_code) if error.exit_code < 0 else error.exit_code
        ) from None
    except ProcessRaisedException as error:
        # All that comes out of a spawned process is the text of its traceback.
        pattern = rf"^{re.escape(UserError.__module__)}\.(?:User|Read)Error: (.+)"
        if (raised := re.search(pattern, error.msg, re.MULTILINE)) is None:
            raise
        raise UserError(raised[1], kept="training stopped; the terminal shows the reason") from error
    except (MisconfigurationException, ModuleNotFoundError) as error:  # such as a callback without a logger
        raise UserError(f"a callback or logger does not fit: {error}") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise UserError(str(error)) from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # or the next job of a multirun would write into this one


def limit_of_debugging(trainer: Trainer) -> int | float | None:
    """Number or share of batches for a debugging run; None for any other run."""
    debugging = trainer.fast_dev_run or trainer.overfit_batches  # type: ignore[attr-defined]
    return trainer.limit_val_batches if debugging else None


def place(gpus: int | None) -> dict[str, Any]:
    """Translates a number of GPUs into Lightning's ``accelerator``, ``devices`` and ``strategy``.

    Several GPUs use spawned processes. As commands they would start a whole Hydra multirun again.

    Raises:
        UserError: If there are fewer GPUs than requested.
    """
    cuda = torch.cuda.device_count()
    there = cuda or int(torch.backends.mps.is_available())
    wanted = there if gpus is None else gpus
    if not 0 <= wanted <= there:
        raise UserError(
            f"trainer.gpus={gpus}: this machine has {there} GPUs; leave it out to use the GPUs that are "
            "there, or use 0 for the CPU"
        )
    if wanted == 0:
        return {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    accelerator = "cuda" if cuda else "mps"
    return {"accelerator": accelerator, "devices": wanted, "strategy": "ddp_spawn" if wanted > 1 else "auto"}


def place_launched(gpus: int | None, launch: Launch) -> dict[str, Any]:
    """Translates the processes that a launcher has started into Lightning's arguments.

    Args:
        gpus: 0 for the CPU; by default GPUs where there are any.
        launch: The processes.

    Raises:
        UserError: If a machine has fewer GPUs than processes, or another number was asked for.
    """
    if gpus not in (None, 0, launch.per_node):
        raise UserError(
            f"trainer.gpus={gpus}: the launcher has started {launch.per_node} processes on this machine; "
            "leave out trainer.gpus, or use 0 for the CPU"
        )
    on_gpus = gpus != 0 and (gpus is not None or torch.cuda.is_available())
    accelerator = place(launch.per_node if on_gpus else 0)["accelerator"]
    return {
        "accelerator": accelerator,
        "devices": launch.per_node,
        "num_nodes": launch.nodes,
        "strategy": "ddp",
    }


class _Bar(RichProgressBar):
    """Lightning's progress bar without the logger's version, which is part of a folder's name here."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Returns the metrics beside the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _forward(trainer: Trainer) -> Callable[[int], None]:
    """Handles a signal: passes it to the training processes, or exits."""
    launcher = trainer.strategy.launcher
    return exit_at_once if launcher is None else launcher.kill
