"""Fetches the files of an address, such as ``s3://bucket/studies``, that may be DICOM."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ich.index.names import ARCHIVE_SUFFIXES, find_suffix, may_be_dicom
from ich.progress import track
from ich.remote import Entry, RemoteError, RemotePath, Span
from ich.schema import UserError
from ich.schema.codes import Refusal
from ich.schema.errors import describe_error
from ich.studies.unpacking import NoRoomError, RefusedMemberError, Source, Unpacked, Unpacker, require_size

_TOGETHER = 1 << 26  # bytes of files that are fetched at the same time
_SMALL = 1 << 24  # bytes of a file that is fetched with others; a larger one is read in pieces


def fetch_files(address: RemotePath, scratch: Path, progress: bool) -> Unpacked:
    """Fetches files that may be DICOM from below an address, or a single file.

    They are kept as those of an archive: with numbers as names, and with their addresses in all lists.

    Args:
        address: The address.
        scratch: Folder that gets a folder of its own for this address.
        progress: Show a bar on a terminal.

    Raises:
        UserError: If there is nothing at the address, or ``scratch`` cannot be written to.
    """
    try:
        entries = address.list_files()
    except RemoteError as error:
        raise UserError(str(error)) from error
    if not entries:
        raise UserError(f"{address} holds no file: check the spelling")
    try:
        is_file = [entry.name for entry in entries] == [""]
        shown = address.address.rpartition("/")[0] if is_file else address.address
        unpacker = Unpacker(shown, Path(tempfile.mkdtemp(prefix="address-", dir=scratch)))
        sources = _open_all(address, entries)
        for name, source in track(sources, "Fetching files", len(entries), progress):
            unpacker.add(name, source)
    except (NoRoomError, OSError) as error:
        raise UserError(
            f"{address} cannot be fetched to {scratch}: {describe_error(error)}; make room, or copy "
            "it yourself"
        ) from error
    return unpacker.unpacked


def _open_all(
    address: RemotePath, entries: Sequence[Entry]
) -> Iterator[tuple[str, Source | RefusedMemberError]]:
    for batch in _cut(entries):
        small = [Span(each.name, 0, each.size) for each in batch if _is_small(address, each)]
        parts = dict(zip(small, address.fetch(small), strict=True))
        for entry in batch:
            name, part = _find_name(address, entry), parts.get(Span(entry.name, 0, entry.size))
            source = io.BytesIO(part) if part else _open(address / entry.name, name, entry.size)
            yield entry.name or name, source


def _is_small(address: RemotePath, entry: Entry) -> bool:
    return 0 < entry.size <= _SMALL and may_be_dicom(_find_name(address, entry))


def _find_name(address: RemotePath, entry: Entry) -> str:
    """Returns the name of a file without its folder."""
    return entry.name.rpartition("/")[2] or address.name


def _cut(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cuts files into batches of about ``_TOGETHER`` bytes."""
    batch, size = list[Entry](), 0
    for entry in entries:
        batch.append(entry)
        size += min(entry.size, _SMALL)
        if size >= _TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _open(path: RemotePath, name: str, size: int) -> Source | RefusedMemberError:
    """Opens a file that is not fetched with others."""
    if find_suffix(name) in ARCHIVE_SUFFIXES:
        return RefusedMemberError(Refusal.ARCHIVE, "is an archive at an address: copy it to a disk")
    try:
        require_size(size)
        file = path.open(size=size if size >= 0 else None)
        file.peek(1)
    except RefusedMemberError as refused:
        return refused
    except RemoteError as error:
        return RefusedMemberError(Refusal.UNREADABLE, str(error.strerror))
    return file
