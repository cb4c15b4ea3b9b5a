"""The settings of a run: which ones loggers may keep, and which ones every run has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from ich import __version__
from ich.data.parts import SPLITS
from ich.files import hash_file
from ich.schema import PLACES, RENAMED, UserError
from ich.schema.labels import RSNA_LABELS

log = logging.getLogger("ich")

OF_A_RUN = (
    *("run_dir", "seed", "threads", "ckpt_path"),
    *("input", "augment", "loss", "optim", "model", "trainer", "logger", "data", "pretrain"),
)
"""Top-level keys of a run's ``config.yaml``."""

ADDED: dict[str, Any] = {
    "smoothing": False,
    "rule": None,
    "series": None,
    "callbacks": {},
    "lesions": {},
    "trusted": [],
    "labels": {"_target_": "ich.schema.labels.LabelSet", **asdict(RSNA_LABELS)},
}
"""Newer settings, with the values of older runs."""


def leave_out_places(settings: Any) -> Any:
    """Returns settings for loggers, without names of folders and files of the data."""
    if not isinstance(settings, dict):
        return settings
    return {
        name: leave_out_places(value)
        for name, value in settings.items()
        if name not in PLACES or value is None or isinstance(value, dict) or value in SPLITS
    }


def keep_bank_digest(cfg: DictConfig) -> None:
    """Adds the SHA-256 of the file of generated lesions to the settings, so that a run resumes with it."""
    bank = cfg.lesions.get("bank")
    if bank is not None and Path(bank).is_file() and cfg.lesions.get("bank_sha256", "") is None:
        cfg.lesions.bank_sha256 = hash_file(bank)


def accept_old_names(cfg: DictConfig) -> None:
    """Renames settings of the last version in a user's file."""
    nodes = [cfg.input, *([cfg.pretrain.input] if cfg.pretrain and "input" in cfg.pretrain else [])]
    for node in nodes:
        for name in RENAMED.keys() & set(map(str, node)):
            log.warning("input.%s is now input.%s; rename it in your configuration", name, RENAMED[name])
            with open_dict(node):
                node[RENAMED[name]] = node.pop(name)


def require_settings(settings: Mapping[Any, Any], path: Path) -> None:
    """Refuses settings of a run from another version if some are missing.

    Args:
        settings: Settings from a file.
        path: The file.

    Raises:
        UserError: Naming the missing ones.
    """
    if missing := [name for name in OF_A_RUN if name not in settings]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: another version of ich than this one ({__version__}) wrote "
            "it, and its run cannot be resumed; start a new run"
        )
