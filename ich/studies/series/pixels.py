"""Measures of the pixels of a series, for the checks in ``plausible``.

They look for brain: soft tissue with bone in at least three of the four directions along rows and columns.
Sutures, fontanelles and a skull that is open on one side therefore do no harm. The values of the brain show
whether the scale is right. Air, bone and differences between neighboring slices show the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.brain import find_inside
from ich.schema import AIR_HU
from ich.schema.hu import (
    AIR_AROUND,
    AIR_AT_EDGES,
    BODY,
    BONE,
    HARD,
    MOST_HU,
    MUSCLE_AND_BRAIN,
    NEITHER,
    PURE_AIR,
    USUAL_BRAIN,
)

BRAIN_AREA = (35.0, 290.0)  # cm² in a slice: a newborn's is some 60, the largest of CT-ICH 261
MOST_SPREAD = 75.0  # HU from the first to the last tenth of brain, a large hemorrhage included

LEAST_TISSUE = 0.06  # share of the slice: above the brain, bone lies between brain and scalp
WIDE = 0.3  # of a row, from its first to its last bone: beside an empty row at most 0.22 in CT-ICH
MUCH = 0.6  # of the tissue and bone in the widest row: beside an empty row at most 0.46 in CT-ICH
LEAST_WIDTH = 0.2  # of a row, for this: a head is wider

Stack = NDArray[np.int16]
Slice = NDArray[np.int16]


class SliceMeasures(NamedTuple):
    """Measures of a slice; areas in cm²."""

    is_constant: bool
    air: float  # share of the slice
    of_air: float  # share of the pixels outside the body
    neither: float  # share of the slice
    body: float
    hard: float  # share of the body
    has_hole: bool
    bone: float  # share of the slice
    bone_hu: float  # the middle of it
    inside: float  # soft tissue with bone around it, its largest part
    inside_hu: float  # the middle of it
    is_brain: bool  # by its place, size and evenness


class Change(NamedTuple):
    """Median difference of two neighboring slices in HU, NaN if there is too little tissue.

    Attributes:
        step: Median change where both show tissue, from the lower to the upper slice.
        up: Median change over the lower slice's tissue, from the lower to the upper slice.
        down: Median change over the upper slice's tissue, from the upper to the lower slice.
    """

    step: float
    up: float
    down: float


class SeriesMeasures(NamedTuple):
    """Measures of the slices of a series, from ``measure_series``.

    Attributes:
        slices: One entry per slice.
        changes: One entry per pair of neighbors, one less than slices.
        off: Median difference in HU between the tissue of each slice and the mean of its two neighbors, where
            both have tissue. NaN if there is too little, or if a slice has only one neighbor.
        same_as: For each slice, the first slice with exactly the same pixels, or None.
        positions: Position of each slice, mm along the slice normal; NaN where unknown.
    """

    slices: Sequence[SliceMeasures]
    changes: Sequence[Change]
    off: Sequence[float]
    same_as: Sequence[int | None]
    positions: NDArray[np.float64]


def measure_series(
    hu: Stack,
    spacing_mm: float,
    positions: NDArray[np.float64] | None = None,
    transposed: NDArray[np.bool_] | None = None,
) -> SeriesMeasures:
    """Measures the slices of a series.

    Args:
        hu: (N, S, S) HU in order of position, S about 128.
        spacing_mm: Distance between these pixels, mm.
        positions: (N,) mm along the slice normal, NaN if unknown; None if all are unknown.
        transposed: (N,) whether a slice's columns are the rows of its file; None if this is false for all.
    """
    middle = range(1, len(hu) - 1)
    turned = np.zeros(len(hu), bool) if transposed is None else transposed
    pixel = spacing_mm * spacing_mm / 100  # cm²
    return SeriesMeasures(
        slices=[_measure_slice(each, pixel, is_turned) for each, is_turned in zip(hu, turned, strict=True)],
        changes=[_compare(hu[place], hu[place + 1]) for place in range(len(hu) - 1)],
        off=[
            _measure_off(*hu[place - 1 : place + 2]) if place in middle else math.nan
            for place in range(len(hu))
        ],
        same_as=_find_copies(hu),
        positions=np.full(len(hu), np.nan) if positions is None else np.asarray(positions, np.float64),
    )


def bring_to_scale(hu: Stack) -> Stack | None:
    """Rescales slices that are not on the scale as if they showed a head: air around it, brain in the middle.

    Args:
        hu: As in ``measure_series``.

    Returns:
        The same shape, to search for a head; None if the surrounding air is on the scale, or if there is only
        air.
    """
    around = (hu[:, 0], hu[:, -1], hu[:, :, 0], hu[:, :, -1])
    air = float(np.median(np.concatenate([edge.ravel() for edge in around])))
    slices, size = len(hu), hu.shape[1]
    inside = slice(3 * size // 8, 5 * size // 8)
    brain = float(np.median(hu[slices // 3 : 2 * slices // 3 + 1, inside, inside]))
    if AIR_AT_EDGES[0] <= air <= AIR_AT_EDGES[1] or brain == air:
        return None
    scaled = (hu - air) * ((USUAL_BRAIN - PURE_AIR) / (brain - air)) + PURE_AIR
    return np.asarray(np.clip(np.rint(scaled), AIR_HU, MOST_HU), np.int16)


def _find_copies(hu: Stack) -> list[int | None]:
    """Finds copies, as two scans never have the same noise; air that is clipped to one value has none."""
    first: dict[bytes, int] = {}
    places = [
        number if each.min() == each.max() else first.setdefault(each.tobytes(), number)
        for number, each in enumerate(hu)
    ]
    return [None if place == number else place for number, place in enumerate(places)]


def _compare(lower: Slice, upper: Slice) -> Change:
    below, above = _find_tissue(lower), _find_tissue(upper)
    change = upper.astype(np.int32) - lower
    return Change(
        step=_find_middle(change, below & above),
        up=_find_middle(change, below),
        down=_find_middle(-change, above),
    )


def _measure_off(before: Slice, hu: Slice, after: Slice) -> float:
    mean = (before.astype(np.int32) + after) >> 1
    return _find_middle(hu - mean, _find_tissue(before) & _find_tissue(after))


def _find_tissue(hu: Slice) -> NDArray[np.bool_]:
    return (hu > MUSCLE_AND_BRAIN[0]) & (hu < MUSCLE_AND_BRAIN[1])


def _find_middle(values: NDArray[np.int32], where: NDArray[np.bool_]) -> float:
    if np.count_nonzero(where) < LEAST_TISSUE * where.size:
        return math.nan
    return float(np.median(values[where]))


def _measure_slice(hu: Slice, pixel: float, is_transposed: bool) -> SliceMeasures:
    """Measures a slice; ``pixel`` in cm²."""
    outside, bone = hu < BODY, hu >= BONE[0]
    no_body, bones = int(np.count_nonzero(outside)), int(np.count_nonzero(bone))
    air = int(np.count_nonzero(hu <= AIR_AROUND[1]))
    body = (hu.size - no_body) * pixel
    inside = find_inside(hu)
    area = int(np.count_nonzero(inside.whole)) * pixel
    values = np.sort(hu[inside.core.view(bool)])
    tenth, middle, last = values[[len(values) * tenths // 10 for tenths in (1, 5, 9)]] if area else (0, 0, 0)
    is_brain = BRAIN_AREA[0] <= area <= BRAIN_AREA[1] and last - tenth <= MOST_SPREAD and inside.is_enclosed
    return SliceMeasures(
        is_constant=bool(hu.min() == hu.max()),
        air=air / hu.size,
        of_air=air / max(no_body, 1),
        neither=int(np.count_nonzero((hu > NEITHER[0]) & (hu < NEITHER[1]))) / hu.size,
        body=body,
        hard=int(np.count_nonzero((hu > HARD[0]) & (hu < HARD[1]))) / max(hu.size - no_body, 1),
        has_hole=_has_hole(hu.T, bone.T) if is_transposed else _has_hole(hu, bone),
        bone=bones / hu.size,
        bone_hu=float(np.median(hu[bone])) if bones else 0.0,
        inside=area,
        inside_hu=float(middle),
        is_brain=is_brain,
    )


def _has_hole(hu: Slice, bone: NDArray[np.bool_]) -> bool:
    """Whether rows of equal pixels lie within the head, as after the loss of a block of the file.

    Pixels are stored row by row, so a transposed slice is examined as it is stored. Empty rows above and
    below a head hold air. They are not next to a row with bone far apart or with much of the head, because a
    head is round and has skin.
    """
    empty = hu.min(axis=1) == hu.max(axis=1)
    if not empty.any():
        return False
    if (hu[empty] > AIR_AROUND[1]).any():
        return True
    width = np.where(bone.any(axis=1), len(hu) - bone.argmax(axis=1) - bone[:, ::-1].argmax(axis=1), 0)
    much = np.count_nonzero(hu > MUSCLE_AND_BRAIN[0], axis=1)
    wide = (width > WIDE * len(hu)) | (much > MUCH * max(much.max(), LEAST_WIDTH * len(hu)))
    wide = wide.astype(np.uint8)[:, None]
    return bool((cv2.dilate(wide, np.ones((5, 1), np.uint8))[:, 0].view(bool) & empty).any())
