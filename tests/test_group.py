"""Data sets whose PatientIDs do not distinguish patients: split by study, with a warning of the leak."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from ich.data import HeadCTDataModule
from ich.dicom import read_header
from ich.dicom.attributes import read_attributes
from ich.schema import InputSpec, UserError


@pytest.fixture
def rename(phantom: Path, tmp_path: Path):
    """Copies the phantom and gives its slices other PatientIDs, from the number of the patient."""

    def write(name) -> Path:
        root = tmp_path / "renamed"
        shutil.copytree(phantom, root, ignore=shutil.ignore_patterns(".ich"))
        numbers: dict[str, int] = {}
        with pydicom.config.disable_value_validation():
            for path in sorted(root.rglob("*.dcm")):
                ds = pydicom.dcmread(path)
                number = numbers.setdefault(str(ds.PatientID), len(numbers) + 1)
                ds.PatientID = name(number)
                ds.save_as(path)
        return root

    return write


def set_up(root: Path, **settings: object) -> HeadCTDataModule:
    data = HeadCTDataModule(str(root), InputSpec(size=32), num_workers=0, **settings)  # type: ignore[arg-type]
    data.setup()
    return data


@pytest.mark.parametrize("name", ["ANONYMOUS", ""])
def test_a_set_with_one_name_for_all_is_split_by_study(rename, name: str, caplog) -> None:
    root = rename(lambda _: name)
    with pytest.raises(UserError, match=r"data\.group=StudyInstanceUID"):
        set_up(root)
    data = set_up(root, group="StudyInstanceUID", limit_slices=200)
    assert "This is a leak" in caplog.text
    table = data.labeled
    assert (table["PatientID"] == table["StudyInstanceUID"]).all()
    assert set(table["part"]) == {"train", "val", "test"}
    assert (table.groupby("StudyInstanceUID")["part"].nunique() == 1).all()


def test_most_studies_under_one_name_are_worth_a_word(rename, caplog) -> None:
    set_up(rename(lambda number: "ANONYMOUS" if number > 4 else f"P{number}"))
    assert "studies have the same PatientID" in caplog.text
    assert "ANONYMOUS" not in caplog.text


def test_another_group_is_refused(phantom: Path) -> None:
    with pytest.raises(UserError, match=r"data\.group=Doctor: expected one of PatientID, StudyInstanceUID"):
        HeadCTDataModule(str(phantom), InputSpec(), group="Doctor")


def test_a_backslash_in_a_patient_id_is_kept(rename) -> None:
    root = rename(lambda number: f"HOSP\\{number:05}")
    names = {read_header(path).PatientID for path in root.rglob("*.dcm")}
    assert len(names) == 12
    assert "HOSP\\00001" in names
    assert {read_attributes(path).PatientID for path in root.rglob("*.dcm")} == names
    assert set_up(root).table["PatientID"].nunique() == 12
