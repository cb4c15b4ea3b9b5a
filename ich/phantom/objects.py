"""Objects of a study that are not slices: a dose report and the photo of a screen."""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
)

_SHARED = (
    "SpecificCharacterSet",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "Manufacturer",
    "ReferringPhysicianName",
    "StudyDescription",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
)
"""Attributes that are the same in all objects of a study."""


def make_dose_report(source: Dataset, uid: str, series: str) -> Dataset:
    """Makes a radiation dose report (PS3.16 TID 10011), without irradiation events.

    Args:
        source: A slice of the study.
        uid: SOPInstanceUID.
        series: SeriesInstanceUID.
    """
    ds = _start(source, uid, series, XRayRadiationDoseSRStorage, "SR")
    ds.SeriesDescription = "Dose Report"
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = _code("113701", "DCM", "X-Ray Radiation Dose Report")
    events = Dataset()
    events.RelationshipType, events.ValueType = "CONTAINS", "NUM"
    events.ConceptNameCodeSequence = _code("113812", "DCM", "Total Number of Irradiation Events")
    value = Dataset()
    value.NumericValue = 2
    value.MeasurementUnitsCodeSequence = _code("{events}", "UCUM", "events")
    events.MeasuredValueSequence = Sequence([value])
    ds.ContentSequence = Sequence([events])
    return ds


def make_screen(source: Dataset, uid: str, series: str) -> Dataset:
    """Makes the photo of a screen with the protocol of the scan, as scanners keep one; arguments as above."""
    ds = _start(source, uid, series, SecondaryCaptureImageStorage, "CT")
    ds.SeriesDescription = "Patient Protocol"
    ds.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    ds.ConversionType = "WSD"
    ds.PatientOrientation = ds.Laterality = ""
    screen = np.zeros((256, 256), dtype=np.uint8)
    for row, text in enumerate(("PHANTOM", "CTDIvol 48.1 mGy", "DLP 801 mGy*cm", "kV 120")):
        cv2.putText(screen, text, (12, 40 + 30 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = screen.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", screen.tobytes())
    return ds


def _start(source: Dataset, uid: str, series: str, sop_class: UID, modality: str) -> Dataset:
    ds = Dataset()
    for keyword in _SHARED:
        setattr(ds, keyword, getattr(source, keyword))
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.Modality, ds.SeriesInstanceUID = modality, series
    ds.SeriesDate = ds.ContentDate = source.StudyDate
    ds.SeriesTime = ds.ContentTime = source.StudyTime
    ds.InstanceNumber = 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return Sequence([code])
