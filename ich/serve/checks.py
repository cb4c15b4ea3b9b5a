"""Everything that is wrong with the settings, found before anything listens."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module

from ich.schema import UserError
from ich.serve.settings import Settings
from ich.serve.store import open_store

ROOMS = ("ich.serve.receive", "ich.serve.sending", "ich.serve.web", "ich.serve.upkeep")
"""Modules with a function ``check``, which raises ``UserError``."""

_CONTEXT = multiprocessing.get_context("spawn")


def require_working(settings: Settings, source: str) -> None:
    """Refuses settings that cannot work.

    The models are loaded once, in a process of their own, so that this one stays small.

    Args:
        settings: The settings.
        source: Names them in messages.

    Raises:
        UserError: With all faults.
    """
    faults = list(dict.fromkeys([*_list_faults(settings), *_find_model_faults(settings)]))
    if len(faults) == 1:
        raise UserError(f"{source}: {faults[0]}")
    if faults:
        raise UserError("\n- ".join([f"{source} has {len(faults)} faults:", *faults]))


def _list_faults(settings: Settings) -> Iterator[str]:
    checks: list[Callable[[], object]] = [lambda: open_store(settings.store).close()]
    for room in ROOMS:
        check = import_module(room).check
        checks.append(lambda check=check: check(settings))  # type: ignore[misc]
    for each in checks:
        try:
            each()
        except UserError as error:
            yield str(error)


def _find_model_faults(settings: Settings) -> list[str]:
    with ProcessPoolExecutor(1, mp_context=_CONTEXT) as pool:
        try:
            return pool.submit(_load_models, settings).result()
        except BrokenProcessPool:
            return [f"bundle: loading {settings.bundle} ended its process; there may be too little memory"]


def _load_models(settings: Settings) -> list[str]:
    from ich.serve.reading import find_model_faults  # imports torch

    return find_model_faults(settings)
