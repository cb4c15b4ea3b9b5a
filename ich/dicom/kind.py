"""Properties that many slices share: pixel format, meaning of the pixels, and plane."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Literal, NamedTuple

from pydicom import uid

from ich.dicom.codecs import describe_uid
from ich.dicom.elements import Tag, Values
from ich.dicom.groups import ENHANCED
from ich.dicom.orientation import Plane, find_plane, orient_pair
from ich.dicom.pixel_format import PixelFormat
from ich.dicom.refusal import RefusedError
from ich.dicom.rescale import Rescale
from ich.schema.codes import Refusal

MAX_SIDE = 4096  # pixels; CT is 512, sometimes 1024 or 2048
MAX_SLOPE, MAX_INTERCEPT = 1e4, 1e6  # HU; beyond these nothing of CT is left

_ONE_FRAME = re.compile(r"\+?0*[01]")  # an integer string (PS3.5 6.2); pydicom takes 0 for 1, too
_UNITS = ("", "HU", "US")  # RescaleType: US is "unspecified", which GDCM writes for any CT image

CT_IMAGES = frozenset(("", str.__str__(uid.CTImageStorage), *ENHANCED))
"""SOP classes of files that may be slices; empty if it is unknown."""


class Kind(NamedTuple):
    """Properties that many slices share."""

    pixel_format: PixelFormat
    rescale: Rescale
    plane: Plane
    shape: tuple[int, int]  # rows and columns of the slice in LPS
    spacing: tuple[float, float]  # mm between these rows, between these columns


KIND_TAGS = (
    Tag.SpecificCharacterSet,
    Tag.SOPClassUID,
    Tag.Modality,
    Tag.ImageOrientationPatient,
    Tag.SamplesPerPixel,
    Tag.PhotometricInterpretation,
    Tag.NumberOfFrames,
    Tag.Rows,
    Tag.Columns,
    Tag.PixelSpacing,
    Tag.BitsAllocated,
    Tag.BitsStored,
    Tag.HighBit,
    Tag.PixelRepresentation,
    Tag.PixelPaddingValue,
    Tag.PixelPaddingRangeLimit,
    Tag.RescaleIntercept,
    Tag.RescaleSlope,
    Tag.RescaleType,
    Tag.ModalityLUTSequence,
    Tag.SharedFunctionalGroupsSequence,
)
"""The elements that determine a kind."""


@lru_cache(maxsize=4096)
def find_kind(order: Literal["little", "big"], raw: tuple[bytes | None, ...]) -> Kind:
    """Finds the kind for the values of ``KIND_TAGS``; mostly a known one."""
    values = Values(order, {tag: v for tag, v in zip(KIND_TAGS, raw, strict=True) if v is not None})
    _check_image(values)
    pixel_format = _make_pixel_format(values)
    slope, intercept = _find_rescale(values)
    signed = pixel_format.pixel_representation == 1
    rescale = Rescale(pixel_format.bits_stored, signed, slope, intercept, _find_padding(values, signed))
    plane = find_plane(values.numbers(Tag.ImageOrientationPatient, 6))
    row_spacing, column_spacing = (s if s > 0 else math.nan for s in values.numbers(Tag.PixelSpacing, 2))
    shape = orient_pair((pixel_format.rows, pixel_format.columns), plane.orientation)
    spacing = orient_pair((row_spacing, column_spacing), plane.orientation)
    return Kind(pixel_format, rescale, plane, shape, spacing)


def _check_image(values: Values) -> None:
    """Refuses an image that is not a single gray CT slice."""
    if (modality := values.text(Tag.Modality)) != "CT":
        raise RefusedError(Refusal.NOT_CT, f"Modality is {modality!r}, expected 'CT'")
    frames = values.text(Tag.NumberOfFrames) or "1"
    if not _ONE_FRAME.fullmatch(frames):
        raise RefusedError(
            Refusal.MULTI_FRAME,
            f"NumberOfFrames is {frames}, and no functional groups (PS3.3 C.7.6.16) say where each lies",
        )
    if (sop_class := values.text(Tag.SOPClassUID)) not in CT_IMAGES:
        raise RefusedError(
            Refusal.NOT_CT, f"SOPClassUID is {describe_uid(sop_class)}, expected a CT image or none"
        )
    samples, photometric = values.short(Tag.SamplesPerPixel), values.text(Tag.PhotometricInterpretation)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError(
            Refusal.COLOR,
            f"SamplesPerPixel is {samples} and PhotometricInterpretation {photometric!r}, "
            "expected 1 and MONOCHROME1 or MONOCHROME2",
        )


def _make_pixel_format(values: Values) -> PixelFormat:
    rows, columns = values.short(Tag.Rows), values.short(Tag.Columns)
    if max(rows, columns) > MAX_SIDE:
        raise RefusedError(
            Refusal.TOO_LARGE, f"has {rows} x {columns} pixels, at most {MAX_SIDE} a side are read"
        )
    allocated, stored = values.short(Tag.BitsAllocated), values.short(Tag.BitsStored)
    high, signed = values.short(Tag.HighBit), values.short(Tag.PixelRepresentation)
    sound = allocated in (8, 16, 32) and 1 < stored <= allocated and high == stored - 1 and signed in (0, 1)
    if not sound or rows == 0 or columns == 0:
        raise RefusedError(
            Refusal.PIXEL_FORMAT,
            f"{rows} x {columns} pixels, BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}, "
            f"PixelRepresentation {signed}: expected 8, 16 or 32 bits, HighBit one below BitsStored, 0 or 1",
        )
    return PixelFormat(rows, columns, allocated, stored, signed, values.text(Tag.PhotometricInterpretation))


def _find_rescale(values: Values) -> tuple[float, float]:
    """Finds slope and intercept, if they lead to HU (PS3.3 C.8.2.1).

    RescaleType (PS3.3 C.11.1.1.2) names HU or other units. "US" names none, so the pixels must show whether
    values are HU, as they must if RescaleType is missing.
    """
    (slope,), (intercept,) = values.numbers(Tag.RescaleSlope, 1), values.numbers(Tag.RescaleIntercept, 1)
    if Tag.ModalityLUTSequence in values.raw:
        raise RefusedError(Refusal.NO_RESCALE, "has a Modality LUT, expected RescaleSlope and Intercept")
    if (kind := values.text(Tag.RescaleType)) not in _UNITS:
        raise RefusedError(Refusal.NO_RESCALE, f"RescaleType is {kind!r}, expected 'HU', 'US' or none")
    if not (0 < abs(slope) <= MAX_SLOPE and abs(intercept) <= MAX_INTERCEPT):
        raise RefusedError(
            Refusal.NO_RESCALE,
            f"RescaleSlope is {slope} and RescaleIntercept {intercept}, expected two numbers that lead to HU",
        )
    return slope, intercept


def _find_padding(values: Values, signed: bool) -> tuple[int, int] | None:
    """Finds the lowest and highest stored value of padding (PS3.3 C.7.5.1.1.2)."""
    first, last = (values.raw.get(tag, b"") for tag in (Tag.PixelPaddingValue, Tag.PixelPaddingRangeLimit))
    if len(first) != 2:
        return None
    # Signed as the pixels are, whatever an explicit VR says.
    bounds = [int.from_bytes(v, values.order, signed=signed) for v in (first, last) if len(v) == 2]
    return min(bounds), max(bounds)
