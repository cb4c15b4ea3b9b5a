"""Checkpoint files: writing them durably, finding them in a run, reading them, knowing them for ours."""

from __future__ import annotations

import io
import logging
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins import CheckpointIO

from ich.card import check_card
from ich.files import replacing
from ich.schema import UserError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds ``best.ckpt``, ``last.ckpt`` and, one save older, ``previous.ckpt``."""

GENERATIONS = {"last": ("last", "previous"), "best": ("best",)}
"""Files that a checkpoint is looked for in, newest first."""


class DurableIO(CheckpointIO):
    """Lightning's door to checkpoint files: each is written whole or not at all, and checked when it is read.

    A file is made in memory, written beside the old one, flushed to the disk and renamed over it. PyTorch's
    format, a ZIP archive, holds a CRC-32 of each of its members, which PyTorch itself does not look at.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: What Lightning collected.
            path: The file.
            storage_options: Path of the file that is to hold what ``path`` held before, or None.

        Raises:
            UserError: If it cannot be written; then what was there before is there still.
        """
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, previous=storage_options) as partial:
                partial.write_bytes(content.getbuffer())
        except OSError as error:
            raise UserError(
                f"{path} of {_megabytes(content.tell())} could not be saved: {error.strerror or error}; what "
                "was saved before is whole. Make room, or the folder writable, then go on by ckpt_path=RUN"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint onto the CPU, always with PyTorch's ``weights_only``.

        Raises:
            UserError: If the file is missing, damaged or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"the checkpoint {path} does not exist")
        refusal = UserError(
            f"{path} is no checkpoint that loads safely (weights_only): it is damaged, or something else"
        )
        if not is_whole(path):
            raise refusal
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
            raise refusal from error
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file is there and holds what was written to it, by its CRC-32s.

    PyTorch stores members as they are; a compressed one is somebody else's, and may inflate without end.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(
                member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
                for member in archive.infolist()
            )
            return stored and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False  # whatever a damaged archive makes of zipfile


def gather_states(own: Any) -> list[Any]:
    """Returns the state of each process that trains, in the order of their ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    every = [own] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return every


def require_space(folder: Path, size: int) -> None:
    """Refuses to begin where the checkpoints of a run will not fit.

    Args:
        folder: Where they go; files there count as room, since they are written over.
        size: The checkpoint's size, bytes.

    Raises:
        UserError: If there is no room for ``best``, ``last``, ``previous`` and one that is being written.
    """
    taken = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free, needed = shutil.disk_usage(folder).free, 4 * size - taken
    if free < needed:
        raise UserError(
            f"{folder} has {_megabytes(free)} left, and checkpoints of this model take up to "
            f"{_megabytes(needed)} more: best, last, the one before and one that is being written, "
            f"{_megabytes(size)} each. Make room, or choose another run_dir"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def find_checkpoint(path: str | Path, name: str = "last") -> Path:
    """Finds a checkpoint in a run: the newest one that is whole.

    Args:
        path: A run's folder, or a checkpoint file itself.
        name: ``last`` or ``best``.

    Returns:
        The file.

    Raises:
        UserError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    files = [path / CHECKPOINTS / f"{generation}.ckpt" for generation in GENERATIONS[name]]
    if not any(file.is_file() for file in files):
        state = "does not hold it" if path.is_dir() else "does not exist"
        raise UserError(f"nothing to load at {path}: expected {files[0]}, and {path} {state}")
    for number, file in enumerate(files):
        if is_whole(file):
            for newer in files[:number]:
                state = "is damaged" if newer.exists() else "is missing"
                log.warning("%s %s: the one before it is used, %s", newer, state, file.name)
            return file
    raise UserError(f"{files[0]} is damaged, and there is none before it that is whole: {path} is lost")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, with ``weights_only``.

    Args:
        path: A file that a run wrote.

    Returns:
        Lightning's checkpoint, whose ``state_dict`` and ``card`` make up the model.

    Raises:
        UserError: If the file is missing, damaged or a checkpoint of something else.
    """
    checkpoint = DurableIO().load_checkpoint(path)
    found = checkpoint if isinstance(checkpoint, dict) else {}
    check_card(found.get("card"), str(path))
    weights = found.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{path} holds no weights")
    return checkpoint
