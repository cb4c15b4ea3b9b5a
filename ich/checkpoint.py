"""Checkpoint files: finding them in a run, reading them, knowing them for ours."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypedDict

import torch

from ich import __version__
from ich.schema import LABELS, UserError

FORMAT = "ich slice classifier 1"

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds ``best.ckpt`` and ``last.ckpt``."""


class Card(TypedDict):
    """What a checkpoint says of its model; plain values only."""

    format: str
    version: str
    labels: list[str]
    model: dict[str, Any]


def make_card(model: dict[str, Any]) -> Card:
    """Returns the card that goes into a checkpoint, with the arguments that build the model."""
    return {"format": FORMAT, "version": __version__, "labels": list(LABELS), "model": model}


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
    card = checkpoint.get("card") if isinstance(checkpoint, dict) else None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else "no card"
        raise UserError(f"{path} is a checkpoint of something else: found {found}, expected {FORMAT!r}")
    if card["labels"] != list(LABELS):
        raise UserError(f"{path} has the labels {card['labels']}; this version has {list(LABELS)}")
    return checkpoint
