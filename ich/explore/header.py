"""The header of one slice, with all identifying values masked."""

from __future__ import annotations

import warnings
from pathlib import Path

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.uid import UID

from ich.report.document import Missing, Table

MASKED = "masked"
_LONGEST = 60  # characters of a value

# DICOM PS3.15 table E.1-1 lists what may identify somebody, but there are private attributes and new ones as
# well, so this is a list of what may be shown; none of these is in that table.
_SHOWN = frozenset(
    keyword
    for keywords in (
        "FileMetaInformationVersion TransferSyntaxUID MediaStorageSOPClassUID SOPClassUID",
        "SpecificCharacterSet ImageType Modality Manufacturer ManufacturerModelName BodyPartExamined",
        "SliceThickness SpacingBetweenSlices KVP DataCollectionDiameter ReconstructionDiameter",
        "DistanceSourceToDetector DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection",
        "ExposureTime XRayTubeCurrent Exposure FilterType GeneratorPower FocalSpots ConvolutionKernel",
        "PatientPosition ScanOptions RevolutionTime SingleCollimationWidth TotalCollimationWidth TableSpeed",
        "TableFeedPerRotation SpiralPitchFactor CTDIvol",
        "SeriesNumber AcquisitionNumber InstanceNumber",
        "ImagePositionPatient ImageOrientationPatient SliceLocation",
        "SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing PixelAspectRatio",
        "BitsAllocated BitsStored HighBit PixelRepresentation",
        "SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit",
        "WindowCenter WindowWidth WindowCenterWidthExplanation RescaleIntercept RescaleSlope RescaleType",
        "LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod",
    )
    for keyword in keywords.split()
)


def read_header_table(path: Path) -> Table | Missing:
    """Reads the header of a slice without its pixels, as a table that identifies nobody.

    It masks UIDs of instances, names, dates, times, identifiers, free text, sequences, and all other values
    that are not known to be harmless (DICOM PS3.15 table E.1-1).
    """
    what = "The header of one slice"
    try:
        # pydicom warns of the RSNA's UIDs, and of whatever else it has doubts about.
        with warnings.catch_warnings(action="ignore"):
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            rows = [_describe(element) for element in (*ds.file_meta, *ds)]
    except Exception as error:  # pydicom parses values only now, and raises any exception
        return Missing(what, f"pydicom cannot read it ({type(error).__name__}).")
    return Table(("Attribute", "Value", "Tag", "VR"), rows)


def _describe(element: DataElement) -> tuple[str, str, str, str]:
    tag = f"({element.tag.group:04X},{element.tag.element:04X})"
    name = element.keyword or ("private" if element.tag.is_private else "unknown")
    return name, _show(element), tag, str(element.VR)


def _show(element: DataElement) -> str:
    if element.is_empty:
        return "empty"
    if element.keyword not in _SHOWN or element.VR not in dictionary_VR(element.tag).split(" or "):
        return MASKED
    if isinstance(element.value, UID):
        return element.value.name if element.value.name != element.value else MASKED
    values = element.value if element.VM > 1 else [element.value]
    text = " \\ ".join(map(str, values))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
