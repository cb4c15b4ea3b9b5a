"""The values of a slice for the index, from its data set."""

from __future__ import annotations

import math
from typing import NamedTuple

from ich.dicom.elements import UIDS, Tag, Values
from ich.dicom.kind import Kind
from ich.dicom.refusal import RefusedError
from ich.schema.codes import Refusal


class Header(NamedTuple):
    """The values of a slice for the index; the names are the columns of ``ich.tables.INDEX_DTYPES``.

    Numbers are NaN if the file lacks them or they are malformed. Rows, columns and the spacing between them
    are those of the slice in LPS, as from ``read_hu``.

    Attributes:
        SOPInstanceUID: As stored; the RSNA's ``ID_...`` is not a valid UID. In a multi-frame file, ``#`` and
            the number of the frame follow, so that it names one slice.
        PatientID: As stored; empty if missing.
        StudyInstanceUID: As stored.
        SeriesInstanceUID: As stored.
        frame: Number of the slice among the frames of its file, from 1; 0 if the file holds one slice.
        position: ImagePositionPatient along the slice normal in mm (PS3.3 C.7.6.2.1.1), growing from the feet
            to the head.
        InstanceNumber: The number of the slice, or NaN.
        tilt: Rotation of the slice about the patient's x axis in degrees, positive where the front of
            the head is raised: atan2(n_y, n_z) of the slice normal n, taken upwards. NaN without an
            orientation.
        orientation: Conversion of the stored pixels to LPS: a number of ``ich.dicom.orientation``.
        Rows: Height in pixels.
        Columns: Width in pixels.
        row_spacing: mm between rows, or NaN.
        column_spacing: mm between columns, or NaN.
        PhotometricInterpretation: MONOCHROME1 or MONOCHROME2.
        BitsAllocated: Bits of a stored value in the file, with unused bits.
        BitsStored: Bits of a stored value.
        PixelRepresentation: 1 if stored values are signed.
        RescaleSlope: HU of one step of the stored value.
        RescaleIntercept: HU of the stored value 0, by the file, without correction of the quirk.
        WindowCenter: HU, the first value, or NaN.
        WindowWidth: HU, the first value, or NaN.
        TransferSyntaxUID: Encoding of the file.
        padding_low: The lowest stored value that is padding (PS3.3 C.7.5.1.1.2).
        padding_high: The highest one; below ``padding_low`` if there is no padding.
        pixel_offset: Bytes from the start of the file to the first stored value, if it needs no decoding:
            uncompressed, 16 bits, little-endian. Otherwise -1.
        RescaleType: The unit of rescaled values; empty if missing, like those below.
        ImageType: All values, between backslashes.
        AcquisitionNumber: Number of the scan.
        ConvolutionKernel: The reconstruction kernel.
        AcquisitionTime: When the scan began, as stored.
        ContentTime: When the image was made, as stored.
    """

    SOPInstanceUID: str
    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    frame: int
    position: float
    InstanceNumber: float
    tilt: float
    orientation: int
    Rows: int
    Columns: int
    row_spacing: float
    column_spacing: float
    PhotometricInterpretation: str
    BitsAllocated: int
    BitsStored: int
    PixelRepresentation: int
    RescaleSlope: float
    RescaleIntercept: float
    WindowCenter: float
    WindowWidth: float
    TransferSyntaxUID: str
    padding_low: int
    padding_high: int
    pixel_offset: int
    RescaleType: str
    ImageType: str
    AcquisitionNumber: str
    ConvolutionKernel: str
    AcquisitionTime: str
    ContentTime: str


def make_header(values: Values, kind: Kind, syntax: str, pixel_offset: int) -> Header:
    """Makes a header from the values of a data set, as for a file of one slice.

    Args:
        values: Values of the data set, by tag.
        kind: Kind of the slice that follows from them.
        syntax: TransferSyntaxUID.
        pixel_offset: As in the header.

    Raises:
        RefusedError: If a UID is missing.
    """
    instance, study, series = map(values.text, UIDS)
    if not (instance and study and series):
        (lacking, *_) = (tag for tag in UIDS if not values.text(tag))
        raise RefusedError(Refusal.NO_UID, f"lacks {lacking.name}")
    x, y, z = values.numbers(Tag.ImagePositionPatient, 3)
    normal, tilt, _, orientation = kind.plane
    pixel_format = kind.pixel_format
    (width,) = values.numbers(Tag.WindowWidth, 1)
    low, high = kind.rescale.padding or (0, -1)
    return Header(
        SOPInstanceUID=instance,
        PatientID=values.whole(Tag.PatientID),  # the part behind a backslash may distinguish patients
        StudyInstanceUID=study,
        SeriesInstanceUID=series,
        frame=0,
        position=normal[0] * x + normal[1] * y + normal[2] * z,
        InstanceNumber=values.numbers(Tag.InstanceNumber, 1)[0],
        tilt=tilt,
        orientation=orientation,
        Rows=kind.shape[0],
        Columns=kind.shape[1],
        row_spacing=kind.spacing[0],
        column_spacing=kind.spacing[1],
        PhotometricInterpretation=pixel_format.photometric_interpretation,
        BitsAllocated=pixel_format.bits_allocated,
        BitsStored=pixel_format.bits_stored,
        PixelRepresentation=pixel_format.pixel_representation,
        RescaleSlope=kind.rescale.slope,
        RescaleIntercept=kind.rescale.intercept,
        WindowCenter=values.numbers(Tag.WindowCenter, 1)[0],
        WindowWidth=width if width > 0 else math.nan,
        TransferSyntaxUID=syntax,
        padding_low=low,
        padding_high=high,
        pixel_offset=pixel_offset,
        RescaleType=values.whole(Tag.RescaleType),
        ImageType=values.whole(Tag.ImageType),
        AcquisitionNumber=values.whole(Tag.AcquisitionNumber),
        ConvolutionKernel=values.whole(Tag.ConvolutionKernel),
        AcquisitionTime=values.whole(Tag.AcquisitionTime),
        ContentTime=values.whole(Tag.ContentTime),
    )
