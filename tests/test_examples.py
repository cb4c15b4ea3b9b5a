"""The scripts in examples/ run as a reader would run them, on tiny downloads made here."""

import csv
import importlib.util
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import cv2
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest

from ich.schema import LABELS

COLUMNS = ["Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural", "No_Hemorrhage"]
DIAGNOSES = {  # (patient, slice) -> the publisher's columns
    (49, 1): (0, 0, 0, 0, 0, 1),
    (49, 2): (0, 1, 0, 0, 1, 0),
    (49, 3): (0, 0, 0, 1, 0, 0),
    (50, 1): (1, 0, 0, 0, 0, 0),
    (50, 2): (0, 0, 1, 0, 0, 0),
    (50, 3): (0, 0, 0, 0, 0, 1),
}


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parent.parent / "examples" / "ct_ich_to_rsna.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_diagnoses(path, diagnoses=DIAGNOSES, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.writer(handle)
        writer.writerow(["PatientNumber", "SliceNumber", *columns, "Fracture_Yes_No"])
        writer.writerows([*key, *values, 1] for key, values in diagnoses.items())


def make_head(number):
    """Quarters of 64 x 64 pixels in HU: air, bone / brain, blood; brighter with the slice's number."""
    hu = np.empty((64, 64), np.float32)
    hu[:32, :32], hu[:32, 32:], hu[32:, :32], hu[32:, 32:] = -850, 900, 20 + 10 * number, 70 + number
    return hu


def export(hu, level, width):
    return (np.clip((hu - level) / width + 0.5, 0, 1) * 255).round().astype(np.uint8)


@pytest.fixture
def exports(tmp_path):
    """A download of version 1.0.0."""
    root = tmp_path / "download"
    for patient, number in DIAGNOSES:
        for name, window in (("brain", (40, 120)), ("bone", (700, 3200))):
            folder = root / "Patients_CT" / f"{patient:03d}" / name
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.jpg"), export(make_head(number), *window))
    cv2.imwrite(str(root / "Patients_CT" / "050" / "brain" / "1_HGE_Seg.jpg"), np.zeros((64, 64), np.uint8))
    write_diagnoses(root / "hemorrhage_diagnosis.csv")
    return root


def write_volume(root, patient, volume, affine):
    (root / "ct_scans").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), root / "ct_scans" / f"{patient:03d}.nii")
    write_diagnoses(root / "hemorrhage_diagnosis_raw_ct.csv")


def read_slices(out):
    """Slices by patient in order of position, and the label table indexed by ID."""
    with pydicom.config.disable_value_validation():
        slices = [pydicom.dcmread(path) for path in sorted((out / "stage_2_train").glob("ID_*.dcm"))]
        for ds in slices:
            list(ds)  # pydicom checks values when they are first looked at
    by_patient = {}
    for ds in sorted(slices, key=lambda ds: ds.ImagePositionPatient[2]):
        by_patient.setdefault(ds.PatientID, []).append(ds)
    return by_patient, pd.read_csv(out / "stage_2_train.csv")


def to_hu(ds):
    return ds.pixel_array.astype(np.float64) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)


def labels_of(table, uid):
    rows = table[table.ID.str.startswith(f"{uid}_")]
    assert [name.removeprefix(f"{uid}_") for name in rows.ID] == list(LABELS)
    return tuple(rows.Label)


def expected_labels(diagnosis):
    ivh, iph, sah, edh, sdh, healthy = diagnosis
    return (edh, iph, ivh, sah, sdh, 1 - healthy)


def check_labels(by_patient, table):
    """Every slice, in order of position, has the labels of its row."""
    got = sorted([labels_of(table, ds.SOPInstanceUID) for ds in slices] for slices in by_patient.values())
    wanted = sorted([expected_labels(DIAGNOSES[patient, n]) for n in (1, 2, 3)] for patient in (49, 50))
    assert got == wanted
    assert len(table) == 6 * len(DIAGNOSES)


def test_exports_become_dicom_with_their_hu(exports, tmp_path, script, capsys):
    out = tmp_path / "rsna"
    script.main([str(exports), str(out)])
    by_patient, table = read_slices(out)
    check_labels(by_patient, table)
    assert "6 slices" in capsys.readouterr().out
    encodings = set()
    for slices in by_patient.values():
        for number, ds in enumerate(slices, start=1):
            hu = to_hu(ds)
            assert hu.shape == (512, 512)
            quarters = hu[128, 128], hu[128, 384], hu[384, 128], hu[384, 384]
            # One JPEG gray is 0.5 HU in the brain window and 12.5 HU in the bone window.
            for value, true, within in zip(
                quarters, (-850, 900, 20 + 10 * number, 70 + number), (13, 13, 1, 1), strict=True
            ):
                assert value == pytest.approx(true, abs=within)
            encodings.add((ds.BitsStored, ds.PixelRepresentation, float(ds.RescaleIntercept)))
    assert encodings == {(12, 0, -1024.0), (16, 1, 0.0)}


def test_the_same_download_gives_the_same_files(exports, tmp_path, script):
    for name in ("one", "two"):
        script.main([str(exports), str(tmp_path / name)])
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("one", "two"))
    assert one == two


def test_what_lacks_a_window_or_contradicts_itself_is_set_aside_and_counted(
    exports, tmp_path, script, capsys
):
    (exports / "Patients_CT" / "049" / "bone" / "2.jpg").unlink()
    write_diagnoses(exports / "hemorrhage_diagnosis.csv", DIAGNOSES | {(50, 3): (0, 0, 0, 0, 0, 0)})
    script.main([str(exports), str(tmp_path / "rsna")])
    by_patient, table = read_slices(tmp_path / "rsna")
    assert sorted(len(slices) for slices in by_patient.values()) == [2, 2]
    assert len(table) == 6 * 4
    printed = capsys.readouterr().out
    assert "set aside 1 slices: no picture in one of the two windows" in printed
    assert "set aside 1 slices: No_Hemorrhage contradicts the subtypes" in printed


def test_patients_can_be_chosen(exports, tmp_path, script):
    script.main([str(exports), str(tmp_path / "rsna"), "--patients", "50"])
    by_patient, table = read_slices(tmp_path / "rsna")
    assert [len(slices) for slices in by_patient.values()] == [3]
    assert table.Label[table.ID.str.endswith("_intraventricular")].sum() == 1


TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])


@pytest.mark.parametrize(
    "directions",
    [
        np.diag([-0.5, 0.4, 5]),  # to the left, to the front, up: how most converters store head CT
        np.diag([0.5, 0.4, 5]),
        np.diag([-0.5, -0.4, -5]),
        np.array([[0, 0.4, 0], [-0.5, 0, 0], [0, 0, 5]]),
        TURN @ np.diag([-0.5, 0.4, 5]),
    ],
    ids=["LAS", "RAS", "LPI", "PRS", "turned head"],
)
def test_volumes_keep_their_hu_and_their_place_in_the_patient(tmp_path, script, directions):
    """A mark at the right front of the patient lands there, whatever the order of the voxels."""
    root, out = tmp_path / "download", tmp_path / "rsna"
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = [11, -22, 33]
    mark = np.array([3, 5, 1])  # voxel; slice number 2
    volume = np.full((20, 16, 3), 30, np.int16)
    volume[..., 0], volume[..., 2] = -1000, 3050
    volume[tuple(mark)] = 77
    for patient in (49, 50):
        write_volume(root, patient, volume, affine)
    script.main([str(root), str(out)])
    by_patient, table = read_slices(out)

    for slices in by_patient.values():
        levels = [np.median(to_hu(ds)) for ds in slices]
        assert levels == ([-1000, 30, 3050] if directions[2, 2] > 0 else [3050, 30, -1000])
        ds = slices[1]
        (row,), (column,) = np.nonzero(to_hu(ds) == 77)
        row_cosines, column_cosines = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        place = (  # DICOM PS3.3 C.7.6.2.1.1
            np.array(ds.ImagePositionPatient, float)
            + row_cosines * ds.PixelSpacing[1] * column
            + column_cosines * ds.PixelSpacing[0] * row
        )
        assert place == pytest.approx(affine[:3] @ [*mark, 1] * [-1, -1, 1], abs=1e-3)
        assert row_cosines[0] > 0.9
        assert column_cosines[1] > 0.9
        assert np.hypot(*np.subtract(ds.PixelSpacing, [0.4, 0.5])) == pytest.approx(
            np.hypot(0.1, 0.1) if directions[0, 0] == 0 else 0, abs=1e-6
        )
    if directions[2, 2] > 0:
        check_labels(by_patient, table)


def test_volume_shorter_than_its_labels_or_missing(tmp_path, script, capsys):
    write_volume(tmp_path / "in", 49, np.zeros((8, 8, 2), np.int16), np.diag([-0.5, 0.5, 5, 1]))
    script.main([str(tmp_path / "in"), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "set aside 1 slices: beyond the slices of the volume" in printed
    assert "set aside 3 slices: no volume of the patient" in printed


def test_a_volume_without_orientation_is_named(tmp_path, script, capsys):
    """NIfTI leaves the direction open where both codes are 0; nibabel counts the first axis to the left."""
    volume = np.zeros((8, 8, 3), np.int16)
    volume[0, 7] = 77
    write_volume(tmp_path / "in", 49, volume, None)
    script.main([str(tmp_path / "in"), str(tmp_path / "out"), "--patients", "49"])
    assert "049.nii stores no orientation" in capsys.readouterr().out
    by_patient, _ = read_slices(tmp_path / "out")
    for ds in by_patient.popitem()[1]:
        assert np.argwhere(to_hu(ds) == 77).tolist() == [[0, 0]]


def refuse(script, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        script.main(list(map(str, arguments)))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "hemorrhage_diagnosis.csv").unlink(), "not a CT-ICH download"),
        (
            lambda root: write_diagnoses(root / "hemorrhage_diagnosis.csv", columns=COLUMNS[1:]),
            "Intraventricular",
        ),
        (lambda root: write_diagnoses(root / "hemorrhage_diagnosis.csv", {(49, 1): (2,) * 6}), "line 2"),
        (lambda root: write_diagnoses(root / "hemorrhage_diagnosis.csv", {(49, 1): ("",) * 6}), "line 2"),
        (
            lambda root: write_diagnoses(root / "hemorrhage_diagnosis.csv", {(7, 1): (0,) * 5 + (1,)}),
            "none of",
        ),
        (lambda root: (root / "Patients_CT/049/bone/3.jpg").write_bytes(b"no picture"), "049/brain/3.jpg"),
    ],
    ids=["no table", "no column", "label 2", "no label", "no picture", "corrupt picture"],
)
def test_bad_downloads_end_in_one_message_and_leave_nothing(
    exports, tmp_path, script, capsys, spoil, message
):
    spoil(exports)
    assert message in refuse(script, capsys, [exports, tmp_path / "rsna"])
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


def test_a_corrupt_volume_and_a_missing_nibabel(tmp_path, script, capsys, monkeypatch):
    write_volume(tmp_path / "in", 49, np.zeros((8, 8, 3), np.int16), np.diag([-0.5, 0.5, 5, 1]))
    file = tmp_path / "in" / "ct_scans" / "049.nii"
    file.write_bytes(file.read_bytes()[:400])
    assert "049.nii" in refuse(script, capsys, [tmp_path / "in", tmp_path / "out"])
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert "pip install nibabel" in refuse(script, capsys, [tmp_path / "in", tmp_path / "out"])


def test_an_existing_folder_and_an_unknown_patient_are_refused(exports, tmp_path, script, capsys):
    assert "99" in refuse(script, capsys, [exports, tmp_path / "rsna", "--patients", 99])
    (tmp_path / "rsna").mkdir()
    (tmp_path / "rsna" / "mine.txt").write_text("keep")
    assert "not empty" in refuse(script, capsys, [exports, tmp_path / "rsna"])
    assert (tmp_path / "rsna" / "mine.txt").read_text() == "keep"


@pytest.mark.trains
def test_from_training_to_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parent.parent / "examples" / "from_training_to_results.py"
    assert len(script.read_text().splitlines()) < 40
    with mock.patch.object(sys, "argv", [str(script), str(tmp_path / "out"), "12", "64", "1"]):
        runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert "test set" in printed
    assert len(re.findall(r"^\d+ INDETERMINATE .*no_decision.* any 0\.\d\d$", printed, re.MULTILINE)) >= 3
    assert (tmp_path / "out" / "run" / "metrics.json").is_file()
