"""Checks whether the slices of a series show a whole head in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.orientation import Plane, find_plane, orient_cosines
from ich.index.quality import GAP, SAME_TILT, check_series
from ich.schema.codes import Note, Reason
from ich.schema.results import Remark
from ich.tables import say
from ich.tables.slabs import list_steps
from ich.tables.stacks import SAME_POSITION

LEAST_COVERAGE = 90.0  # mm: a newborn's head is some 100 high
UNEVEN = 1.5  # a step over another of the same series
APART = 1.75  # steps over the thickness of slices: where every other slice is missing, two or more
LARGE = 1.4  # a gap over the step that is usual around it: 1.5 where one is missing between steps of 1 and 2
MOST_WEIGHT = 2.0  # of a step over the median around it, in the usual step
AROUND = 3  # steps on either side that determine the usual step
LEAST_SWEEP = 3  # slices of a second scan that lie at places of their own
_TURN = np.radians(SAME_TILT)  # of a unit vector; small angles and their chords are alike

Array = NDArray[np.float64]


def find_planes(orientations: pd.Series[str]) -> list[Plane]:
    """Finds the planes of slices, from ImageOrientationPatient as in ``ich.dicom.attributes``."""
    return [find_plane(_parse(text)) for text in orientations]


def find_directions(orientations: pd.Series[str]) -> Array:
    """Finds the directions of a row and a column after slices are brought to LPS, NaN where missing.

    Returns:
        (N, 2, 3).
    """
    cosines = map(_parse, orientations)
    found = [orient_cosines(each, find_plane(each).orientation) for each in cosines]
    return np.array(found, dtype=np.float64).reshape(-1, 2, 3)


def _parse(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split("\\")]
    except ValueError:
        values = []
    return values if len(values) == 6 else [np.nan] * 6


def measure_coverage(positions: Array) -> float:
    """Measures the span of slices along their normal, mm, each as thick as the usual step; 0 if unknown."""
    steps = list_steps(positions)
    return float(steps.sum() + np.median(steps)) if len(steps) else 0.0


def check_geometry(slices: pd.DataFrame) -> list[Remark]:
    """Finds problems in the geometry of a series: those of ``ich.index.quality``, and more for a result.

    Args:
        slices: The readable slices of one series: the columns of ``ich.tables.HEADER_DTYPES``, and
            ImageOrientationPatient and SliceThickness as in ``ich.dicom.attributes``.

    Returns:
        Remarks with codes of ``Reason`` and ``Note``, each at most once.
    """
    problems = check_series(slices.assign(stack=0))
    found: dict[Reason | Note, str] = {
        code: detail
        for code, detail in zip(map(_sort_code, problems["code"]), problems["detail"], strict=True)
        if code not in (Reason.GAP, Reason.NOT_MONOTONE)  # these are checked here, with more care
    }
    for code, detail in _find_more(slices):
        found.setdefault(code, detail)
    return [Remark(code, detail) for code, detail in found.items()]


def _sort_code(code: str) -> Reason | Note:
    return Note(code) if code in set(Note) else Reason(code)


def _find_more(slices: pd.DataFrame) -> Iterator[tuple[Reason | Note, str]]:
    positions = slices["position"].to_numpy(np.float64)
    numbers = slices["InstanceNumber"].to_numpy(np.float64)
    steps = list_steps(positions)
    thickness = pd.to_numeric(slices["SliceThickness"], errors="coerce").median()  # mm
    yield from _find_gaps(positions, numbers, steps, thickness)
    if len(steps) and steps.max() > UNEVEN * steps.min():
        yield Note.UNEVEN_STEPS, f"steps from {steps.min():g} to {steps.max():g} mm"
    if not _is_in_sweeps(numbers, positions):
        yield Reason.NOT_MONOTONE, "positions jump back and forth in the order of InstanceNumber"
    if (coverage := measure_coverage(positions)) < LEAST_COVERAGE:
        yield Reason.SHORT_COVERAGE, f"{coverage:.0f} mm, but a head needs {LEAST_COVERAGE:g} mm or more"
    if slices[["row_spacing", "column_spacing"]].isna().any(axis=None):
        yield Reason.NO_SPACING, "PixelSpacing is missing"
    if (off := _measure_turn(slices["ImageOrientationPatient"])) > _TURN:
        yield Reason.MIXED_ORIENTATION, f"directions differ by {np.degrees(off):.1f} degrees"


def _find_gaps(
    positions: Array, numbers: Array, steps: Array, thickness: float
) -> Iterator[tuple[Reason | Note, str]]:
    if gaps := _count_gaps(steps):
        yield Reason.GAP, f"{say(gaps, 'gap')} between slices"
    if missing := _count_missing_numbers(numbers, positions):
        yield Reason.GAP, f"{say(missing, 'gap')} in InstanceNumber"
    if len(steps) and thickness > 0 and (step := float(np.median(steps))) > APART * thickness:
        # If every other slice is missing, steps and numbers do not show it.
        yield Reason.GAP, f"slices are {thickness:g} mm thick but {step:g} mm apart"


def _measure_turn(orientations: pd.Series[str]) -> float:
    """Measures how far, in radians, the directions of slices lie from the usual one; 0 without any."""
    directions = find_directions(orientations)
    known = directions[np.isfinite(directions).all(axis=(1, 2))]
    if not len(known):
        return 0.0
    return float(np.linalg.norm(known - np.median(known, axis=0), axis=2).max())


def _count_gaps(steps: Array) -> int:
    """Counts the steps that are larger than the usual steps around them.

    The usual step covers half of the distance around it. Thin steps in between, as from a second scan,
    therefore do not turn other steps into gaps. A large gap counts for little of the distance.
    """
    return sum(
        bool(steps[place] > LARGE * _find_usual(steps[max(place - AROUND, 0) : place + AROUND + 1]))
        for place in range(len(steps))
    )


def _find_usual(steps: Array) -> float:
    ordered = np.sort(steps)
    way = np.cumsum(ordered.clip(max=MOST_WEIGHT * np.median(ordered)))
    return float(ordered[np.searchsorted(way, way[-1] / 2)])


def _count_missing_numbers(numbers: Array, positions: Array) -> int:
    """Counts missing InstanceNumbers where positions continue, or are unknown.

    Numbers of a series may rise by two, for example if one scan gave two series. Those of a second scan may
    begin anywhere.
    """
    if not np.isfinite(numbers).all() or len(numbers) < 2:
        return 0
    order = np.argsort(numbers, kind="stable")
    counted, moved = np.diff(numbers[order]), np.diff(positions[order])
    usual = np.median(counted[counted > 0]) if (counted > 0).any() else 1.0
    back = moved * np.nanmedian(moved) <= 0 if np.isfinite(moved).any() else np.zeros(len(moved), bool)
    return int(((counted > GAP * usual) & ~back).sum())


def _is_in_sweeps(numbers: Array, positions: Array) -> bool:
    """Whether slices in the order of InstanceNumber go in one direction, or scan parts of the head again.

    A second scan visits neighboring places in the direction of the first. Slices with mixed-up positions jump
    over others.
    """
    known = np.isfinite(numbers) & np.isfinite(positions)
    way = positions[known][np.argsort(numbers[known], kind="stable")]
    if len(way) < 2:
        return True
    _, first = np.unique(np.round(way / SAME_POSITION), return_index=True)
    way = way[np.sort(first)]  # a slice at the place of another does not change the order of the others
    moved = np.diff(way)
    direction = 1.0 if np.median(np.sign(moved)) >= 0 else -1.0
    sweeps = np.split(way, np.flatnonzero(direction * moved < 0) + 1)
    if len(sweeps) == 1:
        return True
    largest = LARGE * _find_usual(list_steps(way))
    return all(len(sweep) >= LEAST_SWEEP and np.abs(np.diff(sweep)).max() <= largest for sweep in sweeps)
