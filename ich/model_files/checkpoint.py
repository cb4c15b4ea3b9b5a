"""Checkpoint files: durable writing, search in a run, safe reading, and recognition of our own format."""

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

from ich.files import replacing
from ich.model_files.metadata import read_metadata
from ich.schema import UserError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of a run with ``best.ckpt``, ``last.ckpt`` and ``previous.ckpt``, which is one save older."""

ENSEMBLE = "ensemble.zip"
"""Bundle of the members in the folder of a run over all folds."""

GENERATIONS = {"last": ("last", "previous"), "best": ("best",)}
"""Files that may hold a checkpoint, newest first."""


def write_checkpoint(checkpoint: dict[str, Any], path: Path, previous: Path | None = None) -> None:
    """Writes a checkpoint file: complete or not at all.

    It is made in memory, written beside the old one, flushed to the disk and renamed over it.

    Args:
        checkpoint: The checkpoint.
        path: The file.
        previous: File that keeps the previous content of ``path``, or None.

    Raises:
        UserError: If it cannot be written; the previous file then stays.
    """
    content = io.BytesIO()
    torch.save(checkpoint, content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, previous=previous) as partial:
            partial.write_bytes(content.getbuffer())
    except OSError as error:
        raise UserError(
            f"{path} of {_megabytes(content.tell())} could not be saved: {error.strerror or error}. "
            "Earlier checkpoints are whole. Make room or make the folder writable, then resume with "
            "ckpt_path=RUN"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint file onto the CPU, always with PyTorch's ``weights_only``.

    PyTorch's format, a ZIP archive, holds a CRC-32 of each of its members. PyTorch itself does not look at
    them, so they are checked first.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint.
    """
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    refusal = UserError(
        f"{path} is not a checkpoint that loads safely (weights_only): it is damaged, or another kind of "
        "file. Copy it again, or give a run's folder or a bundle"
    )
    if not is_whole(path):
        raise refusal
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise refusal from error
    return checkpoint


def is_whole(path: Path) -> bool:
    """Whether a checkpoint file exists and is intact, by its CRC-32s.

    PyTorch stores members uncompressed. A compressed member has another origin and may inflate without end.
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
    """Refuses to start a run if its checkpoints will not fit on the disk.

    Args:
        folder: Folder of the checkpoints; files there count as free, because they are overwritten.
        size: The checkpoint's size, bytes.

    Raises:
        UserError: If there is no room for ``best``, ``last``, ``previous`` and one during writing.
    """
    taken = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    free, needed = shutil.disk_usage(folder).free, 4 * size - taken
    if free < needed:
        raise UserError(
            f"{folder} has {_megabytes(free)} left, but checkpoints of this model need up to "
            f"{_megabytes(needed)} more: best, last, previous and one during writing, {_megabytes(size)} "
            "each. Make room, or choose another run_dir"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def find_checkpoint(path: str | Path, name: str = "last") -> Path:
    """Finds a checkpoint in a run: the newest one that is whole.

    Args:
        path: A run's folder, or a checkpoint file itself.
        name: ``last`` or ``best``. The best of a run over all folds is the bundle of their models.

    Returns:
        The file.

    Raises:
        UserError: If there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if name == "best" and (path / ENSEMBLE).is_file():
        return path / ENSEMBLE
    files = [path / CHECKPOINTS / f"{generation}.ckpt" for generation in GENERATIONS[name]]
    if not any(file.is_file() for file in files):
        state = "does not hold it" if path.is_dir() else "does not exist"
        raise UserError(f"nothing to load at {path}: expected {files[0]}, and {path} {state}")
    for number, file in enumerate(files):
        if is_whole(file):
            for newer in files[:number]:
                state = "is damaged" if newer.exists() else "is missing"
                log.warning("%s %s: the previous one is used, %s", newer, state, file.name)
            return file
    raise UserError(f"{files[0]} is damaged, and no earlier checkpoint is whole: {path} is lost")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, with ``weights_only``.

    Args:
        path: A file that a run wrote.

    Returns:
        Lightning's checkpoint. Its ``state_dict`` and ``metadata``, a ``ModelMetadata``, make up the model.

    Raises:
        UserError: If the file is missing, damaged or a checkpoint of something else.
    """
    checkpoint = load_checkpoint(Path(path))
    found = checkpoint if isinstance(checkpoint, dict) else {}
    metadata = read_metadata(found.get("metadata", found.get("card")), str(path))  # by its earlier name
    weights = found.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{path} holds no weights")
    return {name: value for name, value in found.items() if name != "card"} | {"metadata": metadata}
