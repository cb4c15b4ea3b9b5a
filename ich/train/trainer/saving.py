"""Saves a run, so that it resumes as if it had never been interrupted."""

from __future__ import annotations

import io
import logging
import pickle
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from ich.data import HeadCTDataModule
from ich.model_files.checkpoint import gather_states, is_whole, require_space
from ich.schema import MONITOR, UserError
from ich.schema.exits import find_signal_code
from ich.train.trainer.callbacks import LossWatch
from ich.train.trainer.signals import exit_at_once, handling_stops, requeue

log = logging.getLogger(__name__)


_TWICE = 1.0  # seconds from one SIGINT to another that is not the same Ctrl-C


class Checkpoints(Checkpoint):
    """Saves ``best.ckpt``, and ``last.ckpt`` with the state of all random generators; stops on request.

    ``last`` is saved at the end of each epoch, and every few minutes within one. It is saved only where an
    exact resume is possible: after a step of the optimizer, and not just before a validation or the end of an
    epoch. The previous one stays as ``previous.ckpt``. ``best`` is saved at the end of its validation.

    On SIGINT, SIGTERM or SIGUSR1, ``last`` is saved at the next such place, and the process exits with 128
    plus the signal's number. Within a validation it exits without saving. A second SIGINT stops it at once.
    SLURM sends SIGUSR1 before the time is up; then the job is put back into the queue.

    Args:
        folder: Folder of the checkpoints.
        minutes: Minutes between saves within an epoch.
        watch: Check that runs before each save.
    """

    def __init__(self, folder: Path, minutes: float, watch: LossWatch) -> None:
        self.folder = folder
        self.minutes = minutes
        self.watch = watch
        self.best = float("inf")
        self._generators: list[dict[str, Any]] = []
        self._signal = 0
        self._noted_at = 0.0
        self._saved_at = 0.0
        self._handlers = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the generators, checks the space on the disk, and starts to handle signals.

        Raises:
            UserError: If checkpoints will not fit.
        """
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not is_whole(last := self.folder / "last.ckpt"):
                last.unlink(missing_ok=True)  # or it would take the place of the whole one before it
            require_space(self.folder, _expect_size(trainer, pl_module))
        if trainer.global_rank < len(self._generators):
            restore_generators(self._generators[trainer.global_rank])
        if isinstance(datamodule := trainer.datamodule, HeadCTDataModule):  # type: ignore[attr-defined]
            datamodule.align_progress()
        self._saved_at = time.monotonic()
        self._signal = 0
        self._handlers.enter_context(handling_stops(self._note))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves if it is time and the place is right; stops on request."""
        loop = trainer.fit_loop.epoch_loop
        if (
            loop._should_accumulate()
            or loop._num_ready_batches_reached()
            or (trainer.fit_loop._data_fetcher and loop._should_check_val_fx(trainer.fit_loop._data_fetcher))
        ):
            return
        due = time.monotonic() - self._saved_at >= 60 * self.minutes
        stop = _largest(trainer, self._signal)
        if stop or _largest(trainer, due):
            self._save_last(trainer)
        if stop:
            _stop(trainer, stop)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stops on request, because half a validation cannot be saved."""
        if not trainer.sanity_checking and (stop := _largest(trainer, self._signal)):
            _stop(trainer, stop)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best.

        Raises:
            UserError: If the model does not log the metric that chooses the best epoch.
        """
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        monitor = getattr(pl_module, "monitor", MONITOR)
        if (score := trainer.callback_metrics.get(monitor)) is None:
            raise UserError(f"the model does not log {monitor}, which chooses the best epoch")
        if float(score) < self.best:
            self.best = float(score)
            self._save(trainer, "best")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves; stops on request."""
        self._save_last(trainer)
        if stop := _largest(trainer, self._signal):
            _stop(trainer, stop)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops handling signals, before Lightning restores the handlers that were there before its own."""
        self._handlers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stops handling signals."""
        self._handlers.close()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuses to save what could not be loaded again.

        Raises:
            UserError: If the state of a callback holds more than plain Python values and tensors.
        """
        for name, state in checkpoint["callbacks"].items():
            if not _loads_safely(state):
                raise UserError(
                    f"the state_dict of the callback {name} holds values that a checkpoint cannot give back, "
                    "so the run is not saved; return plain Python values and tensors only, such as "
                    "float(score) for a number of NumPy and str(path) for a path"
                )

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score, and the generators of each process."""
        return {"best": self.best, "generators": gather_states(collect_generators())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them; the generators are set when training starts."""
        self.best = state_dict["best"]
        self._generators = state_dict["generators"]

    def _note(self, signum: int) -> None:
        """Keeps a signal for the next place where a run can be saved; a second SIGINT ends the run here.

        One Ctrl-C reaches each of several processes twice: from the terminal, and from the first process.
        """
        now = time.monotonic()
        if signum == self._signal == signal.SIGINT and now - self._noted_at > _TWICE:
            exit_at_once(signum)
        if signum != self._signal:
            self._noted_at = now
            hint = "; press Ctrl-C again to stop at once" if signum == signal.SIGINT else ""
            log.warning("stopping as soon as the run can be saved%s", hint)
        self._signal = signum

    def _save_last(self, trainer: Trainer) -> None:
        self._save(trainer, "last", previous=self.folder / "previous.ckpt")
        self._saved_at = time.monotonic()

    def _save(self, trainer: Trainer, name: str, previous: Path | None = None) -> None:
        """Saves finite weights only; a loss can be finite when the weights after it are not."""
        self.watch.check()
        finite = (bool(each.isfinite().all()) for each in trainer.lightning_module.parameters())
        if _largest(trainer, not all(finite)):  # a process may hold a part of the weights
            raise UserError(
                f"weights are not finite after step {trainer.global_step}, so the run diverged and is not "
                "saved; try a lower optim.lr"
            )
        trainer.save_checkpoint(self.folder / f"{name}.ckpt", weights_only=False, storage_options=previous)


def _loads_safely(state: Any) -> bool:
    """Whether a state comes back from a file that is read with ``weights_only``."""
    content = io.BytesIO()
    try:
        torch.save(state, content)
        content.seek(0)
        torch.load(content, map_location="cpu", weights_only=True)
    except (pickle.PickleError, RuntimeError, AttributeError, TypeError, ValueError, LookupError):
        return False
    return True


def _largest(trainer: Trainer, value: int) -> int:
    """Returns the largest value among the processes, which must act alike."""
    if trainer.world_size == 1:
        return value
    every = trainer.strategy.reduce(torch.tensor(value, device=trainer.strategy.root_device), reduce_op="max")
    return int(every)


def _stop(trainer: Trainer, signum: int) -> None:
    if trainer.is_global_zero and signum == signal.SIGUSR1:
        requeue()
    raise SystemExit(find_signal_code(signum))


def _expect_size(trainer: Trainer, model: LightningModule) -> int:
    """Returns the maximum size of a checkpoint: weights, their average, and two moments per weight."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, Tensor))
    averaged = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return weights * (3 + averaged)


def collect_generators() -> dict[str, Any]:
    """Returns the state of Python's, NumPy's and PyTorch's global generators, fit for ``weights_only``."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), int(position)],
        "numpy_gauss": [int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_generators(state: dict[str, Any]) -> None:
    """Restores the generators from ``collect_generators``."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position = state["numpy"]
    words32 = keys.numpy().astype(np.uint32)
    np.random.set_state((name, words32, position, *state["numpy_gauss"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
