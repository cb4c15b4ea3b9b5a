"""Several scans, and images that are not slices, in one series of an index: neighbors are never twins."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import generate_uid

from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.index import build_index
from ich.index.quality import check_series
from ich.phantom import write_phantom
from ich.schema import LABELS, InputSpec
from ich.tables.stacks import NO_STACK


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[pydicom.Dataset]:
    """The slices of one series, from the feet to the head."""
    root = tmp_path_factory.mktemp("head") / "phantom"
    write_phantom(root, patients=3, seed=1, size=64, conformant=True)
    table = build_index(root).table
    series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    return [pydicom.dcmread(root / path) for path in series["path"]]


def write(root: Path, slices: list[pydicom.Dataset], name: str, **changes: object) -> None:
    """Writes slices once more, as other instances of their series."""
    root.mkdir(exist_ok=True)
    for number, ds in enumerate(slices):
        other = copy.deepcopy(ds)
        other.SOPInstanceUID = generate_uid(entropy_srcs=[name, str(number)])
        for keyword, value in changes.items():
            if value is None:
                del other[keyword]
            else:
                setattr(other, keyword, value)
        other.save_as(root / f"{name}{number:03}.dcm")


def list_neighbors(root: Path, table: pd.DataFrame) -> list[list[int]]:
    labeled = table.assign(**dict.fromkeys(LABELS, 0.0))
    arrays = to_arrays(labeled)
    dataset = SliceDataset(SliceReader(root, arrays), arrays, InputSpec(size=32, neighbors=1))
    return [[row for rows in dataset._list_rows(each) for row in rows] for each in range(len(table))]


def test_neighbors_come_from_one_scan(tmp_path: Path, head: list[pydicom.Dataset]) -> None:
    write(tmp_path / "both", head, "a", AcquisitionNumber=1)
    write(tmp_path / "both", head, "b", AcquisitionNumber=2)
    table = build_index(tmp_path / "both").table
    assert sorted(table["stack"].value_counts()) == [len(head)] * 2
    for before, row, after in list_neighbors(tmp_path / "both", table):
        assert len(set(table["AcquisitionNumber"].iloc[[before, row, after]])) == 1
    assert list(check_series(table)["code"]) == ["several_stacks"]


def test_a_unit_that_is_left_open_is_reported(tmp_path: Path, head: list[pydicom.Dataset]) -> None:
    write(tmp_path / "open", head, "a", RescaleType="US")
    table = build_index(tmp_path / "open").table
    assert set(table["RescaleType"]) == {"US"}
    problems = check_series(table)
    assert problems[["code", "detail"]].to_numpy().tolist() == [
        ["no_unit", f"{len(head)} slices have RescaleType US"]
    ]


def test_a_scout_is_nobodys_neighbor_and_reported(tmp_path: Path, head: list[pydicom.Dataset]) -> None:
    root = tmp_path / "mixed"
    write(root, head, "a")
    write(root, head[:1], "scout", ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    write(root, head[:1], "nowhere", ImageOrientationPatient=None, ImagePositionPatient=None)
    write(root, head[:1], "page", ImageType=["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"])
    table = build_index(root).table
    odd = table["stack"] == NO_STACK
    assert sorted(path.rstrip("0.dcm") for path in table["path"][odd]) == ["nowhere", "page", "scout"]
    neighbors = list_neighbors(root, table)
    for row in np.flatnonzero(~odd):
        assert not odd.iloc[neighbors[row]].any()
    problems = check_series(table)
    assert list(problems["code"]) == ["mixed_images"]
    assert problems["detail"][0] == (
        "images of the series that are not slices: across 1, no_geometry 1, secondary 1"
    )


def test_an_index_that_grows_renumbers_the_stacks(tmp_path: Path, head: list[pydicom.Dataset]) -> None:
    root = tmp_path / "grows"
    write(root, head[:5], "a", AcquisitionNumber=1)
    assert not build_index(root).table["stack"].any()
    write(root, head, "b", AcquisitionNumber=2)
    table = build_index(root).table
    assert (table["stack"] == (table["AcquisitionNumber"] == "1")).all()
    pd.testing.assert_frame_equal(build_index(root).table, table)
    shutil.rmtree(root / ".ich")
    pd.testing.assert_frame_equal(build_index(root).table, table)
