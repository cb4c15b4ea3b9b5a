"""Adds results of a run's end to its best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ich.checkpoint import DurableIO


def keep(
    path: Path,
    checkpoint: Mapping[str, Any],
    fields: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Adds fields to the metadata of a checkpoint, and weights beside its own.

    Args:
        path: The checkpoint file; it does not change if it already has all of this.
        checkpoint: Content of the file.
        fields: Fields of the metadata.
        weights: New weights by name.

    Returns:
        The new content.

    Raises:
        UserError: If the checkpoint cannot be written; then it does not change.
    """
    card = dict(sorted((checkpoint["card"] | fields).items()))  # whatever came first, the same bytes
    state_dict = checkpoint["state_dict"] | (weights or {})
    whole = {**checkpoint, "card": card, "state_dict": state_dict}
    if card != checkpoint["card"] or weights:
        DurableIO().save_checkpoint(whole, path)
    return whole
