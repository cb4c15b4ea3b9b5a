"""Writing files whole or not at all."""

from __future__ import annotations

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
