"""A folder that holds what was made in one way only, so that a later call can go on in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ich.files import replacing
from ich.schema import UserError

SETTINGS = "settings.json"
"""File that says what the results were made by; a folder holds those of one way only."""


@contextmanager
def refusing_unwritable(path: Path) -> Iterator[None]:
    """Makes one message of what keeps a process from writing to ``--out``.

    Raises:
        UserError: If another process holds the lock of the folder, or it cannot be written to.
    """
    try:
        yield
    except BlockingIOError:
        raise UserError(
            f"--out {path} is being written to by another process: wait for its end, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--out {path} cannot be written to: {error.strerror or error}") from error


def settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder with its settings, or checks that an earlier call made it with the same ones.

    Args:
        path: New or empty, or a folder that an earlier call began.
        settings: What the results follow from: plain values.

    Raises:
        UserError: If there is something else in the folder, or results that were made otherwise.
        OSError: If it cannot be written to.
    """
    if path.exists() and (not path.is_dir() or any(map(_is_shown, path.iterdir()))):
        _require_same(path, settings)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / SETTINGS) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _is_shown(path: Path) -> bool:
    """Not hidden: what a process that was killed at its start left is."""
    return not path.name.startswith(".")


def _require_same(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"--out {path} is not empty and holds no results: name a new folder")
    if found != settings:
        differing = sorted(name for name in {*settings, *found} if found.get(name) != settings.get(name))
        raise UserError(
            f"--out {path} holds results that were made otherwise (they differ in {', '.join(differing)}): "
            "name a new folder"
        )
