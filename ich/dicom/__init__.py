"""One DICOM file: its header, and its stored pixels as Hounsfield units.

``elements`` walks the data set, ``frames`` decodes its pixels; what a slice is, and what becomes of one that
is none, stands here.
"""

from __future__ import annotations

import io
import math
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from pydicom import uid

from ich.dicom.elements import PIXEL_DATA, Element, Stream, Tag, Values, read_syntax, read_values
from ich.dicom.frames import DECODERS, PixelFormat, check_length, describe_syntax, read_stored
from ich.schema import AIR_HU, ReadError

MAX_SIDE = 4096  # pixels; CT is 512, at times 1024 or 2048
MAX_BYTES = 1 << 28  # of a file: eight times the largest slice
MAX_INFLATED = 1 << 26  # of a deflated data set: twice the largest slice
MAX_SLOPE, MAX_INTERCEPT = 1e4, 1e6  # HU; beyond these nothing of CT is left


class Refusal(StrEnum):
    """Why a file was refused: the codes of ``ReadError``, stable between versions."""

    UNREADABLE = "unreadable"  # the system does not open or read it
    NOT_FILE = "not_file"  # a folder, pipe, socket or device
    EMPTY = "empty"  # no bytes
    NOT_DICOM = "not_dicom"  # no DICOM file meta information (PS3.10 7.1)
    CORRUPT = "corrupt"  # not to be parsed or decoded, or contradicts itself
    TRUNCATED = "truncated"  # ends before its last element or pixel
    TOO_LARGE = "too_large"  # larger than any CT slice, perhaps only when inflated
    NO_PIXELS = "no_pixels"  # no Pixel Data
    NOT_CT = "not_ct"  # Modality is not CT
    COLOUR = "colour"  # several samples a pixel, or a palette
    MULTI_FRAME = "multi_frame"  # several frames, or Enhanced CT
    PIXEL_FORMAT = "pixel_format"  # bit fields that no CT slice has
    NO_RESCALE = "no_rescale"  # no slope and intercept that lead to HU
    NO_UID = "no_uid"  # lacks the UID of the instance, series or study
    UNSUPPORTED_SYNTAX = "unsupported_syntax"  # no codec for its transfer syntax is installed


@dataclass(frozen=True)
class Header:
    """What the index holds of a slice; the names are the columns of ``ich.tables.INDEX_DTYPES``.

    Numbers that a file may lack are NaN where it lacks them or where they are malformed.

    Attributes:
        SOPInstanceUID: As stored; the RSNA's ``ID_...`` is no valid UID.
        PatientID: Empty where not given.
        StudyInstanceUID: As stored.
        SeriesInstanceUID: As stored.
        position: ImagePositionPatient along the slice normal in mm (PS3.3 C.7.6.2.1.1).
        InstanceNumber: The number of the slice, or NaN.
        tilt: Rotation of the slice about the patient's x axis in degrees, positive where the front of
            the head is raised: atan2(n_y, n_z) of the slice normal n, taken upwards. NaN without an
            orientation.
        Rows: Height in pixels.
        Columns: Width in pixels.
        row_spacing: mm between rows, or NaN.
        column_spacing: mm between columns, or NaN.
        PhotometricInterpretation: MONOCHROME1 or MONOCHROME2.
        BitsStored: Bits of a stored value.
        PixelRepresentation: 1 where stored values are signed.
        RescaleSlope: HU of one step of the stored value.
        RescaleIntercept: HU of the stored value 0, as the file says (not as the quirk has it).
        WindowCenter: HU, the first of several, or NaN.
        WindowWidth: HU, the first of several, or NaN.
        TransferSyntaxUID: How the file is encoded.
    """

    SOPInstanceUID: str
    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    position: float
    InstanceNumber: float
    tilt: float
    Rows: int
    Columns: int
    row_spacing: float
    column_spacing: float
    PhotometricInterpretation: str
    BitsStored: int
    PixelRepresentation: int
    RescaleSlope: float
    RescaleIntercept: float
    WindowCenter: float
    WindowWidth: float
    TransferSyntaxUID: str


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads the header of a CT slice, and no pixel.

    Raises:
        ReadError: If the file is no CT slice that can be read; its code is a ``Refusal``.
    """
    with _open(Path(path)) as stream:
        return _read_slice(stream).header


def read_hu(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the pixels of a CT slice.

    The modality rescale of PS3.3 C.11.1.1.2, rounded to the nearest HU. Padding (PS3.3 C.7.5.1.1.2, and
    whatever lies below -1024 HU, as untagged padding does) is -1024 HU, the air outside the scan circle.
    MONOCHROME1 changes nothing: it says how values are displayed once the VOI transformation is done
    (PS3.3 C.7.6.3.1.2), and the rescale comes before that (PS3.3 C.11.1).

    The quirk of the RSNA set is mended: 12-bit unsigned values with an intercept above -100 were shifted
    by 1000 and wrapped at 4096.

    Args:
        path: A file that holds one slice.

    Returns:
        (Rows, Columns) int16 array of HU from -1024 to 32767.

    Raises:
        ReadError: If the file is no CT slice that can be read; its code is a ``Refusal``.
    """
    with _open(Path(path)) as stream:
        found = _read_slice(stream)
        stored = read_stored(found.pixels, found.stream, found.header.TransferSyntaxUID, found.pixel_format)
    hu = _rescale(stored.astype(np.int32), found.header)
    np.clip(hu, AIR_HU, np.iinfo(np.int16).max, out=hu)
    bounds = _find_padding(found)
    if bounds is not None:
        hu[(stored >= bounds[0]) & (stored <= bounds[1])] = AIR_HU
    return hu.astype(np.int16)


class _RefusedError(Exception):
    """A refusal before the name of the file is put to it."""

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.code = code


@contextmanager
def _open(path: Path) -> Iterator[Stream]:
    """Opens a file; what goes wrong with it until it is closed becomes a ``ReadError``."""
    try:
        size = _check_file(path.stat())
        with path.open("rb") as file:
            yield Stream(file, size)
    except _RefusedError as refused:
        raise ReadError(refused.code, path, str(refused)) from None
    except EOFError as error:
        raise ReadError(Refusal.TRUNCATED, path, str(error)) from error
    except OSError as error:
        raise ReadError(Refusal.UNREADABLE, path, error.strerror or str(error)) from error
    except (MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # pydicom and the codecs raise whatever they come upon (one in Rust panics, which is no Exception),
        # and one bad file of 750,000 must be no more than that: refused under its name.
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ReadError(Refusal.CORRUPT, path, detail) from error


def _check_file(status: os.stat_result) -> int:
    """Returns the size; refuses before it is opened what blocks, is empty or is no slice by its size."""
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError(Refusal.NOT_FILE, "is no regular file")
    if status.st_size == 0:
        raise _RefusedError(Refusal.EMPTY, "has no bytes")
    if status.st_size > MAX_BYTES:
        raise _RefusedError(Refusal.TOO_LARGE, f"has {status.st_size} bytes, at most {MAX_BYTES} are read")
    return status.st_size


class _Slice(NamedTuple):
    """A slice up to the value of its pixels, at which the stream stands."""

    header: Header
    pixel_format: PixelFormat
    values: Values
    pixels: Element
    stream: Stream


def _read_slice(stream: Stream) -> _Slice:
    if stream.file.read(132)[128:] != b"DICM":
        raise _RefusedError(Refusal.NOT_DICOM, "lacks the prefix DICM after 128 bytes")
    syntax = read_syntax(stream)
    if not syntax:
        raise _RefusedError(Refusal.NOT_DICOM, "lacks TransferSyntaxUID in its file meta information")
    if syntax not in DECODERS:
        raise _RefusedError(Refusal.UNSUPPORTED_SYNTAX, f"no codec is known for {describe_syntax(syntax)}")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        stream = _inflate(stream.file)
    stream.order = "big" if syntax == uid.ExplicitVRBigEndian else "little"
    values, pixels = read_values(stream, explicit=syntax != uid.ImplicitVRLittleEndian)
    if pixels is None or pixels.tag != PIXEL_DATA:
        raise _RefusedError(Refusal.NO_PIXELS, "has no Pixel Data")
    _check_image(values)
    pixel_format = _make_pixel_format(values)
    header = _make_header(values, pixel_format, syntax)
    if not DECODERS[syntax].is_available:
        raise _RefusedError(
            Refusal.UNSUPPORTED_SYNTAX,
            f"no codec for {describe_syntax(syntax)} is installed: pip install 'ich[codecs]'",
        )
    check_length(pixels, stream, syntax, pixel_format)
    return _Slice(header, pixel_format, values, pixels, stream)


def _inflate(file: BinaryIO) -> Stream:
    """Inflates the data set after the file meta information (PS3.5 A.5), up to a bound."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), MAX_INFLATED)
    if not inflater.eof:
        if len(data) == MAX_INFLATED:
            raise _RefusedError(Refusal.TOO_LARGE, f"inflates to more than {MAX_INFLATED} bytes")
        raise EOFError("ends within its deflated data set")
    return Stream(io.BytesIO(data), len(data))


def _check_image(values: Values) -> None:
    """Refuses what is no single grey CT slice, or cannot be told from another."""
    if (modality := values.text(Tag.Modality)) != "CT":
        raise _RefusedError(Refusal.NOT_CT, f"Modality is {modality!r}, expected 'CT'")
    frames = values.text(Tag.NumberOfFrames) or "1"
    if frames != "1":
        raise _RefusedError(Refusal.MULTI_FRAME, f"NumberOfFrames is {frames}, expected 1")
    if Tag.SharedFunctionalGroupsSequence in values.raw:
        raise _RefusedError(Refusal.MULTI_FRAME, "is Enhanced CT, expected a slice a file")
    samples, photometric = values.short(Tag.SamplesPerPixel), values.text(Tag.PhotometricInterpretation)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _RefusedError(
            Refusal.COLOUR,
            f"SamplesPerPixel is {samples} and PhotometricInterpretation {photometric!r}, "
            "expected 1 and MONOCHROME1 or MONOCHROME2",
        )
    for tag in (Tag.SOPInstanceUID, Tag.StudyInstanceUID, Tag.SeriesInstanceUID):
        if not values.text(tag):
            raise _RefusedError(Refusal.NO_UID, f"lacks {tag.name}")


def _make_pixel_format(values: Values) -> PixelFormat:
    rows, columns = values.short(Tag.Rows), values.short(Tag.Columns)
    if max(rows, columns) > MAX_SIDE:
        raise _RefusedError(
            Refusal.TOO_LARGE, f"has {rows} x {columns} pixels, at most {MAX_SIDE} a side are read"
        )
    allocated, stored = values.short(Tag.BitsAllocated), values.short(Tag.BitsStored)
    high, signed = values.short(Tag.HighBit), values.short(Tag.PixelRepresentation)
    sound = allocated in (8, 16) and 1 < stored <= allocated and high == stored - 1 and signed in (0, 1)
    if not sound or rows == 0 or columns == 0:
        raise _RefusedError(
            Refusal.PIXEL_FORMAT,
            f"{rows} x {columns} pixels, BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}, "
            f"PixelRepresentation {signed}: expected 8 or 16 bits, HighBit one below BitsStored, and 0 or 1",
        )
    return PixelFormat(rows, columns, allocated, stored, signed, values.text(Tag.PhotometricInterpretation))


def _make_header(values: Values, pixel_format: PixelFormat, syntax: str) -> Header:
    slope, intercept = _find_rescale(values)
    position, tilt = _find_place(values)
    row_spacing, column_spacing = values.numbers(Tag.PixelSpacing, 2)
    (width,) = values.numbers(Tag.WindowWidth, 1)
    return Header(
        SOPInstanceUID=values.text(Tag.SOPInstanceUID),
        PatientID=values.text(Tag.PatientID),
        StudyInstanceUID=values.text(Tag.StudyInstanceUID),
        SeriesInstanceUID=values.text(Tag.SeriesInstanceUID),
        position=position,
        InstanceNumber=values.numbers(Tag.InstanceNumber, 1)[0],
        tilt=tilt,
        Rows=pixel_format.rows,
        Columns=pixel_format.columns,
        row_spacing=row_spacing if row_spacing > 0 else math.nan,
        column_spacing=column_spacing if column_spacing > 0 else math.nan,
        PhotometricInterpretation=pixel_format.photometric_interpretation,
        BitsStored=pixel_format.bits_stored,
        PixelRepresentation=pixel_format.pixel_representation,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=values.numbers(Tag.WindowCenter, 1)[0],
        WindowWidth=width if width > 0 else math.nan,
        TransferSyntaxUID=syntax,
    )


def _find_rescale(values: Values) -> tuple[float, float]:
    """Slope and intercept, where they lead to HU (PS3.3 C.8.2.1)."""
    (slope,), (intercept,) = values.numbers(Tag.RescaleSlope, 1), values.numbers(Tag.RescaleIntercept, 1)
    if Tag.ModalityLUTSequence in values.raw:
        raise _RefusedError(Refusal.NO_RESCALE, "has a Modality LUT, expected RescaleSlope and Intercept")
    if (kind := values.text(Tag.RescaleType)) not in ("", "HU"):
        raise _RefusedError(Refusal.NO_RESCALE, f"RescaleType is {kind!r}, expected 'HU' or none")
    if not (0 < abs(slope) <= MAX_SLOPE and abs(intercept) <= MAX_INTERCEPT):
        raise _RefusedError(
            Refusal.NO_RESCALE,
            f"RescaleSlope is {slope} and RescaleIntercept {intercept}, expected two numbers that lead to HU",
        )
    return slope, intercept


def _find_place(values: Values) -> tuple[float, float]:
    """Position along the slice normal in mm and tilt in degrees (PS3.3 C.7.6.2.1.1)."""
    a, b, c, d, e, f = values.numbers(Tag.ImageOrientationPatient, 6)
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)  # row direction x column direction
    length = math.hypot(*normal)
    if not abs(length - 1) < 0.01:  # not two directions at a right angle
        return math.nan, math.nan
    place = values.numbers(Tag.ImagePositionPatient, 3)
    position = sum(n * p for n, p in zip(normal, place, strict=True)) / length
    upwards = math.copysign(1, normal[2])
    return position, math.degrees(math.atan2(upwards * normal[1], upwards * normal[2]))


def _find_padding(found: _Slice) -> tuple[int, int] | None:
    """The lowest and highest stored value that are padding (PS3.3 C.7.5.1.1.2)."""
    first, last = (
        found.values.raw.get(tag, b"") for tag in (Tag.PixelPaddingValue, Tag.PixelPaddingRangeLimit)
    )
    if len(first) != 2:
        return None
    signed = found.header.PixelRepresentation == 1  # whatever an explicit VR says
    bounds = [int.from_bytes(v, found.values.order, signed=signed) for v in (first, last) if len(v) == 2]
    return min(bounds), max(bounds)


def _rescale(stored: np.ndarray, header: Header) -> np.ndarray:
    """Stored values, int32 and written over, to HU that may lie outside 16 bits."""
    slope, intercept = header.RescaleSlope, header.RescaleIntercept
    if header.BitsStored == 12 and header.PixelRepresentation == 0 and intercept > -100:
        stored += 1000
        stored[stored >= 4096] -= 4096
        intercept = -1000.0
    if slope == 1 and intercept.is_integer():
        stored += np.int32(intercept)
        return stored
    hu: np.ndarray = np.rint(stored * slope + intercept)
    return hu
