"""Writes files completely or not at all, and only for those who may read them.

Says which files have stopped growing, and turns paths into text.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

OWNER_ONLY = "600"
"""Permissions of files that nobody but their owner reads, as digits of ``chmod``."""

MODES = "6[046][04]"
"""Regular expression of permissions: the owner reads and writes, the group may too, and others may read."""

SETTLED = 2_000_000_000
"""Age of a time of change, in ns, that shows that a file or folder has not changed since. With a younger one
a later change may have the same time, because some file systems count in steps of two seconds."""

_ESCAPED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")


def escape_path(path: str | Path) -> str:
    r"""Returns a path as text; each byte that is not UTF-8 becomes ``\xNN``.

    Such bytes are lone surrogates in Python, and neither Parquet nor a terminal accepts them.
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def find_on_disk(text: str) -> str:
    """Returns the path that ``escape_path`` turned into text."""
    if "\\x" not in text or os.path.lexists(text):
        return text
    return _ESCAPED_BYTE.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text)


Look = tuple[int, int]
"""How a file looks: its size, and the time of its last change in nanoseconds."""


def list_looks(folder: Path) -> Iterator[tuple[Path, Look]]:
    """Yields the regular files below a folder and how they look now; hidden ones and links are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            with suppress(OSError):  # it is gone already
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                    yield path, (status.st_size, status.st_mtime_ns)


class Settling:
    """Since when files are as they are. One that is being written looks different each time.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Path, tuple[Look | None, float]] = {}

    def note(self, found: Mapping[Path, Look | None]) -> dict[Path, float]:
        """Notes how files look now; returns for how many seconds each has looked so.

        Args:
            found: The files that are watched; those of the call before that are not among them are forgotten.
        """
        now, before = self._clock(), self._since
        first = {path: (look, now) for path, look in found.items()}
        self._since = {
            path: before[path] if path in before and before[path][0] == seen[0] else seen
            for path, seen in first.items()
        }
        return {path: now - since for path, (_, since) in self._since.items()}


@contextmanager
def replacing(path: Path, *, previous: Path | None = None) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to; in the end it replaces ``path``.

    If writing fails, ``path`` stays as it was. The new file is on the disk before it replaces the old one, so
    after a power failure one of the two is complete. A killed process leaves its partial file, which the next
    one overwrites.

    Args:
        path: The file.
        previous: File in the same folder that keeps the previous content of ``path``.

    Raises:
        OSError: If the new file cannot replace the old one.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        yield partial
        flush_to_disk(partial)
        if previous is not None and path.exists():
            path.replace(previous)
        partial.replace(path)
        flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def open_locked(path: Path) -> IO[bytes]:
    """Opens a file to read and append, unless another process has opened it in this way.

    The kernel forgets the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: If another process has it open.
        OSError: If it cannot be opened, or its file system has no locks.
    """
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def find_cache() -> Path:
    """Finds the user's folder for what this program can make again.

    It is ``ich`` in ``$XDG_CACHE_HOME``, or else in ``~/.cache``.

    Raises:
        RuntimeError: If the user has no home.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ich").expanduser()


def hash_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - a Path costs as much as a small read
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def for_owner_only() -> Iterator[None]:
    """Makes new files and folders private to their owner, unless ``permitting`` around it gives a mode."""
    with permitting(OWNER_ONLY):
        yield


@contextmanager
def permitting(mode: str) -> Iterator[None]:
    """Gives new files these permissions whatever the umask, also those of started processes.

    Folders may also be entered by those who may read. Threads share one umask. The first one here sets it,
    and the last one restores it, so the outermost mode counts.

    Args:
        mode: Permissions of files, one of ``MODES``.
    """
    _UMASK.set(_find_umask(mode))
    try:
        yield
    finally:
        _UMASK.restore()


def _find_umask(mode: str) -> int:
    """Finds the umask; a file is asked for without the right to run, a folder with the right to enter."""
    allowed = int(mode, 8)
    return 0o777 & ~(allowed | (allowed & 0o444) >> 2)


class _Umask:
    """The process's own umask, and the number of threads that want another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0

    def set(self, umask: int) -> None:
        with self._lock:
            if self._users == 0:
                self._before = os.umask(umask)
            self._users += 1

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.umask(self._before)


_UMASK = _Umask()


def flush_to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
