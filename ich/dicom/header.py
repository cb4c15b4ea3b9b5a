"""What the index holds of a slice, from what its data set says."""

from __future__ import annotations

import math
from typing import NamedTuple

from ich.dicom.elements import UIDS, Tag, Values
from ich.dicom.kind import Kind
from ich.dicom.refusal import RefusedError
from ich.schema.codes import Refusal


class Header(NamedTuple):
    """What the index holds of a slice; the names are the columns of ``ich.tables.INDEX_DTYPES``.

    Numbers that a file may lack are NaN where it lacks them or where they are malformed. Rows, columns and
    the spacing between them are those of the slice in LPS, as ``read_hu`` gives it.

    Attributes:
        SOPInstanceUID: As stored; the RSNA's ``ID_...`` is no valid UID. Of a file of several frames with
            ``#`` and the number of the frame behind it, so that it names one slice.
        PatientID: Empty where not given.
        StudyInstanceUID: As stored.
        SeriesInstanceUID: As stored.
        frame: The number of the slice among the frames of its file, from 1; 0 where the file holds one.
        position: ImagePositionPatient along the slice normal in mm (PS3.3 C.7.6.2.1.1), growing from the feet
            to the head.
        InstanceNumber: The number of the slice, or NaN.
        tilt: Rotation of the slice about the patient's x axis in degrees, positive where the front of
            the head is raised: atan2(n_y, n_z) of the slice normal n, taken upwards. NaN without an
            orientation.
        orientation: What brings the stored pixels to LPS: a number of ``ich.dicom.orientation``.
        Rows: Height in pixels.
        Columns: Width in pixels.
        row_spacing: mm between rows, or NaN.
        column_spacing: mm between columns, or NaN.
        PhotometricInterpretation: MONOCHROME1 or MONOCHROME2.
        BitsAllocated: Bits that a stored value takes up in the file.
        BitsStored: Bits of a stored value.
        PixelRepresentation: 1 where stored values are signed.
        RescaleSlope: HU of one step of the stored value.
        RescaleIntercept: HU of the stored value 0, as the file says (not as the quirk has it).
        WindowCenter: HU, the first of several, or NaN.
        WindowWidth: HU, the first of several, or NaN.
        TransferSyntaxUID: How the file is encoded.
        padding_low: The lowest stored value that is padding (PS3.3 C.7.5.1.1.2).
        padding_high: The highest; below ``padding_low`` where none is named.
        pixel_offset: Bytes from the start of the file to the first stored value, where it takes no decoding:
            uncompressed, 16 bits, little-endian. -1 elsewhere.
        RescaleType: The unit of rescaled values; empty where not given, as are those below.
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
    """Fills a header from what a data set says; as of a file of one slice.

    Args:
        values: Values of the data set, by tag.
        kind: What they make of the slice.
        syntax: TransferSyntaxUID.
        pixel_offset: As the header has it.

    Raises:
        RefusedError: If a UID is lacking.
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
        PatientID=values.whole(Tag.PatientID),  # what stands behind a backslash tells patients apart
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
