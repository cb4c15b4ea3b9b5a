"""Writing files whole or not at all, and for their owner alone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, which takes its place in the end.

    Where writing fails, ``path`` stays as it was.

    Raises:
        OSError: If what was written cannot take the place.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")  # its own, if runs meet
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def for_owner_alone() -> Iterator[None]:
    """Files and folders that are made meanwhile, also by processes that are started, are closed to others."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
