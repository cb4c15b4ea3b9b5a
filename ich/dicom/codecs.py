"""pydicom's decoders of pixel data, and the frame properties that they need."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config, uid
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import Decoder, get_decoder

from ich.dicom.codestream import CODINGS, Coding, find_codestream
from ich.dicom.pixel_format import PixelFormat
from ich.dicom.refusal import RefusedError
from ich.dicom.rescale import Stored, clear_unused_bits
from ich.schema.codes import Refusal

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
"""Transfer syntaxes that compress each frame by itself."""


_LOSSY = frozenset(s for s, coding in CODINGS.items() if coding is Coding.DCT)


def describe_uid(text: str) -> str:
    """Returns the name of a transfer syntax or SOP class, if it has one, and its UID."""
    name = uid.UID(text, config.IGNORE).name
    return text if name == text else f"{name} ({text})"


def check_codec(syntax: str, precision: int) -> None:
    """Refuses, by name, a transfer syntax that no installed codec decodes.

    Args:
        syntax: Transfer syntax, one of ``DECODERS``.
        precision: Bits of a sample in the compressed stream; 0 if not yet known.

    Raises:
        RefusedError: If there is none.
    """
    decoder = DECODERS[syntax]
    only_by_gdcm = syntax in _LOSSY and precision > 8
    if decoder.is_available and not (only_by_gdcm and "gdcm" not in decoder.available_plugins):
        return
    bits = f" of {precision} bits" if only_by_gdcm else ""
    raise RefusedError(
        Refusal.UNSUPPORTED_SYNTAX,
        f"no codec for {describe_uid(syntax)}{bits} is installed: pip install 'ich[codecs]'",
    )


def decode(data: bytes, syntax: str, vr: str, pixel_format: PixelFormat) -> np.ndarray:
    """Decodes the value of Pixel Data.

    Bits beyond BitsStored are cleared or hold the sign (PS3.5 8.1.1). PixelRepresentation gives the sign, not
    the JPEG stream.

    Args:
        data: The value, or the frame if ``syntax`` is encapsulated.
        syntax: Transfer syntax.
        vr: Value representation of Pixel Data.
        pixel_format: How the frame's pixels are stored.

    Returns:
        (rows, columns) array of ``pixel_format.dtype``.

    Raises:
        ValueError: If the codec gives another result; also any error of the codec.
    """
    if syntax not in ENCAPSULATED:
        stored = _decode_by_pydicom(data, syntax, vr, pixel_format)
    elif syntax in _LOSSY and (precision := find_codestream(data).precision) > 8:
        stored = _decode_12_bits(data, precision, pixel_format)
    elif syntax in _LOSSY and pixel_format.bits_allocated > 8:  # pydicom's plugins fill only a half
        narrow = replace(pixel_format, bits_allocated=8, bits_stored=8, pixel_representation=0)
        stored = _decode_by_pydicom(encapsulate([data], has_bot=False), syntax, vr, narrow)
        stored = _fit(stored.astype(np.uint16), pixel_format)
    else:
        stored = _decode_by_pydicom(encapsulate([data], has_bot=False), syntax, vr, pixel_format)
    expected = (pixel_format.rows, pixel_format.columns)
    if stored.shape != expected or stored.dtype != pixel_format.dtype:
        raise ValueError(
            f"decodes to {stored.shape} {stored.dtype}, its header says {expected} {pixel_format.dtype}"
        )
    return stored


def _decode_by_pydicom(data: bytes, syntax: str, vr: str, pixel_format: PixelFormat) -> Stored:
    # Options in the place of a data set, and unvalidated: what pydicom would warn of is refused by now.
    options: dict[str, Any] = vars(pixel_format) | {
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": vr,
    }
    stored, _ = DECODERS[syntax].as_array(data, index=0, validate=False, raw=True, **options)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _decode_12_bits(frame: bytes, precision: int, pixel_format: PixelFormat) -> Stored:
    """Decodes lossy JPEG of 12 bits with GDCM, which pydicom does not use for it.

    Values agree within one step with a decoder written from the text of ITU-T T.81 (``tests/jpeg12.py``).
    """
    import gdcm  # of the extra "codecs"

    fragment, fragments, element = gdcm.Fragment(), gdcm.SequenceOfFragments.New(), gdcm.DataElement()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element.SetTag(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((pixel_format.columns, pixel_format.rows, 1))
    image.SetDataElement(element)
    gray = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gray))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, precision, precision - 1, 0))
    if (decoded := image.GetBuffer()) is None:
        raise ValueError("GDCM cannot decode its compressed pixels")
    values = np.frombuffer(decoded.encode("utf-8", "surrogateescape"), "<u2")  # GDCM gives a text
    return _fit(values.reshape(pixel_format.rows, pixel_format.columns).astype(np.uint16), pixel_format)


def _fit(decoded: NDArray[np.uint16], pixel_format: PixelFormat) -> Stored:
    """Converts 16 bits of a lossy decoder to the meaning in the header.

    An unsigned value that is too large for BitsStored becomes the largest possible one.
    """
    stored: Stored = decoded.view(pixel_format.dtype)
    if pixel_format.pixel_representation == 0:
        return np.minimum(stored, (1 << pixel_format.bits_stored) - 1, out=stored)
    clear_unused_bits(stored, pixel_format.bits_stored)
    return stored
