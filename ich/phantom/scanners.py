"""What scanners and the people at them call the series of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Scanner(NamedTuple):
    """A scanner's words.

    Attributes:
        manufacturer: As in Manufacturer.
        study: StudyDescription of a head.
        names: SeriesDescription and ConvolutionKernel by the kind of a series.
    """

    manufacturer: str
    study: str
    names: Mapping[str, tuple[str, str]]


SCANNERS = (
    Scanner(
        "SIEMENS",
        "CT^01_HeadRoutine (Adult)",
        {
            "scout": ("Topogram  0.6  T20f", "T20f"),
            "soft": ("Head  5.0  H31s", "H31s"),
            "thin": ("Head  2.5  H31s", "H31s"),
            "bone": ("Head  5.0  H60s", "H60s"),
            "contrast": ("Head post contrast  5.0  H31s", "H31s"),
            "repeat": ("Head repeat  5.0  H31s", "H31s"),
            "coronal": ("Head cor MPR  5.0  H31s", "H31s"),
            "chest": ("Thorax  5.0  B31f", "B31f"),
            "abdomen": ("Abdomen  5.0  B31f", "B31f"),
        },
    ),
    Scanner(
        "GE MEDICAL SYSTEMS",
        "CT HEAD",
        {
            "scout": ("SCOUT", "STANDARD"),
            "soft": ("AXIAL HEAD W/O", "STANDARD"),
            "thin": ("2.5 HEAD W/O", "STANDARD"),
            "bone": ("BONE", "BONEPLUS"),
            "contrast": ("AXIAL HEAD +C", "STANDARD"),
            "repeat": ("REPEAT HEAD W/O", "STANDARD"),
            "coronal": ("COR REFORMAT", "STANDARD"),
            "chest": ("CHEST 5MM", "LUNG"),
            "abdomen": ("ABD/PEL 5MM", "STANDARD"),
        },
    ),
    Scanner(
        "Philips",
        "Schädel-CT",
        {
            "scout": ("Surview", "A"),
            "soft": ("Schädel nativ 5mm", "UB"),
            "thin": ("Schädel nativ 2.5mm", "UB"),
            "bone": ("Schädel Knochen", "YD"),
            "contrast": ("Schädel KM", "UB"),
            "repeat": ("Schädel nativ Wdh.", "UB"),
            "coronal": ("Schädel coronal", "UB"),
            "chest": ("Thorax Weichteil", "B"),
            "abdomen": ("Abdomen", "B"),
        },
    ),
    Scanner(
        "TOSHIBA",
        "TDM cérébrale",
        {
            "scout": ("Scano", "FL03"),
            "soft": ("Cerveau sans injection", "FC26"),
            "thin": ("Cerveau fin sans injection", "FC26"),
            "bone": ("Os", "FC30"),
            "contrast": ("Cerveau avec injection", "FC26"),
            "repeat": ("Cerveau sans injection", "FC26"),
            "coronal": ("Cerveau coronal", "FC26"),
            "chest": ("Thorax", "FC13"),
            "abdomen": ("Abdomen", "FC13"),
        },
    ),
)

IMAGE_TYPES = {
    "scout": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
    "coronal": ["DERIVED", "SECONDARY", "REFORMATTED"],
    "mr": ["ORIGINAL", "PRIMARY", "M", "SE"],
}
"""Descriptions of series that are not original axial slices."""

MR_VALUES: Mapping[str, Any] = {
    "Modality": "MR",
    "SeriesDescription": "AX T1 SE",
    "StudyDescription": "MR BRAIN",
    "ScanningSequence": "SE",
    "SequenceVariant": "NONE",
    "ScanOptions": "",
    "MRAcquisitionType": "2D",
    "EchoTime": 12,
    "EchoTrainLength": 1,
    "RepetitionTime": 500,
}

CT_ONLY = (
    "KVP",
    "DataCollectionDiameter",
    "GantryDetectorTilt",
    "ConvolutionKernel",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
)
"""Keywords that an MR image lacks."""
