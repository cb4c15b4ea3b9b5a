"""A folder with results of one setting only, so that a later call can continue in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ich.files import replacing
from ich.schema import UserError

SETTINGS = "settings.json"
"""File with the settings of the results; a folder holds results of one setting only."""


@contextmanager
def refusing_unwritable(path: Path) -> Iterator[None]:
    """Turns errors of writing to a folder into one message.

    Raises:
        UserError: If another process holds the lock of the folder, or it cannot be written to.
    """
    try:
        yield
    except BlockingIOError:
        raise UserError(
            f"another process is writing to {path}: wait until it ends, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}") from error


def prepare_folder(path: Path, settings: Mapping[str, Any]) -> None:
    """Makes a folder with its settings, or checks that an earlier call made it with the same ones.

    Args:
        path: A new or empty folder, or the folder of an earlier call.
        settings: Settings that determine the results, as plain values.

    Raises:
        UserError: If this is a file, or if the folder holds other files or results of other settings.
        OSError: If it cannot be written to.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file: name a folder")
    # A process that was killed at its start leaves only hidden files.
    if path.exists() and not all(each.name.startswith(".") for each in path.iterdir()):
        _require_same(path, settings)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / SETTINGS) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _require_same(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not empty and holds no results: name a new folder")
    if found != settings:
        differing = sorted(name for name in {*settings, *found} if found.get(name) != settings.get(name))
        raise UserError(
            f"{path} holds results of other settings (they differ in {', '.join(differing)}): name a "
            "new folder"
        )
