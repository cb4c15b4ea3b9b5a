"""Reads the shape, the bits and the end of a compressed frame before it is decoded.

The index and reading both check this, so reading does not refuse by its header a file that the index has
accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from pydicom import uid

from ich.dicom.pixel_format import PixelFormat

END = b"\xff\xd9"  # EOI of JPEG and JPEG-LS (ITU-T T.81 B.1.1.3), EOC of JPEG 2000 (ITU-T T.800 A.4.4)
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOI, _SOT, _SOS = 0xD8, 0x90, 0xDA
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"  # the signature box (ITU-T T.800 I.5.1)
_RLE_HEADER = struct.Struct("<16L")  # segments, then where each begins (PS3.5 G.5)


class Coding(Enum):
    """Coding of the pixels."""

    DCT = "lossy JPEG"
    LOSSLESS = "lossless JPEG"
    LS = "JPEG-LS"
    WAVELETS = "JPEG 2000"


_FRAMES = {0xC0: Coding.DCT, 0xC1: Coding.DCT, 0xC2: Coding.DCT, 0xC3: Coding.LOSSLESS, 0xF7: Coding.LS}
_OTHER_FRAMES = frozenset(range(0xC5, 0xD0)) - {0xC8, 0xCC}  # hierarchical, or with arithmetic coding
_PRECISIONS = {  # bits of a sample: ITU-T T.81 B.2.2, T.87 C.2.2, and what 16 bits hold
    Coding.DCT: (8, 12),
    Coding.LOSSLESS: range(2, 17),
    Coding.LS: range(2, 17),
    Coding.WAVELETS: range(1, 33),
}
CODINGS = {
    str(uid.JPEGBaseline8Bit): Coding.DCT,
    str(uid.JPEGExtended12Bit): Coding.DCT,
    str(uid.JPEGLossless): Coding.LOSSLESS,
    str(uid.JPEGLosslessSV1): Coding.LOSSLESS,
    str(uid.JPEGLSLossless): Coding.LS,
    str(uid.JPEGLSNearLossless): Coding.LS,
}
"""By transfer syntax; all others are JPEG 2000."""


class Codestream(NamedTuple):
    """A JPEG or JPEG 2000 stream within a frame."""

    start: int  # bytes from the start of the frame
    data: int  # bytes from the start of the frame to the coded pixels
    coding: Coding
    rows: int
    columns: int
    samples: int  # of a pixel
    precision: int  # bits of a sample


def find_codestream(head: bytes) -> Codestream:
    """Finds the stream in the first bytes of a frame.

    A JPEG 2000 stream may lie in the boxes of a JP2 file (ITU-T T.800 I), although PS3.5 A.4.4 forbids them.
    Any marker of JPEG may be preceded by fill bytes (ITU-T T.81 B.1.1.2).

    Raises:
        struct.error: If ``head`` ends before the coded pixels begin.
        ValueError: If there is no such stream.
    """
    start = _find_jp2_stream(head) if head.startswith(_JP2) else 0
    if head.startswith(_SOC_SIZ, start):
        return _read_jpeg_2000(head, start)
    start = len(head) - len(head.lstrip(b"\xff")) - 1
    if start < 0 or not head.startswith(b"\xff\xd8", start):
        raise ValueError("its compressed pixels are neither JPEG nor JPEG 2000")
    return _read_jpeg(head, start)


def check_codestream(stream: Codestream, syntax: str, pixel_format: PixelFormat) -> None:
    """Refuses streams that codecs do not decode, or silently misread.

    Raises:
        ValueError: If the stream contradicts the header or the transfer syntax.
    """
    if stream.coding != CODINGS.get(syntax, Coding.WAVELETS):
        raise ValueError(f"its compressed pixels are {stream.coding.value}, and not what its syntax says")
    shape = [stream.rows, stream.columns, stream.samples]
    expected = [pixel_format.rows, pixel_format.columns, 1]
    if shape != expected or stream.precision > pixel_format.bits_allocated:
        raise ValueError(
            f"its compressed pixels have rows, columns and samples {shape} of {stream.precision} bits, "
            f"its header {expected} of {pixel_format.bits_allocated}"
        )
    if stream.precision not in _PRECISIONS[stream.coding]:
        raise ValueError(f"its compressed pixels are {stream.coding.value} of {stream.precision} bits")


def check_rle(head: bytes, size: int, pixel_format: PixelFormat) -> None:
    """Refuses an RLE frame if its header does not fit its image (PS3.5 G.3.1, G.5).

    Args:
        head: The first bytes of the frame.
        size: Size of the frame, bytes.
        pixel_format: Expected pixel format.

    Raises:
        EOFError: If the frame ends before its last segment.
        ValueError: If it does not have one segment for each byte of a pixel.
    """
    if len(head) < _RLE_HEADER.size:
        raise EOFError("its compressed pixels end within their header")
    count, *starts = _RLE_HEADER.unpack_from(head)
    expected = pixel_format.bits_allocated // 8
    if count != expected:
        raise ValueError(f"its compressed pixels have {count} segments, expected {expected}")
    if max(starts[:count]) >= size:
        raise EOFError("its compressed pixels end before their last segment")


def _find_jp2_stream(head: bytes) -> int:
    """Finds the content of the contiguous codestream box of a JP2 file (ITU-T T.800 I.4, I.5.4)."""
    offset = 0
    while True:
        length, kind = struct.unpack_from(">I4s", head, offset)
        begin = offset + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, begin)
            begin += 8
        if kind == b"jp2c":
            return begin
        if length < begin - offset:  # to the end of the file, or nonsense
            raise ValueError("its compressed pixels are a JP2 file without a codestream")
        offset += length


def _read_jpeg_2000(head: bytes, start: int) -> Codestream:
    """Reads the main header up to the first tile (ITU-T T.800 A.5.1)."""
    width, height, left, top = struct.unpack_from(">4I", head, start + 8)
    samples, precision = struct.unpack_from(">HB", head, start + 40)
    for marker, _, offset in _walk(head, start + 2):
        if marker == _SOT:
            bits = (precision & 0x7F) + 1
            return Codestream(start, offset, Coding.WAVELETS, height - top, width - left, samples, bits)
    raise AssertionError  # the walk ends at the end of ``head``, by an error


def _read_jpeg(head: bytes, start: int) -> Codestream:
    """Reads the markers up to the first scan (ITU-T T.81 B.2, T.87 C.2)."""
    found: Codestream | None = None
    for marker, body, end in _walk(head, start + 2):
        if marker in _OTHER_FRAMES:
            raise ValueError(f"its compressed pixels are of a kind of JPEG (FF{marker:02X}) that is not read")
        if marker in _FRAMES:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", head, body)
            found = Codestream(start, 0, _FRAMES[marker], rows, columns, samples, precision)
        if marker == _SOS:
            if found is None:
                raise ValueError("its compressed pixels lack the header of their frame")
            return found._replace(data=end)
    raise AssertionError  # the walk ends at the end of ``head``, by an error


def _walk(head: bytes, offset: int) -> Iterator[tuple[int, int, int]]:
    """Yields marker segments: the marker, and where the contents after their length begin and end."""
    while True:
        first, marker = struct.unpack_from(">BB", head, offset)
        if first != 0xFF:
            raise ValueError("its compressed pixels lack a marker where one is due")
        if marker == 0xFF:
            offset += 1
            continue
        (length,) = struct.unpack_from(">H", head, offset + 2)
        end = offset + 2 + length
        yield marker, offset + 4, end
        offset = end
