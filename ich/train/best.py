"""Adds results of a run's end to its best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ich.model_files.durable import DurableIO


def add_to_checkpoint(
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
    metadata = replace(checkpoint["metadata"], **fields)
    whole = {**checkpoint, "metadata": metadata, "state_dict": checkpoint["state_dict"] | (weights or {})}
    if metadata != checkpoint["metadata"] or weights:
        DurableIO().save_checkpoint(whole | {"metadata": metadata.to_plain()}, path)
    return whole
