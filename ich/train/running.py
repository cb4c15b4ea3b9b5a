"""Messages about a run: its log, and whether it is in use, stopped, finished or of an older version."""

from __future__ import annotations

import errno
import logging
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.multiprocessing.spawn import ProcessRaisedException

from ich import __version__
from ich.files import open_locked
from ich.model_files.checkpoint import CHECKPOINTS
from ich.schema import UserError
from ich.schema.exits import find_signal_code
from ich.train.trainer.callbacks import Patience
from ich.train.trainer.signals import STOPS

log = logging.getLogger(__name__)

LOG = "run.log"
"""File with the printed log. It also locks a run's folder, because it exists from the start of a run to its
end."""

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""Messages of PyTorch if memory runs out, on each of its devices."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def occupying(run_dir: Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder; the lock ends with this process.

    Raises:
        UserError: If another process trains there.
    """
    try:
        file = open_locked(run_dir / LOG)
    except BlockingIOError:
        raise UserError(
            f"another training uses {run_dir}: wait until it ends, or name another folder with run_dir="
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s cannot be locked (%s): make sure that no other training writes there", run_dir, error)
        yield
        return
    with file:
        yield


@contextmanager
def keeping_log() -> Iterator[MemoryHandler]:
    """Keeps log messages until there is a run to write them to."""
    buffer = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL)
    program = logging.getLogger("ich")
    program.addHandler(buffer)
    try:
        yield buffer
    except UserError as error:
        buffer.handle(program.makeRecord(program.name, logging.ERROR, __file__, 0, error.kept, (), None))
        raise
    finally:
        program.removeHandler(buffer)
        file = buffer.target
        buffer.close()
        if file is not None:
            file.close()


def write_log(buffer: MemoryHandler, path: Path) -> None:
    """Writes the kept messages to a file, and from now on all new ones."""
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    buffer.setTarget(file)
    buffer.flush()
    buffer.flushLevel = logging.NOTSET


@contextmanager
def telling_stops(run_dir: Path) -> Iterator[None]:
    """If a signal ends a run, says what was saved and which command resumes it."""
    try:
        yield
    except SystemExit as stop:
        names = {find_signal_code(each): signal.Signals(each).name for each in STOPS}
        if isinstance(stop.code, int) and stop.code in names:
            log.warning("stopped by %s: %s", names[stop.code], _describe_saved(run_dir))
        raise


def _describe_saved(run_dir: Path) -> str:
    if not (run_dir / "config.yaml").is_file():
        return "nothing was written yet; start the run again"
    program = "ich train" if sys.argv[0].endswith(" train") else "python train.py"
    command = f"{program} ckpt_path={shlex.quote(str(run_dir))}"
    saved = [path for path in run_dir.rglob(f"{CHECKPOINTS}/last.ckpt") if path.is_file()]
    if not saved:
        return f"nothing was saved yet, so this starts again from the beginning: {command}"
    last = max(saved, key=lambda path: path.stat().st_mtime)
    clock = time.strftime("%H:%M:%S", time.localtime(last.stat().st_mtime))
    return f"{last} holds the state at {clock}; to resume: {command}"


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Restores the number of threads for the next training in this process, such as a job of a sweep."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def naming_sizes(cfg: DictConfig) -> Iterator[None]:
    """Turns an out-of-memory error into a message with the relevant sizes."""
    try:
        yield
    except (RuntimeError, MemoryError, ProcessRaisedException) as error:
        words = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in words for sign in OUT_OF_MEMORY):
            raise
        raise UserError(
            f"out of memory with data.batch_size={cfg.data.batch_size}, input.size={cfg.input.size} and "
            f"model.backbone={cfg.model.backbone}: lower data.batch_size (trainer.accumulate_grad_batches "
            "makes up for it) or input.size"
        ) from error


def require_resumable(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuses a checkpoint of an earlier version that lacks data for an exact resume.

    Raises:
        UserError: Naming the version and how to start from its weights.
    """
    losses = checkpoint.get("train_loss")
    whole = (
        isinstance(losses, list)
        and all(isinstance(each, list) and len(each) == 2 for each in losses)
        and "planned" in checkpoint.get("HeadCTDataModule", ())
        and {"MetricsLog", "Checkpoints"} <= checkpoint.get("callbacks", {}).keys()
        and "loops" in checkpoint
    )
    if not whole:
        raise UserError(
            f"{path} was written by an earlier ich (version {checkpoint['metadata'].version}), in a format "
            f"that this version ({__version__}) cannot resume exactly. Start a new run from its weights "
            f"with model.init_from={path}"
        )


def tell_of_end(cfg: DictConfig, run_dir: Path, checkpoint: dict[str, Any]) -> None:
    """Says what happens if a finished run is resumed.

    Args:
        cfg: Its configuration, with the changes.
        run_dir: Its folder.
        checkpoint: Its last checkpoint.
    """
    planned = int(OmegaConf.load(run_dir / "config.yaml").trainer.max_epochs)
    done = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    new = f"model.init_from={run_dir / CHECKPOINTS / 'best.ckpt'}"
    if done < planned and _has_lost_patience(cfg, checkpoint):
        log.warning(
            "%s ran out of patience after %d epochs (trainer.patience=%d): nothing is trained, and its "
            "results are written again. To continue, give a larger trainer.patience. To continue from its "
            "weights, start a new run with %s",
            *(run_dir, done, cfg.trainer.patience, new),
        )
    elif done < planned:
        return
    elif cfg.trainer.max_epochs <= done:
        log.warning(
            "%s is done after %d epochs: nothing is trained, and its results are written again. To "
            "continue from its weights, start a new run with %s",
            *(run_dir, done, new),
        )
    elif cfg.optim.schedule != "constant":
        log.warning(
            "%s has done its %d epochs: epochs %d to %d use the learning rates of a schedule of %d epochs, "
            "without a new warm-up. For a new schedule, start a new run with %s",
            *(run_dir, planned, done + 1, cfg.trainer.max_epochs, cfg.trainer.max_epochs, new),
        )


def _has_lost_patience(cfg: DictConfig, checkpoint: dict[str, Any]) -> bool:
    states = checkpoint["callbacks"].items()
    waited = [state["wait_count"] for name, state in states if name.startswith(Patience.__name__)]
    return cfg.trainer.get("patience") is not None and any(count >= cfg.trainer.patience for count in waited)
