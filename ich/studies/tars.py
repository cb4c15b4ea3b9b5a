"""Tar archives, compressed or not, and single compressed files, read once from start to end."""

from __future__ import annotations

import bz2
import gzip
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self, cast

from ich.index.names import HEAD
from ich.progress import track
from ich.schema.codes import InputRefusal
from ich.studies import unpacking
from ich.studies.unpacking import (
    LINK,
    RefusedMemberError,
    Source,
    TooLargeError,
    Unpacker,
    find_bound,
    require_size,
)

OPENERS: dict[bytes, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
}
"""Functions that undo a compression, by the first bytes of the file."""

_SUFFIXES = (".tar", ".tgz", ".tbz", ".tbz2")  # of tar archives, also without the magic of POSIX
_REST = 1 << 20  # bytes that are read at a time after the last member


class _Bounded:
    """The unpacked content of a file up to a bound; raises ``TooLargeError`` beyond it."""

    def __init__(self, source: Source, bound: int, reason: str) -> None:
        self._source, self._left = source, bound
        self._message = f"unpacks to more than {bound} bytes, {reason}"
        self._head = b""

    def peek(self) -> bytes:
        """Returns the first bytes; they are read again afterwards."""
        self._head = self._source.read(HEAD)
        return self._head

    def read(self, size: int, /) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        piece = head + self._source.read(size - len(head)) if len(head) < size else head
        self._left -= len(piece)
        if self._left < 0:
            raise TooLargeError(self._message)
        return piece


@contextmanager
def open_unpacked(path: Path, scratch: Path) -> Iterator[_Bounded]:
    """Opens a file so that it reads as its uncompressed content."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(0)
        opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
        with opener(file) if opener else file as source:
            yield _Bounded(source, *find_bound(path, scratch))


def can_open(path: Path, head: bytes) -> bool:
    """Whether a file is a tar archive, or compressed in a known way."""
    return head.startswith(tuple(OPENERS)) or head[257:262] == b"ustar" or path.suffix.lower() == ".tar"


def is_tar(path: Path, head: bytes) -> bool:
    """Whether the unpacked content of a file is a tar archive, by its first bytes or by the file's name."""
    name = Path(path.name.lower())
    return head[257:262] == b"ustar" or name.suffix in _SUFFIXES or name.stem.endswith(".tar")


def unpack_tar(source: _Bounded, unpacker: Unpacker, progress: bool) -> None:
    """Unpacks a tar archive.

    Args:
        source: Content of the archive.
        unpacker: Receives the members.
        progress: Show a bar on a terminal.

    Raises:
        TooLargeError: If it unpacks to more than is allowed.
        tarfile.TarError: If it is damaged or cut off; so do others of ``DAMAGE``. Everything before the
            damage is unpacked.
    """
    blocks = [b""]  # the last header that was read: at the end of an archive one of zeros

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            blocks[0] = bytes(buf)
            return super().frombuf(buf, encoding, errors)

    done = set[str]()
    with tarfile.open(
        fileobj=cast("Any", source), mode="r|", tarinfo=Header, errors="surrogateescape"
    ) as archive:
        for number, member in enumerate(track(archive, "Unpacking", None, progress), 1):
            if number > unpacking.MAX_MEMBERS:
                raise TooLargeError(f"has more than {unpacking.MAX_MEMBERS} files")
            if not (member.isdir() or (member.islnk() and member.linkname in done)):
                unpacker.add(member.name, _open_member(archive, member))
                done.add(member.name)
        # The module treats a damaged header as the end, and ignores everything after it.
        if len(blocks[0]) < tarfile.BLOCKSIZE or any(blocks[0]) or _has_more(archive):
            raise tarfile.ReadError(
                "is cut off or damaged: everything after the last file that was read is lost"
            )


def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Source | RefusedMemberError:
    if member.issparse():
        return RefusedMemberError(InputRefusal.BAD_MEMBER, "is sparse, and its content is larger than it")
    try:
        require_size(member.size)
    except RefusedMemberError as refused:
        return refused
    source = archive.extractfile(member) if member.isreg() else None
    return source or RefusedMemberError(InputRefusal.LINK, LINK, is_stray=False)


def _has_more(archive: tarfile.TarFile) -> bool:
    """Whether anything except zeros follows the end, such as a second archive; also reads checksums."""
    while piece := archive.fileobj.read(_REST):
        if any(piece):
            return True
    return False
