"""Notices that the file of a model was exchanged."""

from __future__ import annotations

from pathlib import Path

from ich.files import hash_file


class ModelFile:
    """The file of a model, or a folder that is left alone.

    Args:
        path: Its path.

    Attributes:
        digest: SHA-256 of what readers use or will use; empty for a folder.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen = self._used = self._look()
        self.digest = self._hash()

    def has_changed(self) -> bool:
        """Whether it has another content than before, and nobody wrote to it since the last call."""
        before, self._seen = self._seen, self._look()
        if self._seen in (None, self._used) or self._seen != before:
            return False
        self._used = self._seen
        digest = self._hash()
        if digest in ("", self.digest):
            return False
        self.digest = digest
        return True

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _hash(self) -> str:
        try:
            return hash_file(self._path) if self._path.is_file() else ""
        except OSError:
            return ""
