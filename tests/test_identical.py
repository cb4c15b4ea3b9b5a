"""Pixels that stand under two patients are found, and do not reach two parts."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

import ich.index.identical
from ich.data import HeadCTDataModule
from ich.dicom import read_hu
from ich.index import build_index
from ich.index.identical import HASHES, find_identical
from ich.index.split import join_patients
from ich.schema import InputSpec, UserError


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    # Another test may have left hashes there, and then there is nothing to read.
    shutil.copytree(phantom, tmp_path / "data", ignore=shutil.ignore_patterns(HASHES))
    return tmp_path / "data"


def rewrite(source: Path, target: Path, syntax: str | None = None, fill: int | None = None, **values) -> None:
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(source)
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        if fill is not None:
            ds.PixelData = np.full((ds.Rows, ds.Columns), fill, "<u2").tobytes()
        if syntax is not None:
            ds.compress(syntax, generate_instance_uid=False)
        ds.save_as(target)


def plant(root: Path, row: int, name: str, **changes) -> Path:
    """Writes the slice of a row once more, under another patient unless told otherwise."""
    source = root / build_index(root).table["path"][row]
    target = source.parent / f"{name}.dcm"
    patient = {"PatientID": f"P{name}", "StudyInstanceUID": f"S{name}", "SeriesInstanceUID": f"E{name}"}
    rewrite(source, target, **{"SOPInstanceUID": f"ID_{name}"} | patient | changes)
    return target


def find(root: Path, **options) -> tuple[pd.DataFrame, pd.Series]:
    table = build_index(root).table
    return table, pd.Series(find_identical(root, table, root / ".ich", **options), table.index)


def test_a_phantom_has_no_twins(phantom: Path, tmp_path: Path) -> None:
    table = build_index(phantom).table
    assert (find_identical(phantom, table, tmp_path) == -1).all()
    assert stat.S_IMODE((tmp_path / HASHES).stat().st_mode) == 0o600


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, JPEGLSLossless])
def test_the_same_pixels_under_two_patients_are_found(copy: Path, syntax: str | None) -> None:
    first = build_index(copy).table["path"][5]
    if syntax is not None:
        rewrite(copy / first, copy / first, syntax)
    target = plant(copy, 5, "twin")
    assert np.array_equal(read_hu(target), read_hu(copy / first))
    table, twins = find(copy)
    assert set(table["path"][twins >= 0]) == {first, target.relative_to(copy).as_posix()}
    assert twins.max() == 0


def test_what_is_alike_for_another_reason_is_not(copy: Path) -> None:
    patient = build_index(copy).table["PatientID"][5]
    plant(copy, 5, "same_patient", PatientID=patient)
    for row, name in ((0, "air_one"), (60, "air_two")):  # nothing but air
        plant(copy, row, name, fill=24, BitsStored=16, HighBit=15, PixelRepresentation=0)
    first = copy / build_index(copy).table["path"][30]
    rewrite(first, first, JPEG2000Lossless)
    for path in (first, plant(copy, 30, "broken")):  # candidates that cannot be read
        content = path.read_bytes()
        path.write_bytes(content[:-40] + bytes(40))
    rewritten = plant(copy, 40, "differs")  # beyond the blocks that are hashed, in one pixel
    content = bytearray(rewritten.read_bytes())
    content[-1] ^= 1
    rewritten.write_bytes(content)
    _, twins = find(copy)
    assert (twins == -1).all()


def test_hashes_are_kept_and_renewed_for_files_that_changed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(copy)
    read: list[str] = []
    whole = ich.index.identical.read_blocks
    monkeypatch.setattr(
        ich.index.identical, "read_blocks", lambda path, frame: read.append(path) or whole(path, frame)
    )
    find(copy)
    assert read == []
    target = plant(copy, 7, "twin")
    _, twins = find(copy)
    assert read == [str(target)]
    assert (twins >= 0).sum() == 2
    (copy / ".ich" / HASHES).write_bytes(b"broken")
    table, again = find(copy)
    assert len(read) == 1 + len(table)
    assert again.equals(twins)


def test_what_was_hashed_before_an_interruption_is_kept(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(copy / path) for path in build_index(copy).table["path"]]
    whole = ich.index.identical.read_blocks

    def stop(path: str, frame: int) -> bytes:
        if path == paths[100]:
            raise KeyboardInterrupt
        return whole(path, frame)

    monkeypatch.setattr(ich.index.identical, "read_blocks", stop)
    with pytest.raises(KeyboardInterrupt):
        find(copy)
    assert len(pd.read_parquet(copy / ".ich" / HASHES)) == 100


def test_hashes_that_cannot_be_kept_are_an_error(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*data\.index_dir"):
        find_identical(phantom, build_index(phantom).table[:9], tmp_path / "nowhere")


def test_patients_who_share_pixels_become_one_in_turn() -> None:
    table = pd.DataFrame({"PatientID": list("AABBCCDD")})
    twins = pd.Series([0, -1, 0, 1, 1, -1, -1, -1])
    assert join_patients(table, twins).tolist() == list("AAAAAADD")
    assert join_patients(table, twins * 0 - 1).tolist() == table["PatientID"].tolist()


def make(root: Path, **options) -> HeadCTDataModule:
    labels = pd.read_csv(root / "stage_2_train.csv")
    names = [path.stem for path in (root / "stage_2_train").glob("*twin*.dcm")]
    more = labels[:6].assign(ID=labels["ID"][:6].str.rpartition("_")[2])
    added = [more.assign(ID=f"ID_{name}_" + more["ID"]) for name in names]
    pd.concat([labels, *added]).to_csv(root / "labels.csv", index=False)
    options = {"labels": str(root / "labels.csv"), "num_workers": 0, "check_pixels": True} | options
    datamodule = HeadCTDataModule(str(root), InputSpec(size=64), **options)
    datamodule.setup()
    return datamodule


def test_patients_who_share_pixels_go_to_one_part(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = build_index(copy).table
    patients = table["PatientID"].unique()
    rows = [table.index[table["PatientID"] == patient][8] for patient in patients]
    for number in range(0, 8, 2):  # two and two, by slices that a third patient has as well
        for row in (rows[number], rows[number + 1]):
            plant(copy, row, f"twin{row}", PatientID=f"P{number}", StudyInstanceUID=f"S{number}")
    for seed in range(3):
        datamodule = make(copy, seed=seed)
        part_of = datamodule.labeled.groupby("PatientID")["part"].agg(set)
        for number in range(0, 8, 2):
            together = [patients[number], patients[number + 1], f"P{number}"]
            assert len(set.union(*part_of[together])) == 1
    assert "16 slices have the pixels of a slice of another patient" in caplog.text


@pytest.mark.parametrize("overlap", ["PatientID", "StudyInstanceUID", "pixels"])
def test_a_split_file_that_parts_what_belongs_together_is_refused(
    copy: Path, tmp_path: Path, overlap: str
) -> None:
    table = build_index(copy).table
    original = table.loc[5]
    fresh = {} if overlap == "pixels" else {"fill": 24, overlap: original[overlap]}
    plant(copy, 5, "twin", **fresh)
    table = build_index(copy).table
    parts = table["PatientID"].map({original["PatientID"]: "val", table["PatientID"].iloc[-1]: "test"})
    parts = parts.fillna("train")
    (row,) = table.index[table["SOPInstanceUID"] == "ID_twin"]
    parts[row] = "train"
    split = tmp_path / "split.csv"
    table[["SOPInstanceUID"]].assign(part=parts).to_csv(split, index=False)
    with pytest.raises(UserError, match="in more than one part of the split: 1") as caught:
        make(copy, split=str(split))
    noun = {"PatientID": "patients", "StudyInstanceUID": "studies", "pixels": "identical pixels"}[overlap]
    assert str(caught.value).startswith(noun)
    assert f"{row} (train)" in str(caught.value)
    assert original["PatientID"] not in str(caught.value)
    if overlap == "pixels":  # without the request nobody looks
        make(copy, split=str(split), check_pixels=False)
