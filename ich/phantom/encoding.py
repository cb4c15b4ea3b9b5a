"""Slices as DICOM files, in the encodings that head CT comes in.

The headers are as sparse as those of the RSNA 2019 data, or those of a conformant CT image
(DICOM PS3.3 A.3). This module knows nothing of the reader: what it writes is what the reader is tested on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ich.phantom.study import Study

PADDING = -2000
"""Stored value outside the scan circle."""


@dataclass(frozen=True)
class Encoding:
    """How the slices of a series are stored.

    Attributes:
        bits: BitsStored.
        signed: PixelRepresentation is 1.
        intercept: RescaleIntercept.
        wrapped: Values are shifted by 1000 and wrapped at 4096, and the intercept does not say so: seen in
            part of the RSNA 2019 data.
        padded: Pixels outside the scan circle hold ``PADDING``.
        windows: WindowCenter and WindowWidth have two values.
        implicit: Implicit instead of explicit VR.
    """

    bits: int
    signed: bool
    intercept: int
    wrapped: bool
    padded: bool
    windows: bool
    implicit: bool

    @classmethod
    def sample(cls, rng: np.random.Generator, number: int, *, conformant: bool) -> Encoding:
        """Draws the encoding of series ``number``: the kinds in turn, the wrapped one unless conformant."""
        windows, implicit = (bool(flag) for flag in rng.random(2) < 0.5)
        kinds = _KINDS[:-1] if conformant else _KINDS
        return cls(*kinds[number % len(kinds)], windows, implicit)

    def store(self, hu: NDArray[np.int16]) -> NDArray[np.int16] | NDArray[np.uint16]:
        """Returns the stored values of a slice, (H, W): HU that do not fit are cut off."""
        if self.wrapped:
            # Readers undo it as (stored + 1000) mod 4096 - 1000.
            value = np.clip(hu.astype(np.int32) + 1000, 0, 4095)
            return ((value - 1000) % 4096).astype(np.uint16)
        value = hu.astype(np.int32) - self.intercept
        if not self.signed:
            return np.clip(value, 0, 2**self.bits - 1).astype(np.uint16)
        if self.padded:
            value[_outside_circle(len(hu))] = PADDING
        return np.clip(value, -(2**15), 2**15 - 1).astype(np.int16)


_KINDS = (
    (12, False, -1024, False, False),
    (16, True, 0, False, True),
    (12, False, -1024, False, False),
    (16, True, -1024, False, False),
    (16, True, -1000, False, True),
    (12, False, 0, True, False),
)
"""BitsStored, signed, RescaleIntercept, wrapped, padded."""


@dataclass(frozen=True)
class SeriesHeader:
    """What the slices of a series share.

    Attributes:
        patient: PatientID.
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        frame: FrameOfReferenceUID.
        number: Number of the study among the patient's studies, from 0.
        encoding: How the pixels are stored.
        conformant: Write every attribute that a CT image has.
    """

    patient: str
    study: str
    series: str
    frame: str
    number: int
    encoding: Encoding
    conformant: bool


def write_slice(path: Path, uid: str, header: SeriesHeader, study: Study, k: int) -> None:
    """Writes slice ``k`` of a study as a DICOM file; arguments as in ``make_slice``."""
    make_slice(uid, header, study, k).save_as(path, enforce_file_format=True)


def make_slice(uid: str, header: SeriesHeader, study: Study, k: int) -> Dataset:
    """Makes slice ``k`` of a study, with its file meta information.

    Args:
        uid: SOPInstanceUID.
        header: Values that the series shares.
        study: The drawn study.
        k: Number of the slice, from 0 at the base.
    """
    encoding = header.encoding
    pixels = encoding.store(study.hu[k])
    ds = Dataset()
    if header.conformant:
        _add_conformant(ds, header, study, k)
    ds.SOPInstanceUID = uid
    ds.Modality = "CT"
    ds.PatientID = header.patient
    ds.StudyInstanceUID = header.study
    ds.SeriesInstanceUID = header.series
    ds.StudyID = str(header.number + 1) if header.conformant else ""
    ds.ImagePositionPatient = [round(float(v), 6) for v in study.origins[k]]
    ds.ImageOrientationPatient = [round(float(v), 6) for v in study.orientation]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelSpacing = [round(study.spacing, 6)] * 2
    ds.BitsAllocated = 16
    ds.BitsStored = encoding.bits
    ds.HighBit = encoding.bits - 1
    ds.PixelRepresentation = int(encoding.signed)
    ds.WindowCenter = [40, 40] if encoding.windows else 40
    ds.WindowWidth = [80, 80] if encoding.windows else 80
    ds.RescaleIntercept = encoding.intercept
    ds.RescaleSlope = 1
    ds.add_new("PixelData", "OW", pixels.astype("<i2" if encoding.signed else "<u2").tobytes())
    if header.conformant and encoding.padded:
        ds.add_new("PixelPaddingValue", "SS", PADDING)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if encoding.implicit else ExplicitVRLittleEndian
    return ds


def _add_conformant(ds: Dataset, header: SeriesHeader, study: Study, k: int) -> None:
    """Adds the attributes of type 1 and 2 of a CT image, and the usual ones of type 3."""
    day, time = f"2020{1 + header.number:02d}15", "101500"
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        "StudyDate": day,
        "SeriesDate": day,
        "AcquisitionDate": day,
        "ContentDate": day,
        "StudyTime": time,
        "SeriesTime": time,
        "AcquisitionTime": time,
        "ContentTime": time,
        "AccessionNumber": "",
        "Manufacturer": "PHANTOM",
        "InstitutionName": "PHANTOM",
        "ReferringPhysicianName": "",
        "StudyDescription": "CT HEAD",
        "SeriesDescription": "HEAD AXIAL",
        "ManufacturerModelName": "ich.phantom",
        "PatientName": f"PHANTOM^{header.patient}",
        "PatientBirthDate": "",
        "PatientSex": "",
        "PatientAge": "",
        "BodyPartExamined": "HEAD",
        "SliceThickness": round(study.thickness, 3),
        "KVP": 120,
        "DataCollectionDiameter": 250,
        "ReconstructionDiameter": round(study.spacing * study.hu.shape[1], 3),
        "GantryDetectorTilt": study.tilt,
        "ConvolutionKernel": "SOFT",
        "PatientPosition": "HFS",
        "SeriesNumber": 2,
        "AcquisitionNumber": 1,
        "InstanceNumber": k + 1,
        "FrameOfReferenceUID": header.frame,
        "PositionReferenceIndicator": "",
        "SliceLocation": round(float(study.origins[k, 2]), 6),
        "RescaleType": "HU",
    }
    for keyword, value in values.items():
        setattr(ds, keyword, value)


def _outside_circle(size: int) -> NDArray[np.bool_]:
    axis = np.arange(size) - 0.5 * (size - 1)
    return np.asarray(axis[:, None] ** 2 + axis**2 > (0.5 * size) ** 2)
