"""What comes out of a run's end into its best checkpoint, beside the weights that training gave."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ich.checkpoint import DurableIO, read_checkpoint


def keep(path: Path, fields: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> None:
    """Puts fields into the card of a checkpoint, and weights beside its own.

    Args:
        path: The checkpoint; it keeps its bytes where it has all of this already.
        fields: Fields of the metadata.
        weights: By name, such as the checkpoint does not have yet.

    Raises:
        UserError: If the checkpoint cannot be read or written; then it stays as it was.
    """
    checkpoint = read_checkpoint(path)
    card = dict(sorted((checkpoint["card"] | fields).items()))  # whatever came first, the same bytes
    if card != checkpoint["card"] or weights:
        state_dict = checkpoint["state_dict"] | (weights or {})
        DurableIO().save_checkpoint(checkpoint | {"card": card, "state_dict": state_dict}, path)
