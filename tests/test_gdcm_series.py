"""A head as GDCM writes it for SimpleITK: without a unit, of any integer type, each slice its own study."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawings import draw_once
from pydicom import uid
from pydicom.dataset import Dataset

from ich.dicom import read_header, read_hu
from ich.predict.reading import Reading, read_study
from ich.schema.codes import Note, SetAside
from ich.studies import StudyFiles, find_studies

Change = Callable[[Dataset, int], None]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The slices of a study."""
    root = draw_once(tmp_path_factory, patients=1, seed=4, conformant=True)
    slices = sorted((root / "stage_2_train").iterdir())
    study = read_header(slices[0]).StudyInstanceUID
    whole = [path for path in slices if read_header(path).StudyInstanceUID == study]
    return sorted(whole, key=lambda path: read_header(path).position)


def rewrite(ds: Dataset, number: int, dtype: str = "i2", slope: float = 1.0) -> None:
    """What ITK gives GDCM, and what GDCM makes of it."""
    hu = np.clip(ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept), -1024, None)
    stored = np.rint(hu / slope).astype(f"<{dtype}")
    bits = 8 * stored.itemsize
    for keyword in ("PixelPaddingValue", "KVP", "ConvolutionKernel", "FrameOfReferenceUID"):
        if keyword in ds:
            delattr(ds, keyword)
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.ImageType, ds.PatientID, ds.InstanceNumber = ["DERIVED", "SECONDARY"], "", number
    ds.SOPInstanceUID, ds.StudyInstanceUID = f"1.2.826.0.1.{number}", f"1.2.826.0.2.{100 - number}"
    ds.SeriesInstanceUID = "1.2.826.0.3"
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-110, -110, 5 * number]
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit, ds.PixelRepresentation = bits - 1, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", str(slope), "US"
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"


def write(head: list[Path], folder: Path, *changes: Change) -> list[StudyFiles]:
    folder.mkdir()
    for number, path in enumerate(head):
        ds = pydicom.dcmread(path)
        for change in changes:
            change(ds, number)
        ds.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    return find_studies([folder], scratch=scratch, progress=False).studies


def read(study: StudyFiles) -> Reading:
    with ThreadPoolExecutor(2) as pool:
        return read_study(study, {64}, pool)


def name_unit(ds: Dataset, number: int) -> None:
    ds.RescaleType, ds.StudyInstanceUID = "HU", "1.2.826.0.2"


@pytest.mark.parametrize(("dtype", "slope"), [("i2", 1.0), ("i2", 0.1), ("i4", 1.0), ("i4", 0.01)])
def test_values_of_any_integer_type(head: list[Path], tmp_path: Path, dtype: str, slope: float) -> None:
    write(head, tmp_path / "in", lambda ds, number: rewrite(ds, number, dtype, slope))
    for number, path in enumerate(head):
        np.testing.assert_allclose(read_hu(tmp_path / "in" / f"{number}.dcm"), read_hu(path), atol=1)


def test_a_head_without_a_unit_is_read_and_noted(head: list[Path], tmp_path: Path) -> None:
    (tmp_path / "named").mkdir()
    (named,) = write(head, tmp_path / "named" / "in", rewrite, name_unit)
    (unnamed,) = write(head, tmp_path / "in", rewrite)
    expected, reading = read(named), read(unnamed)
    assert reading.refusal is None
    assert reading.reasons == expected.reasons
    found = {note.code: note.detail for note in reading.notes}
    assert found.keys() - {note.code for note in expected.notes} == {Note.NO_UNIT, Note.STUDY_EACH}
    assert str(len(head)) in found[Note.NO_UNIT]


def test_slices_that_each_name_a_study_are_one(head: list[Path], tmp_path: Path) -> None:
    (study,) = write(head, tmp_path / "in", rewrite)
    assert len(study.files) == len(head)
    assert study.StudyInstanceUID == min(f"1.2.826.0.2.{100 - n}" for n in range(len(head)))
    assert [remark.code for remark in study.remarks] == [Note.STUDY_EACH]


def same_place(ds: Dataset, number: int) -> None:
    ds.ImagePositionPatient = [0, 0, 0]


def own_frame(ds: Dataset, number: int) -> None:
    ds.FrameOfReferenceUID = f"1.2.826.0.4.{number}"


def own_patient(ds: Dataset, number: int) -> None:
    ds.PatientID = f"P{number}"


@pytest.mark.parametrize("change", [same_place, own_frame, own_patient])
def test_what_may_be_several_studies_stays_so(head: list[Path], tmp_path: Path, change: Change) -> None:
    studies = write(head, tmp_path / "in", rewrite, change)
    assert len(studies) == len(head)
    refusal = read(studies[0]).refusal
    assert refusal is not None
    assert refusal.code == SetAside.TOO_FEW_SLICES


def test_what_is_not_on_the_scale_is_not_believed_without_a_unit(head: list[Path], tmp_path: Path) -> None:
    def shift(ds: Dataset, number: int) -> None:
        ds.RescaleIntercept = "-400"

    (study,) = write(head, tmp_path / "in", rewrite, shift)
    reading = read(study)
    assert reading.refusal is not None or reading.reasons


def test_an_object_without_modality_is_not_ct(head: list[Path], tmp_path: Path) -> None:
    def forget(ds: Dataset, number: int) -> None:
        ds.Modality, ds.SOPClassUID = "OT", uid.SecondaryCaptureImageStorage
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID

    studies = write(head, tmp_path / "in", rewrite, forget)
    refusal = read(studies[0]).refusal
    assert refusal is not None
    assert refusal.code in (SetAside.NOT_CT, SetAside.SECONDARY_CAPTURE)
