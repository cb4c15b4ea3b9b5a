from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from ich.dicom.attributes import Attributes, read_attributes
from ich.schema import ReadError
from ich.schema.codes import Refusal

TEXTS = {
    "SOPClassUID": uid.CTImageStorage,
    "SOPInstanceUID": "1.2.3.4",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.5",
    "PatientID": "p7",
    "Modality": "CT",
    "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
    "SeriesDescription": "Sch\u00e4del nativ",
    "StudyDescription": "CCT",
    "ProtocolName": "Kopf Routine",
    "BodyPartExamined": "HEAD",
    "ConvolutionKernel": "Hr40f\\3",
    "ContrastBolusAgent": "Omnipaque",
    "SliceThickness": "5.0",
    "SeriesNumber": "2",
    "AcquisitionNumber": "1",
    "InstanceNumber": "17",
    "FrameOfReferenceUID": "1.2.3.9",
    "ImageOrientationPatient": "1\\0\\0\\0\\1\\0",
}


def make_file(path: Path, syntax: str = uid.ExplicitVRLittleEndian, undefined: bool = False) -> Path:
    ds = Dataset()
    for keyword, text in TEXTS.items():
        setattr(ds, keyword, text.split("\\") if "\\" in text else text)
    ds.SpecificCharacterSet = "ISO_IR 100"
    item = Dataset()
    item.ReferencedSOPInstanceUID = "9.9"
    item.SeriesInstanceUID = "9.9.9"  # of another series
    ds.ReferencedImageSequence = Sequence([item])
    ds["ReferencedImageSequence"].is_undefined_length = undefined
    ds.ContrastBolusAgentSequence = Sequence([item])
    ds.Rows = 4
    ds.PixelData = bytes(32)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
def test_texts_come_back_as_stored(tmp_path: Path, syntax: str, undefined: bool) -> None:
    found = read_attributes(make_file(tmp_path / "a.dcm", syntax, undefined))
    assert found == Attributes(**TEXTS, ContrastBolusAgentSequence="present")


def test_a_transfer_syntax_that_is_not_known_does_not_hide_whose_a_file_is(tmp_path: Path) -> None:
    path = make_file(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1", b"1.2.840.10008.9.9.9"))
    assert read_attributes(path)._asdict().items() >= TEXTS.items()


def test_values_before_the_damage_are_read(tmp_path: Path) -> None:
    whole = make_file(tmp_path / "a.dcm", undefined=True).read_bytes()
    expected = read_attributes(tmp_path / "a.dcm")
    path, seen = tmp_path / "cut.dcm", set()
    for size in range(132, len(whole)):
        path.write_bytes(whole[:size])
        found = read_attributes(path)
        assert all(one in ("", other) for one, other in zip(found, expected, strict=True))
        seen.add(sum(map(bool, found)))
    assert len(seen) > len(TEXTS)  # ever more of them
    rows = whole.index(b"\x28\0\x10\0")
    path.write_bytes(whole[:rows] + b"\xff" * 40)
    assert read_attributes(path) == expected


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", Refusal.EMPTY), (b"\0" * 100, Refusal.NOT_DICOM), (b"Some text. " * 100, Refusal.NOT_DICOM)],
)
def test_a_file_that_is_not_dicom_is_an_error(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ReadError) as refused:
        read_attributes(tmp_path / "a")
    assert refused.value.code == code
    with pytest.raises(ReadError, match=Refusal.NOT_FILE):
        read_attributes(tmp_path)


def test_files_of_others_say_what_pydicom_reads_of_them() -> None:
    compared = 0
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/*.dcm")):
        try:
            with pydicom.config.disable_value_validation():
                ds = pydicom.dcmread(path, stop_before_pixels=True)
                texts = {k: str(ds.get(k) or "") for k in ("StudyInstanceUID", "Modality", "SOPInstanceUID")}
        except Exception:  # whatever pydicom raises
            continue
        found = read_attributes(path)
        assert {k: getattr(found, k) for k in texts} == texts, path.name
        compared += 1
    assert compared > 40
