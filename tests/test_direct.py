"""The two ways to a slice's HU: decoded by pydicom, and read where the pixels lie."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence

from ich.data.slices import SliceReader, to_arrays
from ich.dicom import elements, read_header, read_hu, skimming
from ich.dicom.direct import Layout, Place, make_frames, read_hu_at
from ich.dicom.header import Header
from ich.dicom.rescale import Rescale
from ich.dicom.stream import Stream
from ich.image.resize import keeps_shift, resize_hu
from ich.index import build_index
from ich.schema import LABELS

PLAIN = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian)


def read_direct(path: Path, header: Header) -> np.ndarray | None:
    status = path.stat()
    padding = (header.padding_low, header.padding_high) if header.padding_low <= header.padding_high else None
    rescale = Rescale(
        header.BitsStored,
        header.PixelRepresentation == 1,
        header.RescaleSlope,
        header.RescaleIntercept,
        padding,
    )
    place = Place(header.pixel_offset, status.st_size, status.st_mtime_ns)
    (frame,) = make_frames([Layout(header.Rows, header.Columns, rescale, header.orientation)])
    shifted = read_hu_at(path, place, frame)
    return None if shifted is None else shifted.values + np.int16(shifted.shift)


def read_as_pydicom_does(path: Path) -> np.ndarray:
    """HU by pydicom's decoder and the standard's formula in float64, with the quirk mended."""
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array.astype(np.float64)
    padding = np.zeros(stored.shape, dtype=bool)
    if "PixelPaddingValue" in ds:
        bounds = (ds.PixelPaddingValue, ds.get("PixelPaddingRangeLimit", ds.PixelPaddingValue))
        padding = (stored >= min(bounds)) & (stored <= max(bounds))
    intercept = float(ds.RescaleIntercept)
    if ds.BitsStored == 12 and ds.PixelRepresentation == 0 and intercept > -100:
        stored = np.where(stored + 1000 >= 4096, stored + 1000 - 4096, stored + 1000)
        intercept = -1000.0
    hu = np.clip(np.rint(stored * float(ds.RescaleSlope) + intercept), -1024, 32767)
    return np.where(padding, -1024, hu).astype(np.int16)


@st.composite
def slices(draw: st.DrawFn) -> bytes:
    """A file with the elements that a slice must have, any others between them, and any sound layout."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits, signed = draw(st.sampled_from([16, 16, 12, 12, 13, 10])), draw(st.booleans())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    seed = draw(st.integers(0, 1000))
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax = draw(st.sampled_from(PLAIN))
    ds.preamble = bytes(128)
    ds.Modality = "CT"
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2", f"1.{seed}"
    ds.PatientID = draw(st.text("ABC 012", max_size=8))
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.RescaleSlope = draw(st.sampled_from([1, 1, 1, 2, 0.5, -1]))
    ds.RescaleIntercept = draw(st.sampled_from([-1024, -1000, 0, -24, 0.5, 40000, -32768]))
    value = st.integers(low, high)
    if draw(st.booleans()):
        ds.add_new("PixelPaddingValue", "SS" if signed else "US", draw(value))
        if draw(st.booleans()):
            ds.add_new("PixelPaddingRangeLimit", "SS" if signed else "US", draw(value))
    if draw(st.booleans()):
        item = Dataset()
        item.CodeMeaning = "anything"
        ds.ProcedureCodeSequence = Sequence([item] * draw(st.integers(0, 2)))
        ds["ProcedureCodeSequence"].is_undefined_length = draw(st.booleans())
    if draw(st.booleans()):
        ds.ImageComments = "x" * draw(st.integers(0, 9000))
    stored = np.random.default_rng(seed).integers(low, high, (rows, columns), endpoint=True)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer,
        ds,
        implicit_vr=syntax == uid.ImplicitVRLittleEndian,
        little_endian=True,
        enforce_file_format=False,
    )
    return buffer.getvalue()


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=slices())
def test_both_ways_equal_pydicoms_on_any_layout(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "slice.dcm"
    path.write_bytes(content)
    header = read_header(path)
    assert header.pixel_offset == len(content) - 2 * header.Rows * header.Columns
    expected = read_as_pydicom_does(path)
    np.testing.assert_array_equal(read_hu(path), expected)
    np.testing.assert_array_equal(read_direct(path, header), expected)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(content=slices(), size=st.integers(1, 20))
def test_both_ways_give_one_resized_slice(tmp_path: Path, content: bytes, size: int) -> None:
    path = tmp_path / "slice.dcm"
    path.write_bytes(content)
    header, status = read_header(path), path.stat()
    row = {"path": path.name, "file_size": status.st_size, "mtime_ns": status.st_mtime_ns}
    table = pd.DataFrame([row | header._asdict() | {"stack": 0} | dict.fromkeys(LABELS, 0.0)])
    largest = max(header.Rows, header.Columns)
    direct, decoding = (
        SliceReader(tmp_path, to_arrays(table.assign(pixel_offset=offset)))
        for offset in (header.pixel_offset, -1)
    )
    sides = {size, largest, max(1, largest // 2)}
    for side in sides:
        ours, theirs = np.empty((2, side, side), np.int16)
        direct.read(0, ours)
        decoding.read(0, theirs)
        np.testing.assert_array_equal(ours, theirs)
    assert (direct.decoded, decoding.decoded) == (0, len(sides))


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    content=slices(),
    cut=st.integers(0, 2000),
    flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)
def test_the_quick_walk_finds_what_the_whole_walk_finds(
    content: bytes, cut: int, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(content[: max(200, len(content) - cut)])
    for place, value in flips:
        damaged[place % len(damaged)] = value
    skimmed = skimming.skim(bytes(damaged[: skimming.HEAD]))
    if skimmed is None:
        return
    stream = Stream(io.BytesIO(bytes(damaged)), len(damaged))
    stream.file.seek(132)
    assert elements.read_syntax(stream) == skimmed.syntax
    values, pixels = elements.read_values(stream, explicit=skimmed.explicit)
    assert values.raw == skimmed.values.raw
    assert pixels == skimmed.pixels
    assert stream.file.tell() == skimmed.offset


def test_every_encoding_of_the_phantom_both_ways(phantom: Path) -> None:
    table = build_index(phantom).table
    assert set(table["BitsStored"]) == {12, 16}
    direct = 0
    for row in table.groupby(["BitsStored", "RescaleIntercept", "TransferSyntaxUID"]).head(3).itertuples():
        path = phantom / row.path
        header = read_header(path)
        with pydicom.config.disable_value_validation():
            expected = read_as_pydicom_does(path)
        np.testing.assert_array_equal(read_hu(path), expected)
        if header.pixel_offset >= 0:
            np.testing.assert_array_equal(read_direct(path, header), expected)
            direct += 1
    assert direct > 10


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def replace(path: Path) -> None:
    content = path.read_bytes()
    time = path.stat().st_mtime_ns
    path.unlink()
    path.write_bytes(content[:-2] + b"\1\1")
    os.utime(path, ns=(time, time + 1))


@pytest.mark.parametrize("size", [128, 200, 256, 512])
@pytest.mark.parametrize(("signed", "intercept"), [(False, -1024), (True, -1000), (True, 0), (True, 33)])
def test_both_ways_at_real_sizes(tmp_path: Path, size: int, signed: bool, intercept: int) -> None:
    """Large enough for the vector code of OpenCV and NumPy."""
    rng = np.random.default_rng(size)
    layout = Layout(512, 512, Rescale(16 if signed else 12, signed, 1.0, float(intercept), None), 0)
    stored = rng.integers(-2000 if signed else 0, 4096, (512, 512)).astype(layout.dtype)
    (tmp_path / "pixels").write_bytes(bytes(10) + stored.tobytes())
    status = (tmp_path / "pixels").stat()
    place = Place(10, status.st_size, status.st_mtime_ns)
    values, shift = read_hu_at(tmp_path / "pixels", place, make_frames([layout])[0])
    hu = np.maximum(stored.astype(int) + intercept, -1024).astype(np.int16)
    np.testing.assert_array_equal(values + shift, hu)
    if keeps_shift(values, size):
        np.testing.assert_array_equal(resize_hu(values, size) + shift, resize_hu(hu, size))
    else:
        assert size not in (256, 512)


def test_a_file_that_is_written_over_meanwhile_is_not_believed(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = build_index(phantom).table
    path = tmp_path / "slice.dcm"
    path.write_bytes((phantom / table[table["pixel_offset"] >= 0]["path"].iloc[0]).read_bytes())
    header, preadv = read_header(path), os.preadv

    def write_before(file: int, buffers: list, offset: int) -> int:
        time = path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=(time, time + 1))
        return preadv(file, buffers, offset)

    assert read_direct(path, header) is not None
    monkeypatch.setattr(os, "preadv", write_before)
    assert read_direct(path, header) is None


@pytest.mark.parametrize("change", [shorten, replace, Path.unlink])
def test_a_file_that_changed_is_not_believed(
    phantom: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    table = build_index(phantom).table
    row = table[table["pixel_offset"] >= 0].iloc[0]
    path = tmp_path / "slice.dcm"
    path.write_bytes((phantom / row["path"]).read_bytes())
    header, status = read_header(path), path.stat()
    rescale = Rescale(header.BitsStored, header.PixelRepresentation == 1, 1.0, -1024.0, None)
    (frame,) = make_frames([Layout(header.Rows, header.Columns, rescale, header.orientation)])
    place = Place(header.pixel_offset, status.st_size, status.st_mtime_ns)
    assert read_hu_at(path, place, frame) is not None
    change(path)
    assert read_hu_at(path, place, frame) is None
