"""The list of names that a configuration may build, for new and for resumed runs."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import hydra
from hydra.errors import HydraException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from ich.models.own import check_trusted, suggest_entry
from ich.schema import UserError
from ich.train.targets import TARGETS

TRUSTED = (
    "ich.",
    "torch.nn.",
    "timm.loss.",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "albumentations.",
)
"""Prefixes of names that a configuration may build. Each is needed by a group, and none is wider than needed.

``torch.`` as a whole holds functions that run code from a file or the network, and ``torchvision.`` and
``timm.`` hold functions that load files. Only classes are built: they keep their
arguments, while functions read and write files.
"""

MOVED = {
    "ich.augment.": "ich.image.augment.",
    "ich.losses.": "ich.models.losses.",
    "ich.optim.": "ich.models.optim.",
    "ich.trainer.": "ich.train.trainer.",
}
"""Modules under the names that they had until version 0.1, which files of runs hold."""

_ERRORS = (RuntimeError, ValueError, TypeError, ImportError)


class Builder:
    """Builds the objects of a configuration, if their names are on the list.

    Args:
        cfg: The configuration. Its ``trusted`` extends the list.

    Raises:
        UserError: If ``trusted`` is not a list of prefixes and names.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._trusted = check_trusted(cfg.trusted)

    def __call__(
        self, key: str, kind: type = object, offered: Mapping[str, Any] | None = None, **given: Any
    ) -> Any:
        """Builds an object.

        Args:
            key: Key of its description, such as ``loss`` or ``callbacks.timer``.
            kind: Class that it must be an instance of.
            offered: Further arguments, passed if the object accepts them and the configuration does not set
                them.
            **given: Objects passed to it.

        Returns:
            The object, or None if the configuration has none.

        Raises:
            UserError: If a ``_target_``, at any depth, is not on the list, or does not accept its arguments;
                if there is none, or it is of another kind.
        """
        node = OmegaConf.select(self._cfg, key)
        if not node:
            return None
        if "_target_" not in (node if isinstance(node, DictConfig) else ()):
            raise UserError(f"{key} names nothing to build: give it a _target_")
        settings = _follow_moves(OmegaConf.to_container(node, resolve=True))
        for target in _list_targets(settings):
            _require_trusted(target, self._trusted)
        try:
            with allowing(self._trusted):
                make = hydra.utils.instantiate(settings, _partial_=True, _convert_="all")
            takes = inspect.signature(make).parameters.keys() - node.keys() if offered else ()
            built = make(**given, **{name: value for name, value in (offered or {}).items() if name in takes})
        except (*_ERRORS, HydraException, MisconfigurationException) as error:
            # Hydra 1.3 names the part in its first line, and 1.4 in a note.
            inside = isinstance(error, HydraException)
            notes = getattr(error, "__notes__", [node["_target_"]])
            place = str(error).partition("\n")[0] if inside else f"{', '.join(notes)}:"
            reason = " ".join(f"{place} {(inside and error.__cause__) or error}".split())
            raise UserError(f"{key} cannot be built: {reason}") from error
        if not isinstance(built, kind):
            raise UserError(f"{key}: {node['_target_']} is not a {kind.__module__}.{kind.__qualname__}")
        return built


def allowing(trusted: Sequence[str] = ()) -> AbstractContextManager[Any]:
    """Tells Hydra the same list: version 1.4 asks for a list, and version 1.5 builds nothing without one."""
    whitelist: Callable[..., Any] | None = getattr(hydra.utils, "execution_whitelist", None)
    if whitelist is None:
        return nullcontext()
    context: AbstractContextManager[Any] = whitelist(
        [f"{entry}*" if entry.endswith(".") else entry for entry in (*TRUSTED, *trusted)]
    )
    return context


def _follow_moves(settings: Any) -> Any:
    """Returns plain settings in which each ``_target_`` has the name of today."""
    if isinstance(settings, list):
        return [_follow_moves(child) for child in settings]
    if not isinstance(settings, dict):
        return settings
    moved = {name: _follow_moves(child) for name, child in settings.items()}
    target = str(moved.get("_target_", ""))
    for old in MOVED:
        if target.startswith(old):
            moved["_target_"] = MOVED[old] + target.removeprefix(old)
    return moved


def _list_targets(settings: Any) -> Iterator[Any]:
    """Yields each ``_target_`` of plain settings, at any depth."""
    if isinstance(settings, dict) and "_target_" in settings:
        yield settings["_target_"]
    for child in settings.values() if isinstance(settings, dict) else settings:
        if isinstance(child, dict | list):
            yield from _list_targets(child)


def _require_trusted(target: Any, trusted: Sequence[str]) -> None:
    name = str(target)
    if name in trusted:
        return
    own = name
    # The name comes first: to look at what it names is to import its module.
    if name.startswith(_list_prefixes(TRUSTED, trusted)):
        found = _find(name)
        # A module also holds what it has imported: ich.train.os.system is os.system.
        own = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
        is_class = inspect.isclass(found) and "._" not in own
        if found in TARGETS or own.startswith(_list_prefixes(trusted, TRUSTED if is_class else ())):
            return
    refused = "is not on the list of names that a configuration may build"
    if own != name:
        raise UserError(f"_target_={name}, which is {own}, {refused}; name a class where it is defined")
    entry = suggest_entry(name, (known.partition(".")[0] for known in TRUSTED))
    raise UserError(
        f"_target_={name} {refused}. If you trust this code, add trusted=[{entry}] to the command line, or "
        f"trusted: [{entry}] to a configuration of your own"
    )


def _list_prefixes(*lists: Sequence[str]) -> tuple[str, ...]:
    return tuple(entry for entries in lists for entry in entries if entry.endswith("."))


def _find(name: str) -> Any:
    try:
        found = pydoc.locate(name)
    except pydoc.ErrorDuringImport as error:
        raise UserError(f"_target_={name} cannot be imported: {error.value}") from error
    if found is None:
        raise UserError(f"_target_={name} is not installed here")
    return found
