"""The phantom: layout, labels, encodings, geometry, determinism, refusals."""

import csv
import filecmp
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ich.phantom import draw_patient, write_phantom
from ich.schema import LABELS, SUBTYPES, UserError

SIZE = 64
PATIENTS = 8
SEED = 7


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "sparse"
    write_phantom(out, patients=PATIENTS, seed=SEED, size=SIZE, masks=True)
    return out


@pytest.fixture(scope="module")
def studies():
    """Each patient's studies as they are drawn, without any file."""
    return [draw_patient(SEED, patient, SIZE) for patient in range(PATIENTS)]


@pytest.fixture
def lenient():
    """Reads UIDs that are none without a warning."""
    with pydicom.config.disable_value_validation():
        yield


def read_labels(root: Path) -> dict[str, list[int]]:
    labels: dict[str, list[int]] = {}
    with (root / "stage_2_train.csv").open() as file:
        for row in csv.DictReader(file):
            labels.setdefault(row["ID"].rsplit("_", 1)[0], []).append(int(row["Label"]))
    return labels


def read_headers(root: Path) -> dict[str, pydicom.Dataset]:
    """Reads all files in the order of the CSV, which is the order of drawing."""
    return {uid: pydicom.dcmread(root / "stage_2_train" / f"{uid}.dcm") for uid in read_labels(root)}


def decode_hu(ds: pydicom.Dataset) -> np.ndarray:
    """Decodes by hand, after the description of the data set and not with the library's reader."""
    stored = np.frombuffer(ds.PixelData, "<i2" if ds.PixelRepresentation else "<u2")
    stored = stored.reshape(ds.Rows, ds.Columns).astype(np.int32)
    intercept = int(ds.RescaleIntercept)
    if ds.BitsStored == 12 and ds.PixelRepresentation == 0 and intercept > -100:
        stored = stored + 1000
        stored[stored >= 4096] -= 4096
        intercept = -1000
    return stored * int(ds.RescaleSlope) + intercept


def test_layout_is_that_of_the_rsna_data(phantom):
    lines = (phantom / "stage_2_train.csv").read_text().splitlines()
    names = [line.split(",")[0].rsplit("_", 1)[1] for line in lines[1:]]
    files = sorted(path.stem for path in (phantom / "stage_2_train").iterdir())
    assert lines[0] == "ID,Label"
    assert names == list(LABELS) * len(files)
    assert (
        sorted(read_labels(phantom)) == files == sorted(path.stem for path in (phantom / "masks").iterdir())
    )
    assert all(uid.startswith("ID_") for uid in files)
    assert sorted(path.name for path in phantom.iterdir()) == [
        "masks",
        "phantom.json",
        "stage_2_train",
        "stage_2_train.csv",
    ]


@pytest.mark.usefixtures("lenient")
def test_headers_are_as_sparse_as_those_of_the_rsna_data(phantom):
    for uid, ds in read_headers(phantom).items():
        assert len(ds) == 22
        assert ds.SOPInstanceUID == uid
        for absent in ("SOPClassUID", "InstanceNumber", "SliceThickness", "PixelPaddingValue", "StudyDate"):
            assert absent not in ds
        assert not pydicom.uid.UID(ds.StudyInstanceUID, pydicom.config.IGNORE).is_valid


def test_labels_say_what_the_masks_hold(phantom):
    positives = np.zeros(len(LABELS), dtype=int)
    for uid, labels in read_labels(phantom).items():
        with np.load(phantom / "masks" / f"{uid}.npz") as arrays:
            mask = arrays["mask"]
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == np.uint8
        present = [int((mask >> bit & 1).any()) for bit in range(len(SUBTYPES))]
        assert labels == [*present, max(present)]
        positives += labels
    assert (positives > 0).all()  # patients are the same in a larger phantom, so the default has them all too


@pytest.mark.usefixtures("lenient")
def test_every_encoding_decodes_to_what_was_drawn(phantom, studies):
    drawn = [hu for patient in studies for study in patient for hu in study.hu]
    headers = list(read_headers(phantom).values())
    assert len(headers) == len(drawn)
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    circle = axis[:, None] ** 2 + axis**2 <= (SIZE / 2) ** 2
    seen = set()
    for ds, hu in zip(headers, drawn, strict=True):
        decoded = decode_hu(ds)
        wrapped = ds.BitsStored == 12 and ds.RescaleIntercept == 0
        low, high = {True: (-1000, 3095), False: (-1024, 3071)}[wrapped]
        expected = np.clip(hu, low, high) if ds.BitsStored == 12 else hu
        np.testing.assert_array_equal(decoded[circle], expected[circle])
        corner = int(decoded[0, 0] - ds.RescaleIntercept)
        padded = ds.PixelRepresentation == 1 and corner == -2000
        if not padded:
            np.testing.assert_array_equal(decoded, expected)
        seen |= {
            ("bits", ds.BitsStored, ds.PixelRepresentation),
            ("intercept", ds.PixelRepresentation, int(ds.RescaleIntercept)),
            ("padded", padded),
            ("windows", pydicom.multival.MultiValue is type(ds.WindowCenter)),
            ("syntax", ds.file_meta.TransferSyntaxUID.name),
        }
    assert seen >= {
        ("bits", 12, 0),
        ("bits", 16, 1),
        ("intercept", 0, -1024),
        ("intercept", 0, 0),
        ("intercept", 1, 0),
        ("intercept", 1, -1000),
        ("intercept", 1, -1024),
        ("padded", True),
        ("padded", False),
        ("windows", True),
        ("windows", False),
        ("syntax", "Implicit VR Little Endian"),
        ("syntax", "Explicit VR Little Endian"),
    }


@pytest.mark.usefixtures("lenient")
def test_patients_have_several_studies_of_ordered_slices_and_some_are_tilted(phantom):
    series: dict[str, list[pydicom.Dataset]] = {}
    patients: dict[str, set[str]] = {}
    for ds in read_headers(phantom).values():
        series.setdefault(ds.SeriesInstanceUID, []).append(ds)
        patients.setdefault(ds.PatientID, set()).add(ds.StudyInstanceUID)
    assert len(patients) == PATIENTS
    assert max(map(len, patients.values())) > 1
    tilts = set()
    for slices in series.values():
        orientation = {tuple(ds.ImageOrientationPatient) for ds in slices}
        assert len(orientation) == 1
        row, column = np.array(orientation.pop(), dtype=float).reshape(2, 3)
        normal = np.cross(row, column)
        positions = [float(normal @ np.array(ds.ImagePositionPatient, dtype=float)) for ds in slices]
        assert len(slices) >= 8
        assert (np.diff(positions) >= 0).all()  # none where a slice was scanned twice
        tilts.add(round(float(normal[1]), 3))
    assert len(tilts) > 1


def test_a_hemorrhage_runs_over_neighboring_slices_and_is_denser_than_brain(studies):
    longest = dict.fromkeys(SUBTYPES, 0)
    values: dict[str, list[int]] = {subtype: [] for subtype in SUBTYPES}
    for study in (study for patient in studies for study in patient):
        for bit, subtype in enumerate(SUBTYPES):
            blood = (study.mask >> bit & 1).astype(bool)
            run = 0
            for present in blood.any(axis=(1, 2)):
                run = run + 1 if present else 0
                longest[subtype] = max(longest[subtype], run)
            values[subtype] += study.hu[blood].tolist()
    assert min(longest.values()) > 1
    for subtype in SUBTYPES:
        assert 50 < np.median(values[subtype]) < 100  # thin ones share their pixels with bone


def test_a_threshold_does_not_tell_blood(studies):
    """Most pixels as dense as blood are none: muscle, swelling, sinuses, calcium, edges of bone, noise."""
    dense = blood = 0
    for study in (study for patient in studies for study in patient):
        dense += int(((study.hu > 50) & (study.hu < 80)).sum())
        blood += int((study.mask > 0).sum())
    assert dense > 3 * blood


def test_same_seed_same_bytes_whatever_the_number_of_patients(phantom, tmp_path):
    write_phantom(tmp_path / "again", patients=2, seed=SEED, size=SIZE, masks=True)
    write_phantom(tmp_path / "other", patients=2, seed=SEED + 1, size=SIZE)
    names = [f"stage_2_train/{uid}.dcm" for uid in read_labels(tmp_path / "again")]
    names += [f"masks/{uid}.npz" for uid in read_labels(tmp_path / "again")]
    assert filecmp.cmpfiles(phantom, tmp_path / "again", names, shallow=False) == (names, [], [])
    whole = (phantom / "stage_2_train.csv").read_text()
    assert whole.startswith((tmp_path / "again" / "stage_2_train.csv").read_text())
    assert not read_labels(tmp_path / "other").keys() & read_labels(phantom).keys()


# DICOM PS3.3 A.3.3: mandatory modules of a CT image, their attributes of type 1 and 2.
CONFORMANT = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "PatientPosition",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "AcquisitionNumber",
    "AcquisitionDate",
    "InstanceNumber",
    "ContentDate",
    "ContentTime",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "ImageType",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "KVP",
    "SOPClassUID",
    "SOPInstanceUID",
    "BodyPartExamined",
    "WindowCenter",
    "WindowWidth",
]


def test_conformant_files_have_every_attribute_and_valid_uids(tmp_path):
    write_phantom(tmp_path / "out", patients=3, seed=SEED, size=SIZE, conformant=True)
    uids = set()
    for uid in read_labels(tmp_path / "out"):
        ds = pydicom.dcmread(tmp_path / "out" / "stage_2_train" / f"{uid}.dcm")  # a warning would be an error
        assert [keyword for keyword in CONFORMANT if keyword not in ds] == []
        assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == uid
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert ds[keyword].value.is_valid
        assert str(ds.PatientName).startswith("PHANTOM^")
        assert not (ds.BitsStored == 12 and ds.RescaleIntercept > -100)
        outside = ds.PixelRepresentation == 1 and ds.pixel_array[0, 0] == -2000
        assert ("PixelPaddingValue" in ds) == outside
        uids.add(ds.SOPInstanceUID)
    assert len(uids) == len(list((tmp_path / "out" / "stage_2_train").iterdir()))


def test_a_finished_phantom_is_left_as_it_is(phantom):
    before = {path: path.stat().st_mtime_ns for path in phantom.rglob("*")}
    write_phantom(phantom, patients=PATIENTS, seed=SEED, size=SIZE, masks=True)
    assert before == {path: path.stat().st_mtime_ns for path in phantom.rglob("*")}


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_phantom(out, patients=1, size=SIZE)
    assert json.loads((out / "phantom.json").read_text())["patients"] == 1
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_with_something_else_is_refused_and_not_changed(phantom, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_phantom(tmp_path, patients=1, size=SIZE)
    with pytest.raises(UserError, match="is a file"):
        write_phantom(tmp_path / "thesis.txt", patients=1, size=SIZE)
    with pytest.raises(UserError, match="with the parameters"):
        write_phantom(phantom, patients=PATIENTS + 1, seed=SEED, size=SIZE, masks=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"patients": 0}, "patients=0"), ({"size": 8}, "size=8"), ({"seed": -1}, "seed=-1")],
)
def test_parameters_out_of_range_are_refused(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        write_phantom(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ich.phantom.write_slice", fail)
    with pytest.raises(UserError, match="No space left"):
        write_phantom(tmp_path / "out", patients=1, size=SIZE)
    assert list(tmp_path.iterdir()) == []
