"""The settings of a run: what loggers may keep of them, and what they may build."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from ich import __version__
from ich.data.parts import SPLITS
from ich.schema import RENAMED, UserError
from ich.train.signatures import TARGET_PATHS

log = logging.getLogger("ich")

PLACES = ("root", "labels", "index_dir", "cache", "split")
"""Settings of the data that may name folders and files, and these patients. Of a run's files ``config.yaml``
alone has them: they are the user's own words, and the run needs them to go on."""

OF_A_RUN = (
    *("run_dir", "seed", "threads", "ckpt_path"),
    *("input", "augment", "loss", "optim", "model", "trainer", "logger", "data", "pretrain"),
)
"""What stands at the top of a run's ``config.yaml``."""

_KNOWN = re.compile(r"(pytorch_lightning\.loggers|albumentations)\.\w+")


def leave_out_places(settings: Any) -> Any:
    """Returns settings as a logger may keep them: without what names folders and files of the data."""
    if not isinstance(settings, dict):
        return settings
    return {
        name: leave_out_places(value)
        for name, value in settings.items()
        if name not in PLACES or value is None or value in SPLITS
    }


def accept_old_names(cfg: DictConfig) -> None:
    """Renames settings that stand under the names of the last version in somebody's file."""
    nodes = [cfg.input, *([cfg.pretrain.input] if cfg.pretrain and "input" in cfg.pretrain else [])]
    for node in nodes:
        for name in RENAMED.keys() & set(map(str, node)):
            log.warning("input.%s is now input.%s; rename it in your configuration", name, RENAMED[name])
            with open_dict(node):
                node[RENAMED[name]] = node.pop(name)


def require_known_targets(settings: Any, path: Path) -> None:
    """Refuses settings that would build anything else than this program does.

    Args:
        settings: As a file has them.
        path: The file.

    Raises:
        UserError: If a ``_target_``, at any depth, is not one of ``TARGETS``, a logger of Lightning or a
            transform of albumentations.
    """
    if isinstance(settings, dict):
        target = settings.get("_target_")
        if not (target is None or target in TARGET_PATHS.values() or _KNOWN.fullmatch(str(target))):
            raise UserError(f"{path} would build {target!r}; a run of this program builds no such thing")
    children = settings.values() if isinstance(settings, dict) else settings
    for child in children if isinstance(settings, dict | list) else ():
        require_known_targets(child, path)


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
