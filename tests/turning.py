"""Series that are stored in another orientation: the same voxels at the same places in the patient."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

_AXES = {"L": (0, 1.0), "R": (0, -1.0), "P": (1, 1.0), "A": (1, -1.0)}  # of a slice in LPS, and the sign


class Stored(NamedTuple):
    """How slices are stored.

    Attributes:
        row: Where a row of pixels runs to: L, R, A or P.
        column: Where a column does.
        reverse: Slices are numbered from the head to the feet.
    """

    row: str
    column: str
    reverse: bool = False


PLANES = [
    Stored(row, column) for pair in ("LR", "AP") for row in pair for column in ("AP" if row in "LR" else "LR")
]
"""The eight ways in which an axial slice is stored along its axes; ``LP`` is the usual one."""

EVERY = [each._replace(reverse=reverse) for each in PLANES for reverse in (False, True)]
"""With both orders of the slices: the 16 of the 48 orientations of a volume that are axial."""

PRONE = Stored("R", "A", reverse=True)
"""Feet first and prone, as a scanner stores what it then calls FFP."""


def turn_pixels(pixels: NDArray[np.generic], stored: Stored) -> NDArray[np.generic]:
    """Takes (Rows, Columns) in LPS to how they are stored."""
    axis, sign = _AXES[stored.row]
    down = _AXES[stored.column][1]
    pixels = pixels if axis == 0 else pixels.T
    return pixels[:: int(down), :: int(sign)]


def turn_slice(ds: Dataset, stored: Stored, count: int) -> None:
    """Stores a slice in another orientation, with the geometry that belongs to it.

    Args:
        ds: A slice in LPS, tilted or not, uncompressed; it is changed.
        stored: How it is to be stored.
        count: Slices of the series.
    """
    shape = (int(ds.Rows), int(ds.Columns))
    dtype = np.dtype("<i2" if ds.PixelRepresentation else "<u2")
    pixels = turn_pixels(np.frombuffer(ds.PixelData, dtype).reshape(shape), stored)
    left, back = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, ds.PixelSpacing)
    # Where the pixel lies that is now the first, by numbers of rows and columns that are turned alike.
    numbers = (turn_pixels(each, stored)[0, 0] for each in np.indices(shape))
    y, x = (int(number) for number in numbers)
    place = np.array(ds.ImagePositionPatient, float) + y * between_rows * back + x * between_columns * left
    directions = [_AXES[way][1] * (left, back)[_AXES[way][0]] for way in (stored.row, stored.column)]
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()
    ds.PixelSpacing = [between_rows, between_columns][:: 1 if stored.row in "LR" else -1]
    ds.ImagePositionPatient = [format(value, ".8g") for value in place]
    ds.ImageOrientationPatient = [format(value, ".8g") for value in np.concatenate(directions)]
    if stored.reverse and "InstanceNumber" in ds:
        ds.InstanceNumber = count + 1 - int(ds.InstanceNumber)


def read_slice(path: Path) -> Dataset:
    with pydicom.config.disable_value_validation():
        return pydicom.dcmread(path)


def turn_files(paths: list[Path], out: Path, stored: Stored) -> list[Path]:
    """Writes a series to a folder as ``turn_slice`` stores it, under the same names."""
    out.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            ds = read_slice(path)
            turn_slice(ds, stored, len(paths))
            ds.save_as(out / path.name)
    return [out / path.name for path in paths]
