"""Pixel Data to stored values, native or compressed.

Damage is an ``EOFError`` where bytes are missing, and else whatever the codec raises.
"""

from __future__ import annotations

import logging
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import config, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder

from ich.dicom.elements import UNDEFINED, Element, Stream

# pydicom logs a traceback for each codec that fails on a frame; what failed is in the error it raises.
logging.getLogger("pydicom.pixels.decoders.base").setLevel(logging.CRITICAL)


def _find_decoders() -> dict[str, Decoder]:
    decoders = {}
    for syntax in uid.AllTransferSyntaxes:
        with suppress(NotImplementedError):
            decoders[str(syntax)] = get_decoder(syntax)
    return decoders


DECODERS = _find_decoders()
"""pydicom's decoders by transfer syntax; ``is_available`` says whether a codec is installed."""


ENCAPSULATED = frozenset(syntax for syntax, decoder in DECODERS.items() if decoder.is_encapsulated)
"""Transfer syntaxes whose pixels are compressed, each frame apart."""


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module (PS3.3 C.7.6.3) of one grey frame."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    photometric_interpretation: str

    @property
    def size(self) -> int:
        """Bytes of the frame, uncompressed."""
        return self.rows * self.columns * self.bits_allocated // 8


def describe_syntax(syntax: str) -> str:
    """Returns the name of a transfer syntax, where it has one, and its UID."""
    name = uid.UID(syntax, config.IGNORE).name
    return syntax if name == syntax else f"{name} ({syntax})"


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
        raise ValueError(f"Pixel Data are not encoded as {describe_syntax(syntax)} says")
    if length == UNDEFINED:
        return
    present = min(length, left)
    if present < max(length, expected):
        raise EOFError(f"has {present} of {max(length, expected)} bytes of Pixel Data")
    if length >= 2 * (expected + expected % 2):
        raise ValueError(f"has {length} bytes of Pixel Data for an image of {expected}")


def read_stored(pixels: Element, stream: Stream, syntax: str, pixel_format: PixelFormat) -> np.ndarray:
    """Reads stored values, from a stream that stands at the value of Pixel Data.

    Bits beyond BitsStored are cleared or hold the sign (PS3.5 8.1.1), and the sign is that of
    PixelRepresentation, whatever a JPEG stream says of it.

    Returns:
        (rows, columns) array of 8 or 16 bits, signed as PixelRepresentation says.
    """
    decoder = DECODERS[syntax]
    if syntax in ENCAPSULATED:
        frame = _read_frame(stream)
        if syntax != uid.RLELossless:
            _check_codestream(frame, pixel_format)
        data = encapsulate([frame], has_bot=False)
    else:
        data = stream.take(pixels.length)
    # Options in the place of a data set, and unvalidated: what pydicom would warn of is refused by now.
    options: dict[str, Any] = vars(pixel_format) | {
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": pixels.vr.decode() or "OW",  # implicit VR is always OW (PS3.5 A.1)
    }
    stored, _ = decoder.as_array(data, index=0, validate=False, raw=True, **options)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _read_frame(stream: Stream) -> bytes:
    """Joins the fragments of the only frame (PS3.5 A.4); the first item is the offset table."""
    fragments = [stream.take(item.length) for item in stream.items()]
    return b"".join(fragments[1:])


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
