"""Checkpoint files: finding them in a run, reading them, knowing them for ours."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from ich.card import check_card
from ich.schema import UserError

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds ``best.ckpt`` and ``last.ckpt``."""


def find_checkpoint(path: str | Path, name: str = "last") -> Path:
    """Finds a checkpoint in a run.

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
    file = path / CHECKPOINTS / f"{name}.ckpt"
    if not file.is_file():
        state = "does not hold it" if path.is_dir() else "does not exist"
        raise UserError(f"nothing to load at {path}: expected {file}, and {path} {state}")
    return file


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU, with ``weights_only``.

    Args:
        path: A file that a run wrote.

    Returns:
        Lightning's checkpoint, whose ``state_dict`` and ``card`` make up the model.

    Raises:
        UserError: If the file is missing, damaged or a checkpoint of something else.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the checkpoint {path} does not exist")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{path} is no checkpoint that loads safely (weights_only): it is damaged, or something else"
        ) from error
    found = checkpoint if isinstance(checkpoint, dict) else {}
    check_card(found.get("card"), str(path))
    weights = found.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{path} holds no weights")
    return checkpoint
