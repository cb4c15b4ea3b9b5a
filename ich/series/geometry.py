"""What speaks against believing that the slices of a series show a whole head in their order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.orientation import Plane, find_plane, orient_cosines
from ich.findings import GAP, SAME_POSITION, SAME_TILT, check_series
from ich.schema.results import Note, Reason, Remark

LEAST_COVERAGE = 90.0  # mm: a newborn's head is some 100 high
UNEVEN = 1.5  # a step over another of the same series
APART = 1.75  # steps over the thickness of slices: where every other slice is missing, two or more
EVEN = 0.1  # by which even steps differ at most, as a share
LEAST_STEPS = 3  # even ones on either side of a change that a protocol makes
_TURN = np.radians(SAME_TILT)  # of a unit vector; small angles and their chords are alike

Array = NDArray[np.float64]


def find_planes(orientations: pd.Series[str]) -> list[Plane]:
    """How slices lie in the patient, by ImageOrientationPatient as ``ich.dicom.attributes`` has it."""
    return [find_plane(_parse(text)) for text in orientations]


def find_directions(orientations: pd.Series[str]) -> Array:
    """Directions of a row and of a column once slices are brought to LPS, NaN where they are not given.

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


def _list_steps(positions: Array) -> Array:
    """Mm from slice to slice in order of position; none between two at one position."""
    steps = np.diff(np.sort(positions[np.isfinite(positions)]))
    return np.asarray(steps[steps >= SAME_POSITION])


def measure_step(positions: Array) -> float:
    """The usual mm from slice to slice; NaN where fewer than two positions are known."""
    steps = _list_steps(positions)
    return float(np.median(steps)) if len(steps) else np.nan


def measure_coverage(positions: Array) -> float:
    """Mm along the slice normal that slices span, each as thick as their usual step; 0 where not known."""
    steps = _list_steps(positions)
    return float(steps.sum() + np.median(steps)) if len(steps) else 0.0


def _changes_once(steps: Array) -> bool:
    """Whether even steps are followed by even steps of another size, as where a protocol changes them.

    A slice that is missing just there, and that alone, could not be told from it.
    """
    changes = np.flatnonzero(np.abs(np.diff(np.log(steps))) > np.log1p(EVEN))
    return len(changes) == 1 and bool(LEAST_STEPS - 1 <= changes[0] < len(steps) - LEAST_STEPS)


def check_geometry(slices: pd.DataFrame) -> list[Remark]:
    """Finds what speaks against the geometry of a series: ``ich.findings`` and, for a result, more.

    Args:
        slices: The slices of one series that can be read: the columns of ``ich.tables.HEADER_DTYPES``, and
            ImageOrientationPatient and SliceThickness as ``ich.dicom.attributes`` has them.

    Returns:
        With codes of ``Reason`` and ``Note``, each at most once.
    """
    findings = check_series(slices)
    found = {_sort_code(code): text for code, text in zip(findings["code"], findings["detail"], strict=True)}
    for code, detail in _find_more(slices):
        found.setdefault(code, detail)
    return [Remark(code, detail) for code, detail in found.items()]


def _sort_code(code: str) -> Reason | Note:
    return Note(code) if code in set(Note) else Reason(code)


def _find_more(slices: pd.DataFrame) -> Iterator[tuple[Reason | Note, str]]:
    positions = slices["position"].to_numpy(np.float64)
    numbers = np.sort(slices["InstanceNumber"].to_numpy(np.float64))
    counted = np.diff(numbers) if np.isfinite(numbers).all() else np.empty(0)
    # Numbers of a series may go up by two, as where two series were made of one scan.
    if (missing := int((counted > GAP * np.median(counted)).sum()) if len(counted) else 0) > 0:
        yield Reason.GAP, f"{missing} gaps in InstanceNumber"
    steps = _list_steps(positions)
    thickness = pd.to_numeric(slices["SliceThickness"], errors="coerce").median()  # mm
    if len(steps) and thickness > 0 and (step := float(np.median(steps))) > APART * thickness:
        # As where every other slice is missing, which steps and numbers by themselves do not show.
        yield Reason.GAP, f"slices of {thickness:g} mm lie {step:g} mm apart"
    is_complete = len(counted) > 0 and bool((counted == 1).all())
    if len(steps) and steps.max() > UNEVEN * steps.min() and not (is_complete or _changes_once(steps)):
        yield Note.UNEVEN_STEPS, f"steps from {steps.min():g} to {steps.max():g} mm"
    if (coverage := measure_coverage(positions)) < LEAST_COVERAGE:
        yield Reason.SHORT_COVERAGE, f"{coverage:.0f} mm, a head takes {LEAST_COVERAGE:g} mm or more"
    if slices[["row_spacing", "column_spacing"]].isna().any(axis=None):
        yield Reason.NO_SPACING, "PixelSpacing is not given"
    directions = find_directions(slices["ImageOrientationPatient"])
    known = directions[np.isfinite(directions).all(axis=(1, 2))]
    if len(known) and (off := np.linalg.norm(known - np.median(known, axis=0), axis=2).max()) > _TURN:
        yield Reason.MIXED_ORIENTATION, f"directions differ by {np.degrees(off):.1f} degrees"
