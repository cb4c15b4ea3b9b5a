"""The schema of the configuration: the signatures of its targets, as plain data."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import field, make_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

from hydra.core.config_store import ConfigStore

from ich.files import find_cache, replacing

KINDS: dict[str, Any] = {
    "Any": Any,
    **{kind.__name__: kind for kind in (int, float, str, bool)},
    # OmegaConf does not understand int | None.
    **{f"{kind.__name__} | None": Optional[kind] for kind in (int, float, str, bool)},  # noqa: UP045
}
"""Types that the configuration checks, by name."""

REPLACED = {
    "accelerator": "trainer.gpus chooses the devices; 0 is the CPU, n that many GPUs",
    "default_root_dir": "run_dir names the folder of a run",
    "enable_checkpointing": "a run always keeps checkpoints, because it needs them to resume and to end",
}
"""Arguments of Lightning's Trainer that are not settings, and what replaces them."""

_GROUP = "signature"
_KEPT = "signatures.json"


def register_signatures(*, kept: bool = False) -> None:
    """Registers the signature of each target with Hydra as ``/signature/NAME``, with types and defaults.

    Args:
        kept: Whether signatures will do that an earlier call kept in the user's cache. The key of this
            file is the content of all that they come from. So ``--help`` need not import PyTorch.
    """
    if _GROUP in ConfigStore.instance().repo:  # from version 1.4 on Hydra warns where a name is given twice
        return
    for path, settings in (_find_kept() if kept else _make()).items():
        name = path.rpartition(".")[2]
        ConfigStore.instance().store(group=_GROUP, name=name, node=_to_node(path, settings))


def list_settings() -> dict[str, set[str]]:
    """Lists the settings of each target, by its path."""
    return {path: {"_target_", *(name for name, _, _ in settings)} for path, settings in _make().items()}


def _make() -> dict[str, Any]:
    from ich.train.targets import describe_targets  # it imports PyTorch and Lightning

    # As a file holds them, in which tuples are lists.
    made: dict[str, Any] = json.loads(json.dumps(describe_targets()))
    return made


def _find_kept() -> dict[str, Any]:
    """Reads the kept signatures, or makes and keeps them where there are none of this very content."""
    key = _make_key()
    with suppress(OSError, RuntimeError, ValueError, LookupError, TypeError):
        kept = json.loads((find_cache() / _KEPT).read_text(encoding="utf-8"))
        if kept["key"] == key:
            signatures: dict[str, Any] = kept["signatures"]
            return signatures
    signatures = _make()
    with suppress(OSError, RuntimeError):  # without a home the next help takes as long as this one
        find_cache().mkdir(parents=True, exist_ok=True)
        with replacing(find_cache() / _KEPT) as new:
            new.write_text(json.dumps({"key": key, "signatures": signatures}), encoding="utf-8")
    return signatures


def _make_key() -> str:
    """Hashes all that signatures come from: the files of this package, and the version of Lightning."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(f"{platform.python_version()} {version('pytorch-lightning')}".encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _to_node(path: str, settings: Sequence[Sequence[Any]]) -> Any:
    listed: list[tuple[str, Any, Any]] = [
        (name, KINDS[kind], field(default_factory=partial(deepcopy, default)))
        for name, kind, default in settings
    ]
    return make_dataclass(path.rpartition(".")[2], [*listed, ("_target_", str, field(default=path))])
