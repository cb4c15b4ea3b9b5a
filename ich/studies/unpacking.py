"""Shared code for archives of every kind: bounds, state of members, and writing.

Unpacked files and folders get numbers as names. A name in an archive never becomes a name on the disk.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tarfile import TarError
from typing import NamedTuple, Protocol

from ich.dicom.files import MAX_BYTES
from ich.files import escape_path
from ich.index.names import HEAD, SLICE_SUFFIXES, judge_name
from ich.schema.codes import InputRefusal, Refusal
from ich.schema.errors import describe_error

MAX_MEMBERS = 200_000  # of an archive: some thousand studies
MAX_RATIO = 100  # of unpacked to packed: slices deflate to a half or a quarter, blank ones to a hundredth
FREE_RATIO = 1 << 28  # bytes that any archive may unpack to
MOST_OF_DISK = 0.9  # of the free space

DAMAGE = (
    *(zipfile.BadZipFile, TarError, zlib.error),
    *(EOFError, OSError, RuntimeError, ValueError),  # NotImplementedError among them
)
"""Exceptions that a damaged archive raises."""

Refused = tuple[str, str, str]
"""Path, code and detail of a refused part of an input."""

LINK = "is a link or a device, not a file"
"""Detail for a member without content of its own."""

_PIECE = 1 << 20  # bytes that are unpacked at a time


class Source(Protocol):
    """A stream that is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """Reads at most ``size`` bytes; none at the end."""


class File(NamedTuple):
    """A file to read.

    Attributes:
        path: Absolute path on the disk, as ``ich.files.escape_path`` shows it.
        shown: Name in lists of refused files; for a member, its archive and its name in it.
        folder: Its original folder, which shows its neighbors.
        name: Its own name, without a suffix for compression.
    """

    path: str
    shown: str
    folder: str
    name: str


@dataclass
class Unpacked:
    """Content of an archive.

    Attributes:
        files: Files with their names in the archive, which several may share.
        refused: Members that were not unpacked.
        strays: Number of these that may have been slices, by their original folder.
    """

    files: list[tuple[str, File]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)


class RefusedMemberError(Exception):
    """A member that is not unpacked.

    Attributes:
        code: Code of the reason.
        is_stray: Whether it may have been a slice.
    """

    def __init__(self, code: InputRefusal | Refusal, detail: str, *, is_stray: bool = True) -> None:
        super().__init__(detail)
        self.code = code
        self.is_stray = is_stray


class Unpacker:
    """Unpacks members of one archive to numbered files.

    Args:
        archive: Name of the archive in messages.
        into: An existing empty folder for this archive.
    """

    def __init__(self, archive: str, into: Path) -> None:
        self.unpacked = Unpacked()
        self._archive = archive
        self._into = into
        self._folders: dict[str, Path] = {}
        self._count = 0

    def add(self, name: str, source: Source | RefusedMemberError) -> None:
        """Unpacks a member, completely or not at all, if it may be DICOM.

        Args:
            name: Name in the archive.
            source: Content of the member, or why it has none.

        Raises:
            NoRoomError: If it cannot be written.
            TooLargeError: If the archive then unpacks to more than is allowed.
        """
        name = fold_name(name)
        shown = f"{self._archive}/{name}"
        place, _, own = shown.rpartition("/")
        folder = self._folders.setdefault(place, self._into / str(len(self._folders)))
        self._add(name, File(f"{folder}/{self._count}", shown, place, own), source)
        self._count += 1

    def add_single(self, source: Source) -> None:
        """Unpacks a single compressed file; it belongs to the folder where it lies.

        Raises:
            NoRoomError: If it cannot be written.
            TooLargeError: If it unpacks to more than is allowed.
        """
        folder, _, name = self._archive.rpartition("/")
        file = File(f"{self._into}/0/0", self._archive, folder, cut_suffix(name))
        self._add(name, file, source)

    def refuse(self, code: InputRefusal | Refusal, detail: str) -> None:
        """Refuses the archive as a whole, or the rest of it; ``1.dcm.gz`` may have been a slice."""
        self.unpacked.refused.append((self._archive, str(code), detail))
        folder, _, name = self._archive.rpartition("/")
        self.unpacked.strays[folder] += cut_suffix(name).lower().endswith(SLICE_SUFFIXES)

    def _add(self, name: str, file: File, source: Source | RefusedMemberError) -> None:
        path = Path(file.path)
        try:
            path.parent.mkdir(exist_ok=True)
            if isinstance(source, RefusedMemberError):
                raise source
            _write_member(file.name, source, path)
        except RefusedMemberError as refused:
            path.unlink(missing_ok=True)
            self.unpacked.refused.append((file.shown, str(refused.code), str(refused)))
            self.unpacked.strays[file.folder] += refused.is_stray
        except OSError as error:
            raise NoRoomError(describe_error(error)) from error
        else:
            self.unpacked.files.append((name, file))


def cut_suffix(name: str) -> str:
    """Returns a file's name without its suffix."""
    return name.rpartition(".")[0] or name


def fold_name(name: str) -> str:
    """Returns the name of a member for display: with slashes, and without control characters."""
    text = escape_path(name.replace("\\", "/"))  # as some programs of Windows write it
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _write_member(name: str, source: Source, path: Path) -> None:
    """Writes a member if it may be DICOM, by its name or by its first bytes."""
    piece = _read_piece(source, HEAD)
    refusal: tuple[Refusal | InputRefusal, str] | None = judge_name(name, piece)
    if refusal is not None:
        if refusal[0] is Refusal.ARCHIVE:
            refusal = InputRefusal.NESTED_ARCHIVE, "is an archive inside an archive: unpack it first"
        raise RefusedMemberError(*refusal, is_stray=False)
    written = 0
    with path.open("xb") as file:
        while piece:
            written += file.write(piece)
            require_size(written)
            piece = _read_piece(source, _PIECE)


def require_size(size: int) -> None:
    """Refuses a member that is larger than any slice.

    Raises:
        RefusedMemberError: If it is.
    """
    if size > MAX_BYTES:
        raise RefusedMemberError(
            InputRefusal.MEMBER_TOO_LARGE, f"has {size} bytes or more, at most {MAX_BYTES} are read"
        )


def _read_piece(source: Source, size: int) -> bytes:
    try:
        return source.read(size)
    except DAMAGE as error:
        raise RefusedMemberError(InputRefusal.BAD_MEMBER, describe_error(error)) from error


class TooLargeError(Exception):
    """An archive that unpacks to more than is allowed."""


class NoRoomError(Exception):
    """Unpacked files cannot be written."""


def find_bound(path: Path, scratch: Path) -> tuple[int, str]:
    """Finds how many bytes an archive may unpack to, and the message for one with more."""
    ratio, free = max(FREE_RATIO, MAX_RATIO * path.stat().st_size), shutil.disk_usage(scratch).free
    if ratio <= MOST_OF_DISK * free:
        return ratio, f"more than {MAX_RATIO} times its size"
    return int(MOST_OF_DISK * free), f"and {free} are free"
