"""The plane of a slice in the patient, and the flips and the transpose that bring it to one orientation.

That orientation is LPS, by the axes of the patient in PS3.3 C.7.6.2.1.1: rows of pixels run to the patient's
left, columns of pixels to the back, and slices follow one another from the feet to the head. SimpleITK's
``DICOMOrient`` does the same for a volume. Flips and a transpose move pixels but change none. A slice that is
tilted or turned by less than half a right angle keeps that angle, because its axes are the nearest ones.

A slice's orientation is a number: ``UNKNOWN``, or the sum of ``TRANSPOSED``, ``UPSIDE_DOWN`` and
``MIRRORED``. The transpose comes first. 0 is a slice that is stored in LPS, like most slices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""The file gives no sound orientation, or the slice is not nearest to the axial plane: it stays as stored."""

TRANSPOSED = 1
"""What is stored as a column becomes a row."""

UPSIDE_DOWN = 2
"""The first row becomes the last one."""

MIRRORED = 4
"""The first column becomes the last one."""

Vector = tuple[float, float, float]
_NO_VECTOR: Vector = (math.nan, math.nan, math.nan)
_Value = TypeVar("_Value")
_FLIPS = {UPSIDE_DOWN: 0, MIRRORED: 1, UPSIDE_DOWN + MIRRORED: -1}  # OpenCV's codes


class Plane(NamedTuple):
    """The plane of a slice in the patient.

    Attributes:
        normal: Unit vector towards the patient's left, back or head, whichever is nearest; NaN
            without a sound orientation.
        tilt: Rotation about the patient's x axis in degrees, positive where the front of the head is raised:
            ``atan2(n_y, n_z)`` of the normal n, taken upwards. NaN without a sound orientation.
        turn: Degrees between the patient's left and the nearest axis of the pixels; a tilt of the gantry
            leaves it at 0. NaN without a sound orientation.
        orientation: Conversion of the slice to LPS; see the module.
    """

    normal: Vector
    tilt: float
    turn: float
    orientation: int


def find_plane(cosines: Sequence[float]) -> Plane:
    """Finds the plane of a slice in the patient.

    Args:
        cosines: ImageOrientationPatient, the direction of a row and that of a column (PS3.3 C.7.6.2.1.1).
            They are sound only if they are two directions at a right angle.
    """
    a, b, c, d, e, f = cosines
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)  # row x column
    length = math.hypot(*normal)
    if not abs(length - 1) < 0.01:
        return Plane(_NO_VECTOR, math.nan, math.nan, UNKNOWN)
    largest = max(normal, key=abs)
    x, y, z = (n / math.copysign(length, largest) for n in normal)
    upwards = math.copysign(1, z)
    tilt = math.degrees(math.atan2(upwards * y, upwards * z))
    turn = math.degrees(math.acos(min(1.0, max(abs(a) / math.hypot(a, b, c), abs(d) / math.hypot(d, e, f)))))
    orientation = _choose_orientation(cosines) if abs(largest) == abs(normal[2]) else UNKNOWN
    return Plane((x, y, z), tilt, turn, orientation)


def _choose_orientation(cosines: Sequence[float]) -> int:
    a, b, _, d, e, _ = cosines
    if abs(b) + abs(d) > abs(a) + abs(e):  # rows run along the patient's y axis, columns along x
        return TRANSPOSED + UPSIDE_DOWN * (b < 0) + MIRRORED * (d < 0)
    return UPSIDE_DOWN * (e < 0) + MIRRORED * (a < 0)


def orient(pixels: NDArray[np.int16], orientation: int) -> NDArray[np.int16]:
    """Brings the pixels of a slice to LPS.

    Args:
        pixels: (Rows, Columns) as stored.
        orientation: The slice's orientation.

    Returns:
        ``pixels`` itself if nothing changes, else a new contiguous array.
    """
    if orientation <= 0:
        return pixels
    # By OpenCV, in a fifth of the time that NumPy takes to copy a view.
    if orientation & TRANSPOSED:
        pixels = np.asarray(cv2.transpose(pixels), np.int16)
    flips = orientation & (UPSIDE_DOWN + MIRRORED)
    return np.asarray(cv2.flip(pixels, _FLIPS[flips]), np.int16) if flips else pixels


def find_transposed(orientations: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Finds the slices whose columns are the rows of their files."""
    return (orientations > 0) & (orientations & TRANSPOSED > 0)


def orient_pair(pair: tuple[_Value, _Value], orientation: int) -> tuple[_Value, _Value]:
    """Converts a pair for rows and columns from the stored slice to LPS, or back.

    Args:
        pair: A value for rows and one for columns, such as counts or spacings.
        orientation: The slice's orientation.
    """
    first, second = pair
    return (second, first) if orientation > 0 and orientation & TRANSPOSED else (first, second)


class Geometry(NamedTuple):
    """Place of a slice in the patient's coordinates, in mm (PS3.3 C.7.6.2); NaN if the file lacks it.

    Attributes:
        orientation: Direction of a row, then of a column, as ImageOrientationPatient.
        position: The middle of the first pixel, as ImagePositionPatient.
    """

    orientation: tuple[float, ...]
    position: tuple[float, ...]


def orient_cosines(cosines: Sequence[float], orientation: int) -> tuple[float, ...]:
    """Finds the directions of a row and a column after a slice is brought to LPS.

    Args:
        cosines: ImageOrientationPatient as stored.
        orientation: The slice's orientation.
    """
    if orientation <= 0:
        return tuple(cosines)
    row, column = orient_pair((tuple(cosines[:3]), tuple(cosines[3:])), orientation)
    right = -1.0 if orientation & MIRRORED else 1.0
    down = -1.0 if orientation & UPSIDE_DOWN else 1.0
    # Adding 0 makes 0 of -0.
    return (*(right * each + 0.0 for each in row), *(down * each + 0.0 for each in column))


def orient_geometry(
    stored: Geometry, shape: tuple[int, int], spacing: tuple[float, float], orientation: int
) -> Geometry:
    """Finds the place of a slice after its pixels are brought to LPS (PS3.3 C.7.6.2.1.1).

    Args:
        stored: ImageOrientationPatient and ImagePositionPatient as stored.
        shape: (Rows, Columns) of the slice in LPS.
        spacing: Distance between these rows and between these columns, mm.
        orientation: The slice's orientation.
    """
    if orientation <= 0:
        return stored
    cosines = orient_cosines(stored.orientation, orientation)
    row, column = np.array(cosines).reshape(2, 3)
    # The first pixel of an axis that is turned round was the last one.
    place = np.array(stored.position)
    if orientation & UPSIDE_DOWN:
        place = place - (shape[0] - 1) * spacing[0] * column
    if orientation & MIRRORED:
        place = place - (shape[1] - 1) * spacing[1] * row
    return Geometry(cosines, tuple(place.tolist()))
