"""What comes out of a run's end into its best checkpoint, beside the weights that training gave."""

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
    """Puts fields into the card of a checkpoint, and weights beside its own.

    Args:
        path: The checkpoint; it keeps its bytes where it has all of this already.
        checkpoint: What it holds.
        fields: Fields of the metadata.
        weights: By name, such as the checkpoint does not have yet.

    Returns:
        What it holds now.

    Raises:
        UserError: If the checkpoint cannot be written; then it stays as it was.
    """
    card = dict(sorted((checkpoint["card"] | fields).items()))  # whatever came first, the same bytes
    state_dict = checkpoint["state_dict"] | (weights or {})
    whole = {**checkpoint, "card": card, "state_dict": state_dict}
    if card != checkpoint["card"] or weights:
        DurableIO().save_checkpoint(whole, path)
    return whole
