"""Finds the run to resume, and its settings."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from ich.data import HeadCTDataModule
from ich.model_files.checkpoint import CHECKPOINTS
from ich.models.own import check_trusted
from ich.schema import UserError
from ich.tables import restore_texts
from ich.train.command import parse_overrides
from ich.train.settings import ADDED, require_settings


def find_newest(runs: Path) -> Path:
    """Finds the latest run below a folder, by its start or last resume.

    Raises:
        UserError: If there is none.
    """
    found = [*runs.glob("*/config.yaml"), *runs.glob("*_multirun/*/config.yaml")]
    if not found:
        raise UserError(f"ckpt_path=last: there is no run below {runs} to resume")
    return max(found, key=lambda path: path.stat().st_mtime_ns).parent


def resume_config(run_dir: Path, overrides: Sequence[str], trusted: Sequence[str] = ()) -> DictConfig:
    """Reads the configuration of a run to resume.

    Args:
        run_dir: The run's folder.
        overrides: Overrides of the command line. Only ``trainer.*``, ``data.root``, ``data.cache``,
            ``data.trust_folders`` and ``data.num_workers`` may differ from the run.
        trusted: Prefixes that the user's configuration trusts now. The run's own file does not count, because
            the author of a shared run could then choose which code it runs.

    Returns:
        The configuration.

    Raises:
        UserError: If there is nothing to resume, or another setting would change.
    """
    if not (run_dir / "config.yaml").is_file():
        raise UserError(
            f"ckpt_path={run_dir} holds no run to resume; expected a run's folder with config.yaml and "
            f"{CHECKPOINTS}/last.ckpt"
        )
    changes = [item for item in overrides if not item.startswith(("ckpt_path=", "hydra.", "trusted="))]
    allowed = ("trainer.", "data.root=", "data.cache=", "data.num_workers=", "data.trust_folders=")
    refused = [item for item in changes if not item.startswith(allowed)]
    if refused:
        raise UserError(
            f"ckpt_path={run_dir} resumes that run with its own settings; remove {', '.join(refused)}, or "
            "start a new run with model.init_from=CHECKPOINT"
        )
    own = OmegaConf.load(run_dir / "config.yaml")
    settings = typing.cast("dict[str, Any]", OmegaConf.to_container(own))
    require_settings(settings, run_dir / "config.yaml")
    if "${" in str(settings):  # it could carry what the environment holds into a logger's address
        raise UserError(f"{run_dir / 'config.yaml'} holds ${{...}}, which no run writes: put its value there")
    given = {"ckpt_path": str(run_dir), "trusted": list(check_trusted(trusted))}
    changed = OmegaConf.merge(ADDED, own, parse_overrides(changes), given)
    return typing.cast("DictConfig", changed)


def without_start(cfg: DictConfig) -> DictConfig:
    """Drops the start of a run, which is not needed any more when it resumes."""
    start = {"pretrained": False, "weights_file": None, "weights_sha256": None, "init_from": None}
    return typing.cast("DictConfig", OmegaConf.merge(cfg, {"model": start}))


def require_same_split(datamodule: HeadCTDataModule, path: Path) -> None:
    """Refuses to resume if the data give another split than at the start of the run."""
    split = restore_texts(pd.read_csv(path, dtype=str, keep_default_na=False))
    began = split.set_index("SOPInstanceUID")["part"]
    now = datamodule.labeled.set_index("SOPInstanceUID")["part"]
    changed = len(began.index.symmetric_difference(now.index)) + int(
        (began != now.reindex(began.index)).sum()
    )
    if changed:
        raise UserError(
            f"{path} and the data disagree on {changed} slices: files or labels have changed since the run "
            "began. Start a new run with model.init_from=CHECKPOINT"
        )
