"""The objects that were received, as files named by a hash of their content."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ich.files import flush_to_disk

INCOMING = "incoming"
"""Folder of files that are being written; what lies there when a receiver starts was never acknowledged."""


@dataclass(frozen=True)
class Kept:
    """A file in the inbox.

    Attributes:
        path: Its path below the folder of the inbox.
        digest: SHA-256 of its data set.
        bytes: Its size.
    """

    path: str
    digest: str
    bytes: int


class Inbox:
    """A folder of received objects.

    Args:
        folder: The folder; it is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / INCOMING).mkdir(parents=True, exist_ok=True)

    def keep(self, head: bytes, parts: Iterable[bytes]) -> Kept:
        """Writes an object, and returns when it is on the disk.

        The file is on the disk before it gets its name, and the name before this returns.

        Args:
            head: The preamble and the file meta information, which differ between senders.
            parts: The data set in pieces.

        Raises:
            OSError: If it cannot be written. Then nothing is left of it.
        """
        partial = self.folder / INCOMING / secrets.token_hex(16)
        found = hashlib.sha256()
        try:
            with partial.open("xb") as file:
                file.write(head)
                for part in parts:
                    found.update(part)
                    file.write(part)
                size = file.tell()
            flush_to_disk(partial)
            digest = found.hexdigest()
            name = hashlib.sha256(head + digest.encode()).hexdigest()
            target = self.folder / name[:2] / f"{name}.dcm"
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                flush_to_disk(self.folder)
            partial.replace(target)
            flush_to_disk(target.parent)
        finally:
            partial.unlink(missing_ok=True)
        return Kept(f"{name[:2]}/{name}.dcm", digest, size)

    def locate(self, path: str) -> Path:
        """Returns the file of a path from ``keep``."""
        return self.folder / path

    def remove(self, path: str) -> None:
        """Removes the file of a path from ``keep``, if it is there."""
        self.locate(path).unlink(missing_ok=True)

    def remove_unfinished(self) -> int:
        """Removes what a receiver left behind that was killed; returns how many files."""
        left = list(os.scandir(self.folder / INCOMING))
        for entry in left:
            Path(entry.path).unlink(missing_ok=True)
        return len(left)

    def measure_free_bytes(self) -> int:
        """Returns how much more the disk takes."""
        return shutil.disk_usage(self.folder).free
