"""pydicom's decoders of pixel data, and what they need to know of a frame."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import config, uid
from pydicom.pixels.decoders.base import Decoder, get_decoder

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

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Of a stored value in memory."""
        return np.dtype(f"{'ui'[self.pixel_representation]}{self.bits_allocated // 8}")


def describe_uid(text: str) -> str:
    """Returns the name of a transfer syntax or SOP class, where it has one, and its UID."""
    name = uid.UID(text, config.IGNORE).name
    return text if name == text else f"{name} ({text})"


def decode(data: bytes, syntax: str, vr: str, pixel_format: PixelFormat) -> np.ndarray:
    """Decodes the value of Pixel Data.

    Bits beyond BitsStored are cleared or hold the sign (PS3.5 8.1.1), and the sign is that of
    PixelRepresentation, whatever a JPEG stream says of it.

    Args:
        data: The value; encapsulated where ``syntax`` is.
        syntax: Transfer syntax.
        vr: Value representation of Pixel Data.
        pixel_format: Of the frame.

    Returns:
        (rows, columns) array of ``pixel_format.dtype``.

    Raises:
        ValueError: If the codec gives something else; and whatever the codec raises.
    """
    # Options in the place of a data set, and unvalidated: what pydicom would warn of is refused by now.
    options: dict[str, Any] = vars(pixel_format) | {
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
    }
    stored, _ = DECODERS[syntax].as_array(data, index=0, validate=False, raw=True, **options)
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    expected = (pixel_format.rows, pixel_format.columns)
    if stored.shape != expected or stored.dtype != pixel_format.dtype:
        raise ValueError(
            f"decodes to {stored.shape} {stored.dtype}, its header says {expected} {pixel_format.dtype}"
        )
    return stored
