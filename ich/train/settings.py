"""The settings of a run: what loggers may keep of them, and those that each run has."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from ich import __version__
from ich.data.parts import SPLITS
from ich.schema import RENAMED, UserError
from ich.schema.labels import RSNA_LABELS

log = logging.getLogger("ich")

PLACES = ("root", "labels", "index_dir", "cache", "split")
"""Settings of the data that may name folders and files, and these patients. Of a run's files ``config.yaml``
alone has them: they are the user's own words, and the run needs them to go on."""

OF_A_RUN = (
    *("run_dir", "seed", "threads", "ckpt_path"),
    *("input", "augment", "loss", "optim", "model", "trainer", "logger", "data", "pretrain"),
)
"""What stands at the top of a run's ``config.yaml``."""

ADDED: dict[str, Any] = {
    "callbacks": {},
    "trusted": [],
    "labels": {"_target_": "ich.schema.labels.LabelSet", **asdict(RSNA_LABELS)},
}
"""Settings that came later, with the values that an older run was trained with."""


def leave_out_places(settings: Any) -> Any:
    """Returns settings as a logger may keep them: without what names folders and files of the data."""
    if not isinstance(settings, dict):
        return settings
    return {
        name: leave_out_places(value)
        for name, value in settings.items()
        if name not in PLACES or value is None or isinstance(value, dict) or value in SPLITS
    }


def accept_old_names(cfg: DictConfig) -> None:
    """Renames settings that stand under the names of the last version in somebody's file."""
    nodes = [cfg.input, *([cfg.pretrain.input] if cfg.pretrain and "input" in cfg.pretrain else [])]
    for node in nodes:
        for name in RENAMED.keys() & set(map(str, node)):
            log.warning("input.%s is now input.%s; rename it in your configuration", name, RENAMED[name])
            with open_dict(node):
                node[RENAMED[name]] = node.pop(name)


def require_settings(settings: Mapping[Any, Any], path: Path) -> None:
    """Refuses settings of a run that another version wrote without all that this one reads.

    Args:
        settings: As a file has them.
        path: The file.

    Raises:
        UserError: Naming what is not there.
    """
    if missing := [name for name in OF_A_RUN if name not in settings]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: another version of ich than this one ({__version__}) wrote "
            "it, and its run cannot go on; start a new run"
        )
