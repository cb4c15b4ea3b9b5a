"""The elements of a DICOM data set (PS3.5 7), up to its pixels.

This is our own walk. pydicom's would warn about each file of the RSNA set, whose UIDs are invalid, through
settings that all threads share. It also reads values that an index does not need. Damage raises an
``EOFError`` if bytes are missing, and otherwise a ``ValueError``.
"""

from __future__ import annotations

import math
import os
import re
from enum import IntEnum
from functools import lru_cache
from typing import Literal

from pydicom.charset import python_encoding

from ich.dicom.stream import DELIMITERS, Element, Stream

MAX_VALUE = 1 << 10  # bytes of a usual value: these are short, and many are cached
MAX_TEXT = 0xFFFE  # bytes of any value that is read: the most that a length of 16 bits can say

TRANSFER_SYNTAX = 0x00020010
PIXEL_DATA = 0x7FE00010
PIXELS = frozenset((0x7FE00008, 0x7FE00009, PIXEL_DATA))  # of floating point, of twice as many bits, whole


class Tag(IntEnum):
    """The elements to read, under their keywords (PS3.6)."""

    SpecificCharacterSet = 0x00080005
    ImageType = 0x00080008
    SOPClassUID = 0x00080016
    SOPInstanceUID = 0x00080018
    AcquisitionTime = 0x00080032
    ContentTime = 0x00080033
    Modality = 0x00080060
    StudyDescription = 0x00081030
    SeriesDescription = 0x0008103E
    PatientID = 0x00100020
    ContrastBolusAgent = 0x00180010
    ContrastBolusAgentSequence = 0x00180012
    BodyPartExamined = 0x00180015
    SliceThickness = 0x00180050
    ProtocolName = 0x00181030
    ConvolutionKernel = 0x00181210
    StudyInstanceUID = 0x0020000D
    SeriesInstanceUID = 0x0020000E
    SeriesNumber = 0x00200011
    AcquisitionNumber = 0x00200012
    InstanceNumber = 0x00200013
    ImagePositionPatient = 0x00200032
    ImageOrientationPatient = 0x00200037
    FrameOfReferenceUID = 0x00200052
    SamplesPerPixel = 0x00280002
    PhotometricInterpretation = 0x00280004
    NumberOfFrames = 0x00280008
    Rows = 0x00280010
    Columns = 0x00280011
    PixelSpacing = 0x00280030
    BitsAllocated = 0x00280100
    BitsStored = 0x00280101
    HighBit = 0x00280102
    PixelRepresentation = 0x00280103
    PixelPaddingValue = 0x00280120
    PixelPaddingRangeLimit = 0x00280121
    WindowCenter = 0x00281050
    WindowWidth = 0x00281051
    RescaleIntercept = 0x00281052
    RescaleSlope = 0x00281053
    RescaleType = 0x00281054
    ModalityLUTSequence = 0x00283000
    SharedFunctionalGroupsSequence = 0x52009229


DESCRIPTION = (
    Tag.StudyDescription,
    Tag.SeriesDescription,
    Tag.ContrastBolusAgent,
    Tag.ContrastBolusAgentSequence,
    Tag.BodyPartExamined,
    Tag.SliceThickness,
    Tag.ProtocolName,
    Tag.SeriesNumber,
    Tag.FrameOfReferenceUID,
)
"""Elements that only describe the series. A slice is read whatever they hold."""

TAGS = frozenset(map(int, Tag)) - frozenset(map(int, DESCRIPTION))
UIDS = (Tag.SOPInstanceUID, Tag.StudyInstanceUID, Tag.SeriesInstanceUID)
IDENTIFIERS = (Tag.PatientID, *UIDS)
NEEDED = (
    *UIDS,
    Tag.Modality,
    Tag.SamplesPerPixel,
    Tag.PhotometricInterpretation,
    Tag.Rows,
    Tag.Columns,
    Tag.BitsAllocated,
    Tag.BitsStored,
    Tag.HighBit,
    Tag.PixelRepresentation,
    Tag.RescaleSlope,
    Tag.RescaleIntercept,
)
"""Elements that a slice must have. A multi-frame file has some of them elsewhere."""

SEQUENCES = (Tag.ModalityLUTSequence, Tag.SharedFunctionalGroupsSequence)  # only their presence matters


_CHARSET = int(Tag.SpecificCharacterSet)


class Values:
    """Raw values by tag. Texts need not follow the rules of their VR, which the RSNA's UIDs would break."""

    def __init__(self, order: Literal["little", "big"], raw: dict[int, bytes] | None = None) -> None:
        self.raw = {} if raw is None else raw
        self.order = order

    def text(self, tag: Tag) -> str:
        """Returns the first value as text, empty if there is none."""
        if not (value := self.raw.get(tag)):
            return ""
        charset = self.raw.get(_CHARSET, b"")
        if len(value) > MAX_VALUE:  # too long to be cached
            return _find_first(_decode(value, charset))
        return _parse_text(value, charset)

    def whole(self, tag: Tag) -> str:
        """Returns all values as one text, with backslashes as stored; empty if there is none."""
        if not (value := self.raw.get(tag)):
            return ""
        charset = self.raw.get(_CHARSET, b"")
        return _decode(value, charset) if len(value) > MAX_VALUE else _parse_whole(value, charset)

    def numbers(self, tag: Tag, count: int) -> tuple[float, ...]:
        """Returns the first values of a decimal or integer string; all NaN if one is missing or malformed."""
        return _parse_numbers(self.raw.get(tag, b""), count)

    def short(self, tag: Tag) -> int:
        """Returns an unsigned 16-bit value that a CT image must have."""
        value = self.raw.get(tag, b"")
        if len(value) != 2:
            raise ValueError(f"{tag.name} is missing or not one number of 16 bits")
        return int.from_bytes(value, self.order)


def shorten(tag: int, value: bytes) -> bytes:
    """Shortens a value that is longer than the standard allows (PS3.5 6.2).

    Of several values, it keeps the first ones completely. A single value is dropped, unless it identifies a
    patient or an image, which a part would not.
    """
    if len(value) <= MAX_VALUE or len(value := value.rstrip(b" \0")) <= MAX_VALUE or tag in IDENTIFIERS:
        return value
    return value[:MAX_VALUE].rpartition(b"\\")[0]


def read_value(stream: Stream, element: Element) -> bytes:
    """Reads a value, shortened by ``shorten``."""
    if element.length <= MAX_VALUE:
        return stream.take(element.length)
    value = stream.take(min(element.length, MAX_TEXT))
    stream.skip(element._replace(length=element.length - len(value)), explicit=True)
    return shorten(element.tag, value)


def read_syntax(stream: Stream) -> str:
    """Reads the file meta information, always explicit VR little endian, for its transfer syntax.

    Source: PS3.10 7.1. Empty if it is missing.
    """
    syntax = ""
    while (group := stream.file.read(2)) == b"\2\0":
        stream.file.seek(-2, os.SEEK_CUR)
        element = stream.next(explicit=True)
        if element is not None and element.tag == TRANSFER_SYNTAX and element.length <= MAX_VALUE:
            syntax = stream.take(element.length).decode("latin-1").strip(" \0")
        elif element is not None:
            stream.skip(element, explicit=True)
    stream.file.seek(-len(group), os.SEEK_CUR)
    return syntax


def read_values(stream: Stream, explicit: bool) -> tuple[Values, Element | None]:
    """Reads the values of ``Tag``; the stream is then at the value of the pixels.

    Returns:
        The values, and the first element of pixel data, or None if there is none.
    """
    values = Values(stream.order)
    while (element := stream.next(explicit)) is not None and element.tag not in PIXELS:
        if element.tag in DELIMITERS:
            continue  # one too many
        if element.tag in SEQUENCES:
            stream.skip(element, explicit)
            values.raw[element.tag] = b""
        elif element.tag not in TAGS:
            stream.skip(element, explicit)
        else:
            values.raw[element.tag] = read_value(stream, element)
    return values, element


# Cached, because neighboring slices share most values.
@lru_cache(maxsize=4096)
def _parse_text(value: bytes, charset: bytes) -> str:
    return _find_first(_decode(value, charset))


@lru_cache(maxsize=4096)
def _parse_whole(value: bytes, charset: bytes) -> str:
    return _decode(value, charset)


def _find_first(text: str) -> str:
    return text.partition("\\")[0].strip(" \0")


def _decode(value: bytes, charset: bytes) -> str:
    try:
        text = value.decode(_find_encoding(charset))
    except UnicodeDecodeError:
        text = value.decode("latin-1")  # still tells one patient from another
    return text.strip(" \0")


@lru_cache
def _find_encoding(charset: bytes) -> str:
    first = charset.partition(b"\\")[0].strip(b" \0")  # PS3.3 C.12.1.1.2
    return python_encoding.get(first.decode("latin-1"), "latin-1")


@lru_cache(maxsize=4096)
def _parse_numbers(value: bytes, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part.strip(b" \0")) for part in _mend_commas(value).split(b"\\")[:count])
    except ValueError:
        return (math.nan,) * count
    sound = len(numbers) == count and all(map(math.isfinite, numbers))
    return numbers if sound and b"_" not in value else (math.nan,) * count  # Python takes 1_0 for 10


_DECIMAL_COMMA = re.compile(rb"[ \0]*[+-]?\d+,\d+(?:[eE][+-]?\d+)?[ \0]*")
_MAYBE_THOUSANDS = re.compile(rb"[ \0]*[+-]?[1-9]\d{0,2},\d{3}[ \0]*")


def _mend_commas(value: bytes) -> bytes:
    """Replaces decimal commas by points; some writers use them by their language settings.

    PS3.5 6.2 allows only a point. 1,024 may be a little more than one, or a thousand. It stays malformed,
    unless a comma in another value beside it can only be a decimal one.
    """
    if b"," not in value:
        return value
    parts = [part for part in value.split(b"\\") if b"," in part]
    are_decimal = all(map(_DECIMAL_COMMA.fullmatch, parts)) and not all(
        map(_MAYBE_THOUSANDS.fullmatch, parts)
    )
    return value.replace(b",", b".") if are_decimal and b"." not in value else value
