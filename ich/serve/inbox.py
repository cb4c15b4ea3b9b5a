"""The objects that were received, as files named by a hash of their content."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ich.files import flush_to_disk

INCOMING = "incoming"
"""Folder of files that are being written; what lies there when a receiver starts was never acknowledged."""

REMOVING = "removing"
"""Folder of files that are being removed."""


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
        writer: Names the process among those that write to it at the same time.
    """

    def __init__(self, folder: Path, writer: str = "") -> None:
        self.folder = folder
        self._incoming = folder / INCOMING / writer
        self._incoming.mkdir(parents=True, exist_ok=True)

    def keep(self, head: bytes, parts: Iterable[bytes]) -> Kept:
        """Writes an object, and returns when it is on the disk.

        The file is on the disk before it gets its name, and the name before this returns.

        Args:
            head: The preamble and the file meta information, which differ between senders.
            parts: The data set in pieces.

        Raises:
            OSError: If it cannot be written. Then nothing is left of it.
        """
        partial = self._incoming / secrets.token_hex(16)
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

    def remove_settled(self, path: str, before: float) -> bool:
        """Removes a file unless it was written after a time; returns whether it is gone.

        A receiver may take the same object again at this moment, and then its file has the same name. So the
        file is moved first, and put back if it is new.

        Args:
            path: Its path from ``keep``.
            before: The time, seconds since 1970.
        """
        target = self.locate(path)
        aside = self.folder / REMOVING / target.name
        aside.parent.mkdir(exist_ok=True)
        try:
            target.replace(aside)
        except FileNotFoundError:
            return True
        if aside.stat().st_mtime > before:
            aside.replace(target)
            return False
        aside.unlink()
        return True

    def restore_removing(self) -> None:
        """Puts back what lay beside when ``remove_settled`` was killed."""
        for aside in (self.folder / REMOVING).glob("*.dcm"):
            aside.replace(self.folder / aside.name[:2] / aside.name)

    def list_files(self, before: float) -> Iterator[str]:
        """Lists the paths of the files that were written before a time."""
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".dcm") and entry.stat().st_mtime < before:
                        yield f"{folder.name}/{entry.name}"

    def remove_unfinished(self) -> int:
        """Removes what a receiver left behind that was killed; returns how many files."""
        left = [entry for entry in os.scandir(self._incoming) if entry.is_file(follow_symlinks=False)]
        for entry in left:
            Path(entry.path).unlink(missing_ok=True)
        return len(left)

    def measure_free_bytes(self) -> int:
        """Returns how much more the disk takes."""
        return shutil.disk_usage(self.folder).free
