"""Reads the elements of a file up to its pixels, in the fastest way that understands them.

Most headers are simple and short, and ``skimming`` reads them. ``elements`` walks the others. If neither
finds what a slice must have, pydicom reads the file in another process (``decoding``), and decides.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection
from typing import NamedTuple

from pydicom import uid

from ich.dicom.codecs import DECODERS, describe_uid
from ich.dicom.decoding import walk_apart
from ich.dicom.elements import NEEDED, PIXEL_DATA, TAGS, Tag, Values, read_syntax, read_values
from ich.dicom.files import MAX_INFLATED, File, inflate
from ich.dicom.groups import Raw, read_groups
from ich.dicom.refusal import RefusedError
from ich.dicom.skimming import HEAD, skim
from ich.dicom.stream import UNDEFINED, Element, Stream
from ich.schema.codes import Refusal

PREFIX = b"DICM"  # after 128 bytes (PS3.10 7.1)
_PLAIN_META = bytes(128) + PREFIX + b"\2\0\x10\0UI\x14\0" + uid.ExplicitVRLittleEndian.encode() + b"\0"
_DEFLATED = str.__str__(uid.DeflatedExplicitVRLittleEndian)
_MAYBE_CT = ("", "CT")  # Modality


class DataSet(NamedTuple):
    """A data set up to the value of its pixels; their tag is 0 if there are none."""

    syntax: str
    values: Values
    pixels: Element
    offset: int  # of their value, in bytes from the start of the stream
    size: int  # bytes of the stream
    stream: Stream | None  # that was walked; None where the file's start was enough


def open_stream(file: File, size: int) -> Stream:
    """Opens a file again, at its start."""
    if not isinstance(file, int):
        file.seek(0)
        return Stream(file, size)
    os.lseek(file, 0, os.SEEK_SET)
    return Stream(open(file, "rb", closefd=False), size)


def read_data_set(file: File, size: int) -> DataSet:
    """Reads the values of ``ich.dicom.elements.TAGS`` in a file that may be a slice.

    Raises:
        RefusedError: If it is not a slice: not DICOM, with an unknown transfer syntax, or without pixels.
        EOFError: If bytes are missing.
        ValueError: If it is damaged in another way.
    """
    skimmed = skim(_read_head(file))
    if skimmed is not None and skimmed.syntax in DECODERS:
        syntax, _, values, pixels, offset = skimmed
        return DataSet(syntax, values, pixels, offset, size, None)
    try:
        found = _walk(open_stream(file, size))
    except (EOFError, ValueError):
        read = ask_pydicom(file, size, TAGS)
        if read is None or read.pixels.tag != PIXEL_DATA:
            raise
        return read
    if found.pixels.tag != PIXEL_DATA:
        raise RefusedError(Refusal.NO_PIXELS, "has no Pixel Data")
    return found


def _read_head(file: File) -> bytes:
    if isinstance(file, int):
        return os.read(file, HEAD)
    file.seek(0)
    return file.read(HEAD)


def may_lack(found: DataSet) -> bool:
    """Whether a required value is missing and may follow the pixels."""
    values, pixels = found.values, found.pixels
    if values.text(Tag.Modality) not in _MAYBE_CT or Tag.SharedFunctionalGroupsSequence in values.raw:
        return False
    is_last = pixels.length != UNDEFINED and found.offset + pixels.length >= found.size
    return not is_last and not all(map(values.raw.get, NEEDED))


def ask_pydicom(file: File, size: int, tags: Collection[int]) -> DataSet | None:
    """Lets pydicom read a file in another process.

    Args:
        file: The file.
        size: Size of the file, bytes.
        tags: The elements to read.

    Returns:
        The values that it has read, with the tag 0 if it found no pixels. None if pydicom fails too, or if
        the file is larger than any slice.
    """
    stream, meta = open_stream(file, size), b""
    try:
        if stream.file.read(132)[128:] == PREFIX and read_syntax(stream) == _DEFLATED:
            stream, meta = inflate(stream.file), _PLAIN_META  # within bounds, which pydicom has none of
        else:
            stream.file.seek(0)
        if stream.size > MAX_INFLATED:
            return None
        walked = walk_apart(meta + stream.file.read(), tags)
    except (EOFError, ValueError, RefusedError, zlib.error):
        return None
    syntax = _DEFLATED if meta else walked.syntax
    if syntax not in DECODERS:
        return None
    values, pixels = Values(walked.order, walked.raw), Element(*walked.pixels)
    return DataSet(syntax, values, pixels, walked.offset - len(meta), stream.size, stream)


def read_frames(file: File, size: int) -> list[Raw]:
    """Reads the functional groups of each frame of a file; see ``ich.dicom.groups``.

    They are kept for the next frame of the same file, if it is on the disk and so known to be the same.
    """
    if not isinstance(file, int):
        return _read_frames(file, size)
    status = os.fstat(file)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if (frames := _recent.get(key)) is None:
        frames = _read_frames(file, size)
        if len(_recent) >= _MOST_RECENT:
            _recent.clear()
        _recent[key] = frames
    return frames


def _read_frames(file: File, size: int) -> list[Raw]:
    _, stream, explicit = _begin(open_stream(file, size))
    return read_groups(stream, explicit)


_MOST_RECENT = 8  # files
_recent: dict[tuple[int, int, int, int], list[Raw]] = {}


def _walk(stream: Stream) -> DataSet:
    """Walks headers that ``skim`` cannot read."""
    syntax, stream, explicit = _begin(stream)
    values, pixels = read_values(stream, explicit)
    return DataSet(syntax, values, pixels or Element(0, b"", 0), stream.file.tell(), stream.size, stream)


def _begin(stream: Stream) -> tuple[str, Stream, bool]:
    """Goes to the first element after the file meta information; returns the syntax and how to continue."""
    if stream.file.read(132)[128:] != PREFIX:
        raise RefusedError(Refusal.NOT_DICOM, "lacks the prefix DICM after 128 bytes")
    syntax = read_syntax(stream)
    if not syntax:
        raise RefusedError(Refusal.NOT_DICOM, "lacks TransferSyntaxUID in its file meta information")
    if syntax not in DECODERS:
        raise RefusedError(Refusal.UNSUPPORTED_SYNTAX, f"no codec is known for {describe_uid(syntax)}")
    if syntax == _DEFLATED:
        stream = inflate(stream.file)
    stream.order = "big" if syntax == uid.ExplicitVRBigEndian else "little"
    return syntax, stream, syntax != uid.ImplicitVRLittleEndian or stream.is_explicit()
