"""Pixel Data to stored values, native or compressed.

Damage is an ``EOFError`` where bytes are missing, a ``RefusedError`` where a codec fails, and else whatever
pydicom raises.
"""

from __future__ import annotations

import struct

import numpy as np
from pydicom import uid
from pydicom.encaps import encapsulate

from ich.dicom.codecs import ENCAPSULATED, PixelFormat, decode, describe_uid
from ich.dicom.decoding import decode_apart
from ich.dicom.elements import UNDEFINED, Element, Stream

_SLACK = 1 << 16  # bytes of a compressed frame beyond twice its pixels, for the headers of small ones


def check_length(pixels: Element, left: int, syntax: str, pixel_format: PixelFormat) -> None:
    """Refuses pixels that cannot be there, as far as that shows without reading them.

    Args:
        pixels: Pixel Data.
        left: Bytes from the start of their value to the end of the file.
        syntax: Transfer syntax.
        pixel_format: What they shall be.

    Raises:
        EOFError: If bytes are missing.
        ValueError: If the length fits neither the transfer syntax nor the image.
    """
    length, expected = pixels.length, pixel_format.size
    if (syntax in ENCAPSULATED) != (length == UNDEFINED):
        raise ValueError(f"Pixel Data are not encoded as {describe_uid(syntax)} says")
    if length == UNDEFINED:
        return
    present = min(length, left)
    if present < max(length, expected):
        raise EOFError(f"has {present} of {max(length, expected)} bytes of Pixel Data")
    if length >= 2 * (expected + expected % 2):
        raise ValueError(f"has {length} bytes of Pixel Data for an image of {expected}")


def read_stored(pixels: Element, stream: Stream, syntax: str, pixel_format: PixelFormat) -> np.ndarray:
    """Reads stored values, from a stream that stands at the value of Pixel Data.

    Compressed ones are decoded in another process, which their codec may bring down.

    Returns:
        (rows, columns) array as ``codecs.decode`` gives it.
    """
    vr = pixels.vr.decode() or "OW"  # implicit VR is always OW (PS3.5 A.1)
    if syntax not in ENCAPSULATED:
        return decode(stream.take(pixels.length), syntax, vr, pixel_format)
    frame = _read_frame(stream, 2 * pixel_format.size + _SLACK)
    if syntax != uid.RLELossless:
        _check_codestream(frame, pixel_format)
    return decode_apart(encapsulate([frame], has_bot=False), syntax, vr, pixel_format)


def find_fragments(stream: Stream) -> list[tuple[int, int]]:
    """Finds the fragments of the only frame (PS3.5 A.4): where each lies, and its length, in bytes.

    The first item is the offset table and none of them.

    Raises:
        EOFError: If the file ends before they do.
        ValueError: If one of them has no length.
    """
    found = []
    for item in stream.items():
        if item.length == UNDEFINED:
            raise ValueError("has a fragment of undefined length")
        found.append((stream.file.tell(), item.length))
        stream.skip(item, explicit=False)
    return found[1:]


def _read_frame(stream: Stream, limit: int) -> bytes:
    """Joins the fragments of the only frame; refuses unread what no codec makes of its pixels."""
    fragments = find_fragments(stream)
    size = sum(length for _, length in fragments)
    if size > limit:
        raise ValueError(f"has {size} bytes of compressed pixels, expected at most {limit}")
    frame = bytearray()
    for offset, length in fragments:
        stream.file.seek(offset)
        frame += stream.take(length)
    return bytes(frame)


def _check_codestream(frame: bytes, pixel_format: PixelFormat) -> None:
    """Refuses what codecs complete or reinterpret in silence: a cut stream, an image of another shape."""
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000
        raise EOFError("its compressed pixels lack the marker of their end")
    *shape, precision = _read_shape(frame)
    expected = [pixel_format.rows, pixel_format.columns, 1]
    if shape != expected or precision > pixel_format.bits_allocated:
        raise ValueError(
            f"its compressed pixels have rows, columns and samples {shape} of {precision} bits, "
            f"its header {expected} of {pixel_format.bits_allocated}"
        )


def _read_shape(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, samples a pixel and bits a sample, as a JPEG or JPEG 2000 stream says."""
    if frame.startswith(b"\xff\x4f\xff\x51"):  # SOC, SIZ (ITU-T T.800 A.5.1)
        width, height, left, top = struct.unpack_from(">4I", frame, 8)
        samples, precision = struct.unpack_from(">HB", frame, 40)
        return height - top, width - left, samples, (precision & 0x7F) + 1
    offset = 2  # after SOI (ITU-T T.81 B.1.1, T.87 C.1.1)
    while frame.startswith(b"\xff\xd8"):
        marker, length = struct.unpack_from(">HH", frame, offset)
        if marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, offset + 4)
            return rows, columns, samples, precision
        offset += 2 + length
    raise ValueError("its compressed pixels are neither JPEG nor JPEG 2000")
