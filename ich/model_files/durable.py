"""Checkpoint files of Lightning's trainer. Inference does not need this module, nor Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import CheckpointIO

from ich.model_files.checkpoint import load_checkpoint, write_checkpoint


class DurableIO(CheckpointIO):
    """Writes and reads checkpoint files for Lightning: complete or not at all, and checked when read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint, see ``write_checkpoint``.

        Args:
            checkpoint: The checkpoint that Lightning collected.
            path: The file.
            storage_options: File that keeps the previous content of ``path``, or None.
        """
        write_checkpoint(checkpoint, Path(path), previous=storage_options)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, see ``ich.model_files.checkpoint.load_checkpoint``."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)
