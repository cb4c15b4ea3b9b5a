"""What a program prints: names that are no text, and a reader that has gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

READER_GONE = 141
"""Exit code where nobody reads what is printed any more, as of a process that SIGPIPE ends."""


@contextmanager
def printing() -> Iterator[None]:
    """Prints what no encoding takes in an escaped form, and ends in silence where the reader has gone."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python prints what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(READER_GONE)
