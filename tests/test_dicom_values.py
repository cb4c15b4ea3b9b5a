"""Values that break the rules of their kind, and mean one thing all the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slices import STORED, make_slice, put_raw, to_bytes

from ich.dicom import read_header, read_hu
from ich.dicom.attributes import read_attributes
from ich.schema import ReadError
from ich.schema.codes import Refusal

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a slice that differs in some elements."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "slice.dcm"
        ds = make_slice()
        for keyword, value in changes.items():
            if value is not None:
                put_raw(ds, keyword, value.encode())
        path.write_bytes(to_bytes(ds))
        return path

    return write


@pytest.mark.parametrize("frames", ["1", "01", "001 ", "+1", "0", ""])
def test_one_frame_however_it_is_written(write: Write, frames: str) -> None:
    np.testing.assert_array_equal(read_hu(write(NumberOfFrames=frames)), STORED - 24)


@pytest.mark.parametrize("units", ["HU", "US", "", None])
def test_a_scale_without_a_unit_is_read(write: Write, units: str | None) -> None:
    np.testing.assert_array_equal(read_hu(write(RescaleType=units)), STORED - 24)


@pytest.mark.parametrize(
    ("keyword", "value", "column", "expected"),
    [
        ("RescaleIntercept", "-1024,0", "RescaleIntercept", -1024.0),
        ("RescaleSlope", "1,0", "RescaleSlope", 1.0),
        ("RescaleSlope", "+0,5e1 ", "RescaleSlope", 5.0),
        ("PixelSpacing", "0,488\\0,375", "column_spacing", 0.375),
        ("WindowCenter", "35,5", "WindowCenter", 35.5),
        # The last comma can only be a decimal one, so the first are, too.
        ("ImagePositionPatient", "-125,250\\-120,125\\30,5", "position", 30.5),
        # A thousand or one, a mixture, two commas: not told, so malformed.
        ("WindowCenter", "1,024", "WindowCenter", math.nan),
        ("ImagePositionPatient", "-125,250\\-120,125\\30,500", "position", math.nan),
        ("PixelSpacing", "0.5\\0,375", "column_spacing", math.nan),
        ("WindowCenter", "1,024,5", "WindowCenter", math.nan),
        ("WindowCenter", ",5", "WindowCenter", math.nan),
    ],
)
def test_a_comma_is_a_decimal_point_where_it_can_be_nothing_else(
    write: Write, keyword: str, value: str, column: str, expected: float
) -> None:
    header = read_header(write(**{keyword: value}))
    assert getattr(header, column) == pytest.approx(expected, nan_ok=True)


def test_hounsfield_units_by_decimal_commas(write: Write) -> None:
    path = write(RescaleSlope="0,5", RescaleIntercept="-24,50")
    np.testing.assert_array_equal(read_hu(path), np.rint(STORED * 0.5 - 24.5))


def test_patients_with_long_names_are_distinguished(write: Write) -> None:
    long = "P" * 3000
    path = write(PatientID=long)
    assert read_header(path).PatientID == read_attributes(path).PatientID == long
    np.testing.assert_array_equal(read_hu(path), STORED - 24)


@pytest.mark.parametrize(
    ("keyword", "value", "column", "expected"),
    [
        ("WindowCenter", "\\".join(["40"] * 2000), "WindowCenter", 40.0),  # of many the first
        ("WindowCenter", "40" + " " * 2000, "WindowCenter", 40.0),
        ("WindowCenter", "4" * 2000, "WindowCenter", math.nan),
        ("InstanceNumber", "0" * 60 + "7", "InstanceNumber", 7.0),
        ("PixelSpacing", "0." + "4" * 300 + "\\0.5", "column_spacing", 0.5),
        ("FrameOfReferenceUID", "1." * 5000, "Rows", len(STORED)),  # not needed at all
    ],
)
def test_a_value_that_is_too_long_costs_no_slice(
    write: Write, keyword: str, value: str, column: str, expected: float
) -> None:
    header = read_header(write(**{keyword: value}))
    assert getattr(header, column) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("RescaleSlope", "1" * 2000),
        ("RescaleIntercept", "-1,024"),  # -1024, or a little less than -1
        ("RescaleType", "OD"),  # optical density
    ],
)
def test_a_missing_scale_is_refused(write: Write, keyword: str, value: str) -> None:
    with pytest.raises(ReadError) as caught:
        read_hu(write(**{keyword: value}))
    assert caught.value.code == Refusal.NO_RESCALE
