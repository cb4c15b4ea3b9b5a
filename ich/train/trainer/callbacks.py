"""Callbacks of a training: log of metrics, average of weights, patience, and check of the loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging
from torch import Tensor

from ich.files import replacing
from ich.schema import MONITOR, UserError

log = logging.getLogger(__name__)


class MetricsLog(Callback):
    """Writes the metrics of an epoch to ``metrics.csv`` and to the log, and gives ``lr`` to the loggers.

    Lightning's own CSV logger deletes the file of a resumed run, but this one keeps its rows. A row is
    written before the checkpoint of its epoch.

    Args:
        path: The CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before: dict[str, float] = {}  # metrics that stood when the run was interrupted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, and drops rows that a resumed run will write again."""
        if not trainer.is_global_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            table = self._read()
            self._write(table[table["epoch"].astype(int) < trainer.current_epoch])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the metrics of a validation within an epoch for a checkpoint."""
        if not trainer.sanity_checking:
            self._before |= _values(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row and the line."""
        lr = _head_lr(trainer)
        pl_module.log("lr", lr, sync_dist=True)
        self._before |= _values(trainer)  # in every process: some metrics are put together from all
        if not trainer.is_global_zero:
            return
        values = self._before | {"lr": lr}  # with all its digits
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": lr}
        rows = pd.DataFrame([row | values])
        if self.path.exists():
            rows = pd.concat([self._read(), rows])
        self._write(rows)
        shown = ("train_loss", "val_loss", MONITOR, "val_auroc_any", "val_auroc_mean")
        figures = "  ".join(f"{name} {values[name]:.4f}" for name in shown if name in values)
        log.info("epoch %d of %s  %s", trainer.current_epoch + 1, trainer.max_epochs, figures)

    def state_dict(self) -> dict[str, Any]:
        """Returns the metrics of the last validation, which Lightning does not keep."""
        return {"metrics": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self._before = dict(state_dict["metrics"])

    def _read(self) -> pd.DataFrame:
        return pd.read_csv(self.path, dtype=str)  # as text: what is written stays as it was

    def _write(self, rows: pd.DataFrame) -> None:
        with replacing(self.path) as partial:  # only numbers, which need no quotes
            rows.to_csv(partial, index=False)


class MovingAverage(WeightAveraging):
    """Lightning's exponential moving average of the weights, in a form for spawned processes.

    Args:
        decay: Share of the average that is kept in a step.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=True, avg_fn=partial(_average, decay))


class Patience(EarlyStopping):
    """Lightning's early stopping on the log loss, kept in a resumed run.

    Args:
        patience: Number of validations without a better one before the run stops.
    """

    def __init__(self, patience: int) -> None:
        super().__init__(MONITOR, patience=patience, mode="min")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the count; the patience is that of the resumed run."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops a run that had no patience left when it was interrupted."""
        trainer.should_stop |= self.wait_count >= self.patience


class LossWatch(Callback):
    """Stops a run whose loss is not finite.

    On a GPU, a loss is checked one step later, when it is available without waiting.
    """

    def __init__(self) -> None:
        self._pending: _Pending | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the loss of the step, and checks it or the previous one.

        Raises:
            UserError: If the loss is not finite.
        """
        self.check()
        if not isinstance(outputs, Mapping):
            return
        finite, arrived = outputs["loss"].detach().isfinite().all(), None
        if finite.is_cuda:
            finite = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(finite, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        rows = batch.get("row") if isinstance(batch, Mapping) else None
        self._pending = _Pending(finite, arrived, rows, trainer.current_epoch, batch_idx)
        if arrived is None:
            self.check()

    def check(self) -> None:
        """Checks the last loss, and waits for it if necessary.

        Raises:
            UserError: If the loss is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.arrived is not None:
            pending.arrived.synchronize()
        if not pending.finite:
            rows = [] if pending.rows is None else pending.rows.tolist()
            raise UserError(
                f"the loss of batch {pending.batch} in epoch {pending.epoch}, both from 0, is not finite, "
                f"so the run diverged and is not saved. Its slices are rows {rows} of the table. Look at "
                "them, or try a lower optim.lr"
            )


class _Pending(NamedTuple):
    finite: Tensor  # () bool, on the CPU
    arrived: torch.cuda.Event | None
    rows: Tensor | None  # (N,)
    epoch: int
    batch: int


def _average(decay: float, averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
    return torch.lerp(averaged.float(), current.float(), 1 - decay).to(averaged.dtype)


def _values(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _head_lr(trainer: Trainer) -> float:
    groups = trainer.optimizers[0].param_groups
    return float(max(group["lr"] for group in groups))
