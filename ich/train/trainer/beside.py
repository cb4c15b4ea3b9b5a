"""Checks a user's own arguments for the Trainer; conflicts with the needs of a run are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint, WeightAveraging

from ich.model_files.checkpoint import CHECKPOINTS
from ich.schema import UserError


def as_list(given: Any) -> list[Any]:
    """Returns one object, several or none as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def has_checkpoint_io(plugins: Sequence[Any]) -> bool:
    """Whether one of the plugins reads and writes checkpoints."""
    return any(isinstance(plugin, CheckpointIO) for plugin in plugins)


def has_environment(plugins: Sequence[Any]) -> bool:
    """Whether one of the plugins says which processes there are."""
    return any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)


def require_no_collision(
    run_dir: str | Path | None,
    callbacks: Sequence[Callback],
    plugins: Sequence[Any],
    lightning: Mapping[str, Any],
    *,
    averages: bool,
) -> None:
    """Refuses arguments that conflict with a run.

    Args:
        run_dir: The run's folder, or None.
        callbacks: Those of the user.
        plugins: Those of the user.
        lightning: Other arguments of the user for Lightning's Trainer.
        averages: Whether ``ema_decay`` already averages the weights.

    Raises:
        UserError: Naming the argument and its replacement.
    """
    if "accelerator" in lightning:
        raise UserError(
            f"trainer.accelerator={lightning['accelerator']}: gpus chooses the devices; 0 is the CPU, n "
            "that many GPUs"
        )
    if averages and any(isinstance(callback, WeightAveraging) for callback in callbacks):
        raise UserError(
            "trainer.ema_decay and a WeightAveraging callback average twice; leave out one of the two"
        )
    if run_dir is None:
        return
    if "default_root_dir" in lightning:
        raise UserError(
            f"trainer.default_root_dir={lightning['default_root_dir']} beside run_dir={run_dir}: a run has "
            "only one folder; leave out default_root_dir"
        )
    if lightning.get("enable_checkpointing") is False:
        raise UserError(
            f"trainer.enable_checkpointing=false with run_dir={run_dir}: a run needs its checkpoints to "
            "resume and to end; leave out one of the two"
        )
    if has_checkpoint_io(plugins):
        raise UserError(
            f"trainer.plugins has a CheckpointIO, and run_dir={run_dir} writes its checkpoints with its "
            "own; leave out one of the two"
        )
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint):
            _require_own_folder(callback, Path(run_dir) / CHECKPOINTS)


def _require_own_folder(callback: ModelCheckpoint, taken: Path) -> None:
    folder = callback.dirpath
    if folder is None or Path(folder).resolve() == taken.resolve():
        raise UserError(
            f"{type(callback).__name__}(dirpath={folder}) would write beside the run's own best.ckpt and "
            f"last.ckpt: give it a dirpath other than {taken}"
        )
