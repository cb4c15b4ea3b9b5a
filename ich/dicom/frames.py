"""Reads stored values from Pixel Data, native or compressed.

Damage raises an ``EOFError`` if bytes are missing, a ``RefusedError`` if a codec fails, and otherwise an
error of pydicom.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from pydicom import uid

from ich.dicom.codecs import ENCAPSULATED, check_codec, decode, describe_uid
from ich.dicom.codestream import END, Codestream, check_codestream, check_rle, find_codestream
from ich.dicom.decoding import decode_apart
from ich.dicom.pixel_format import PixelFormat
from ich.dicom.refusal import RefusedError
from ich.dicom.stream import UNDEFINED, Element, Stream
from ich.schema.codes import Refusal

_PIECE = 4096  # bytes of either end of a compressed frame that are read first
_SLACK = 1 << 16  # bytes of a compressed frame beyond twice its pixels, for the headers of small ones


def check_length(pixels: Element, left: int, syntax: str, pixel_format: PixelFormat, frames: int) -> None:
    """Refuses impossible pixel data, as far as this is visible without reading them.

    Args:
        pixels: Pixel Data.
        left: Bytes from the start of their value to the end of the file.
        syntax: Transfer syntax.
        pixel_format: Expected pixel format of a frame.
        frames: Number of frames.

    Raises:
        EOFError: If bytes are missing.
        ValueError: If the length fits neither the transfer syntax nor the image.
    """
    length, expected = pixels.length, pixel_format.size * frames
    if (syntax in ENCAPSULATED) != (length == UNDEFINED):
        raise ValueError(f"Pixel Data are not encoded as {describe_uid(syntax)} says")
    if length == UNDEFINED:
        return
    present = min(length, left)
    if present < max(length, expected):
        raise EOFError(f"has {present} of {max(length, expected)} bytes of Pixel Data")
    if length >= 2 * (expected + expected % 2):
        raise ValueError(f"has {length} bytes of Pixel Data for an image of {expected}")


class Which(NamedTuple):
    """A frame of a file."""

    number: int  # from 1
    frames: int  # of the file


ONLY = Which(1, 1)


class Pieces:
    """Bytes from several places of a file, joined to one stream.

    Args:
        stream: The file.
        pieces: Place and length of each piece, in bytes.
    """

    def __init__(self, stream: Stream, pieces: list[tuple[int, int]]) -> None:
        self._stream, self._pieces = stream, pieces
        self.size = sum(length for _, length in pieces)

    def read(self, start: int, stop: int) -> bytes:
        """Reads a part of them; less at their end."""
        found, begin = [], 0  # of a piece, among all
        for place, length in self._pieces:
            first, last = max(start, begin), min(stop, begin + length)
            if first < last:
                self._stream.file.seek(place + first - begin)
                found.append(self._stream.take(last - first))
            begin += length
        return b"".join(found)


def find_frame(
    stream: Stream, syntax: str, pixel_format: PixelFormat, which: Which = ONLY
) -> tuple[Pieces, range]:
    """Finds a compressed frame, in a stream at the value of Pixel Data.

    Returns:
        The frame, and its bytes for the codec, without boxes of a JP2 file, fill bytes and bytes after the
        end.

    Raises:
        EOFError: If the file or the frame ends before its end.
        ValueError: If no codec can decode it to what the header says.
    """
    frame = Pieces(stream, find_fragments(stream, which))
    limit = 2 * pixel_format.size + _SLACK
    if frame.size > limit:
        raise ValueError(f"has {frame.size} bytes of compressed pixels, expected at most {limit}")
    if syntax == uid.RLELossless:
        check_rle(frame.read(0, _PIECE), frame.size, pixel_format)
        return frame, range(frame.size)
    found = _find_codestream(frame)
    check_codestream(found, syntax, pixel_format)
    check_codec(syntax, found.precision)
    return frame, range(found.start, _find_end(frame, found.data))


def _find_codestream(frame: Pieces) -> Codestream:
    try:
        return find_codestream(frame.read(0, _PIECE))
    except struct.error:  # a long header
        try:
            return find_codestream(frame.read(0, frame.size))
        except struct.error:
            raise EOFError("its compressed pixels end within their header") from None


def _find_end(frame: Pieces, data: int) -> int:
    """Finds the last end marker after the start of the coded pixels, which contain none."""
    for start in (max(data, frame.size - _PIECE), data):
        place = frame.read(start, frame.size).rfind(END)
        if place >= 0:
            return start + place + len(END)
    raise EOFError("its compressed pixels lack the marker of their end")


def read_stored(
    pixels: Element, stream: Stream, syntax: str, pixel_format: PixelFormat, which: Which
) -> np.ndarray:
    """Reads stored values, from a stream at the value of Pixel Data.

    Compressed values are decoded in another process, because a codec may crash.

    Returns:
        (rows, columns) array, as from ``codecs.decode``.

    Raises:
        RefusedError: If compressed pixels decode to one value, as after a silent failure of a codec.
    """
    vr = pixels.vr.decode() or "OW"  # implicit VR is always OW (PS3.5 A.1)
    if syntax not in ENCAPSULATED:
        return decode(stream.take(pixels.length), syntax, vr, pixel_format)
    frame, part = find_frame(stream, syntax, pixel_format, which)
    stored = decode_apart(frame.read(part.start, part.stop), syntax, vr, pixel_format)
    if (value := stored.flat[0]) == stored.max() == stored.min():
        raise RefusedError(Refusal.CONSTANT, f"its compressed pixels all decode to {value}")
    return stored


def find_fragments(stream: Stream, which: Which) -> list[tuple[int, int]]:
    """Finds the fragments of a frame (PS3.5 A.4): place and length of each, in bytes.

    The first item is the offset table, not a fragment. If frames have several fragments, the table must say
    where each frame begins.

    Raises:
        EOFError: If the file ends within them.
        ValueError: If one of them has no length.
    """
    found = []
    for item in stream.items():
        if item.length == UNDEFINED:
            raise ValueError("has a fragment of undefined length")
        found.append((stream.file.tell(), item.length))
        stream.skip(item, explicit=False)
    if which.frames == 1:
        return found[1:]
    if len(found) - 1 == which.frames:
        return [found[which.number]]
    return _take_by_table(stream, found, which)


def _take_by_table(stream: Stream, items: list[tuple[int, int]], which: Which) -> list[tuple[int, int]]:
    """Finds a frame's fragments by the Basic Offset Table (PS3.5 A.4), which counts from the first one."""
    (place, length), *fragments = items
    stream.file.seek(place)
    table = np.frombuffer(stream.take(length), "<u4").astype(np.int64)
    if len(table) != which.frames or not fragments:
        raise ValueError(
            f"has {len(fragments)} fragments for {which.frames} frames, and no table of where each begins"
        )
    starts = np.append(table + fragments[0][0], np.iinfo(np.int64).max)
    begin, end = starts[which.number - 1], starts[which.number]
    return [piece for piece in fragments if begin <= piece[0] < end]
