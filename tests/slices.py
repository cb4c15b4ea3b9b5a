"""Slices as bytes of DICOM files, by pydicom."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

ROWS, COLUMNS = 48, 40
STORED = np.random.default_rng(0).integers(-900, 3000, (ROWS, COLUMNS))


def make_slice(
    stored: NDArray[Any] = STORED,
    bits: int = 16,
    signed: int = 1,
    syntax: str = uid.ExplicitVRLittleEndian,
    **changes: Any,
) -> Dataset:
    """A slice with the header of the RSNA set; a change to None removes the element."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.preamble = bytes(128)
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    elements = {
        "SOPInstanceUID": "ID_000000001",
        "Modality": "CT",
        "PatientID": "ID_0a",
        "StudyInstanceUID": "ID_study",
        "SeriesInstanceUID": "ID_series",
        "StudyID": "",
        "ImagePositionPatient": [-125.0, -120.0, 30.0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "PixelSpacing": [0.5, 0.4],
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": signed,
        "WindowCenter": [40.0, 600.0],
        "WindowWidth": [80.0, 2800.0],
        "RescaleIntercept": -24.0,
        "RescaleSlope": 1.0,
        "PixelData": stored.astype(f"{order}{'ui'[signed]}2").tobytes(),
    }
    with pydicom.config.disable_value_validation():
        for keyword, value in (elements | changes).items():
            if value is not None:
                setattr(ds, keyword, value)
        if "PixelData" in ds:
            ds["PixelData"].VR = "OW"
    return ds


def put_raw(ds: Dataset, keyword: str, value: bytes) -> None:
    """Puts in a value that pydicom would not take."""
    tag = Tag(keyword)
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)


def to_bytes(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(buffer, ds, enforce_file_format=False)
    return buffer.getvalue()


def compressed(syntax: str, **changes: Any) -> Dataset:
    ds = make_slice(**changes)
    ds.compress(syntax, generate_instance_uid=False)
    return ds
