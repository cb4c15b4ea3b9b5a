"""Slices in LPS: flips and transposes, in files, index, batches and cache."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from pydicom import uid
from test_dicom import make_slice, to_bytes
from turning import EVERY, PLANES, PRONE, Stored, read_slice, turn_files, turn_pixels, turn_slice

from ich.data import HeadCTDataModule
from ich.data.slices import SliceReader, to_arrays
from ich.dicom import read_geometry, read_header, read_hu, read_pixels
from ich.dicom.orientation import UNKNOWN, find_plane
from ich.index import build_index
from ich.schema import InputSpec

SAME = ["SOPInstanceUID", "tilt", "Rows", "Columns", "row_spacing", "column_spacing", "WindowCenter"]
"""Columns of the index that an orientation does not change."""

TILTED = [1, 0, 0, 0, 0.927184, -0.374607]  # by 22 degrees


def name(stored: Stored) -> str:
    return f"{stored.row}{stored.column}{'-reversed' if stored.reverse else ''}"


def write(path: Path, ds: pydicom.Dataset) -> Path:
    path.write_bytes(to_bytes(ds))
    return path


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless], ids=["plain", "RLE"])
@pytest.mark.parametrize("stored", PLANES, ids=name)
def test_a_slice_is_brought_to_lps(tmp_path: Path, stored: Stored, syntax: uid.UID) -> None:
    ds = make_slice(ImageOrientationPatient=TILTED)
    usual = write(tmp_path / "usual.dcm", ds)
    turn_slice(ds, stored, 1)
    if syntax == uid.RLELossless:
        ds.compress(syntax, generate_instance_uid=False)
    turned = write(tmp_path / "turned.dcm", ds)
    wanted, found = read_header(usual)._asdict(), read_header(turned)._asdict()
    for column in SAME:
        assert found[column] == wanted[column], column
    assert found["position"] == pytest.approx(wanted["position"], abs=1e-4)
    assert wanted["orientation"] == 0
    hu = read_hu(usual)
    np.testing.assert_array_equal(read_hu(turned), hu)
    assert read_hu(turned).flags.c_contiguous
    # What pydicom reads, and where it lies, by PS3.3 C.7.6.2.1.1.
    values, as_stored = read_pixels(turned)
    np.testing.assert_array_equal(values, turn_pixels(read_pixels(usual)[0], stored))
    np.testing.assert_array_equal(as_stored, turn_pixels(hu, stored))
    for ours, theirs in zip(read_geometry(turned), read_geometry(usual), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_positions_grow_from_the_feet_to_the_head(tmp_path: Path) -> None:
    for stored in PLANES:
        heights = []
        for z in (-20.0, 30.0):
            ds = make_slice(ImagePositionPatient=[-125.0, -120.0, z])
            turn_slice(ds, stored, 1)
            heights.append(read_header(write(tmp_path / "slice.dcm", ds)).position)
        assert heights == [-20.0, 30.0]


@pytest.mark.parametrize(
    "cosines",
    [None, [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1], [1, 0, 0, 1, 0, 0], [-1, 0, 0, 0, 1]],
    ids=["none", "coronal", "sagittal", "one direction", "five numbers"],
)
def test_without_an_axial_orientation_a_slice_stays_as_it_is_stored(tmp_path: Path, cosines) -> None:
    path = write(tmp_path / "slice.dcm", make_slice(ImageOrientationPatient=cosines, PatientPosition="HFP"))
    assert read_header(path).orientation == UNKNOWN
    np.testing.assert_array_equal(read_hu(path), read_pixels(path)[1])


@pytest.mark.parametrize("stored", PLANES, ids=name)
def test_tilted_and_turned_slices_have_the_nearest_orientation(stored: Stored) -> None:
    ds = make_slice()
    turn_slice(ds, stored, 1)
    straight = find_plane([float(v) for v in ds.ImageOrientationPatient])
    assert straight.turn == 0
    for axis, angle, turn in ((0, 30.0, 0), (0, -40.0, 0), (1, 15.0, 15), (2, 40.0, 40), (2, -40.0, 40)):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        rotation = np.roll([[1, 0, 0], [0, c, -s], [0, s, c]], axis, axis=(0, 1))
        directions = np.array(ds.ImageOrientationPatient, float).reshape(2, 3) @ rotation.T
        plane = find_plane(directions.ravel().tolist())
        assert plane.orientation == straight.orientation
        assert plane.normal[2] > 0
        assert plane.turn == pytest.approx(turn, abs=1e-6)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, phantom: Path) -> Path:
    """A phantom whose slices are not square, and their pixels neither."""
    root = tmp_path_factory.mktemp("usual")
    shutil.copy(phantom / "stage_2_train.csv", root)
    (root / "slices").mkdir()
    for path in sorted((phantom / "stage_2_train").iterdir()):
        ds = read_slice(path)
        dtype = np.dtype("<i2" if ds.PixelRepresentation else "<u2")
        pixels = np.frombuffer(ds.PixelData, dtype).reshape(ds.Rows, ds.Columns)[:, 3:-7]
        ds.Columns, ds.PixelData = pixels.shape[1], pixels.tobytes()
        ds.PixelSpacing = [ds.PixelSpacing[0], 1.25 * ds.PixelSpacing[1]]
        write(root / "slices" / path.name, ds)
    return root


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory, usual: Path) -> Path:
    """The same, each series in another of the orientations."""
    root = tmp_path_factory.mktemp("turned")
    shutil.copy(usual / "stage_2_train.csv", root)
    table = build_index(usual).table
    groups = table.groupby("SeriesInstanceUID", sort=True)["path"]
    assert groups.ngroups >= len(PLANES)
    for number, (_, paths) in enumerate(groups):
        turn_files([usual / path for path in paths], root / "slices", EVERY[number % len(EVERY)])
    return root


def test_the_index_is_that_of_the_usual_orientation(usual: Path, turned: Path) -> None:
    wanted, found = build_index(usual).table, build_index(turned).table
    assert set(found["orientation"]) == set(range(8))
    assert set(wanted["orientation"]) == {0}
    pd.testing.assert_frame_equal(found[SAME], wanted[SAME])
    np.testing.assert_allclose(found["position"], wanted["position"], atol=2e-3)


def make_data(root: Path, cache: Path | None = None) -> HeadCTDataModule:
    spec = InputSpec(size=48, neighbors=1)
    data = HeadCTDataModule(str(root), spec, num_workers=0, cache=str(cache) if cache else None)
    data.prepare_data()
    data.setup()
    return data


def assert_same_batches(one: HeadCTDataModule, other: HeadCTDataModule) -> None:
    for ours, theirs in zip(one.predict_dataloader(), other.predict_dataloader(), strict=True):
        assert isinstance(ours, Mapping)
        for key in ("hu", "target", "row"):
            assert torch.equal(ours[key].nan_to_num(), theirs[key].nan_to_num())


def test_batches_and_cache_are_those_of_the_usual_orientation(
    usual: Path, turned: Path, tmp_path: Path
) -> None:
    wanted, root = make_data(usual), Path(shutil.copytree(turned, tmp_path / "turned"))
    assert_same_batches(make_data(root), wanted)
    cached = make_data(root, tmp_path / "cache")
    shutil.rmtree(root / "slices")
    assert_same_batches(cached, wanted)


@pytest.mark.parametrize("size", [24, 48, 64, 100])
def test_direct_reads_are_turned_as_decoded_ones_are(tmp_path: Path, size: int) -> None:
    for number, stored in enumerate(PLANES):
        ds = make_slice(SOPInstanceUID=f"ID_{number}", bits=12, signed=0, stored=np.abs(make_pixels()))
        turn_slice(ds, stored, 1)
        write(tmp_path / f"{number}.dcm", ds)
    table = build_index(tmp_path).table
    reader = SliceReader(tmp_path, to_arrays(table))
    slices = np.empty((len(table), size, size), np.int16)
    for row in range(len(table)):
        reader.read(row, slices[row])
    assert reader.decoded == 0
    assert (slices == slices[0]).all()
    assert slices[0].std() > 0


def make_pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4000, (48, 40))


def test_an_index_of_older_code_is_made_again(usual: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(usual, tmp_path / "data"))
    build_index(root)
    kept = root / ".ich" / "index.parquet"
    table = pd.read_parquet(kept)
    table.attrs = {"version": 3, "pseudonyms": False}
    table.drop(columns="orientation").to_parquet(kept)
    assert "orientation" in build_index(root).table


def test_a_prone_patient_is_the_same_patient(usual: Path, tmp_path: Path) -> None:
    """The case that was seen: all voxels at their places, stored feet first and prone."""
    table = build_index(usual).table
    series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    paths = [usual / path for path in series["path"]]
    turn_files(paths, tmp_path, PRONE)
    found = build_index(tmp_path).table
    assert list(found["SOPInstanceUID"]) == list(series["SOPInstanceUID"])
    for path in paths:
        np.testing.assert_array_equal(read_hu(tmp_path / path.name), read_hu(path))
