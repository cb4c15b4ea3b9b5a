"""Groups thin slices of a stack into slabs of the thickness that a network knows.

A network that was trained on thick slices takes the noise of thin ones for hemorrhages. It therefore sees the
mean of several thin slices as one: a slab. Slices that are not clearly thinner stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.tables import SLAB_COLUMN
from ich.tables.stacks import SAME_POSITION

THIN = 0.6
"""Share of a slab's thickness: slices are averaged only across steps of at most this."""

POSITION_COLUMNS = ("StudyInstanceUID", "SeriesInstanceUID", "stack", "position")
"""Columns of an index from which ``measure_thickness`` takes the steps."""

Positions = NDArray[np.float64]


def measure_step(positions: Positions) -> float:
    """Measures the usual step from slice to slice, mm; NaN if fewer than two positions are known."""
    steps = list_steps(positions)
    return float(np.median(steps)) if len(steps) else np.nan


def list_steps(positions: Positions) -> Positions:
    """Lists mm from slice to slice in order of position; no step between two at one position."""
    steps = np.diff(np.sort(positions[np.isfinite(positions)]))
    return np.asarray(steps[steps >= SAME_POSITION])


def find_slabs(
    positions: Positions, thickness: float | None, left_out: Collection[int] = ()
) -> list[list[int]]:
    """Groups the slices of a stack into slabs.

    A run of slices without a larger step is divided into slabs of equal thickness, as near to the requested
    one as possible. A slice belongs to the slab that its middle lies in.

    Args:
        positions: (N,) mm along the slice normal, in order, as ``ich.image.sort_slices`` sorts them.
        thickness: Thickness of a slab in mm; None averages nothing.
        left_out: Places of slices that are never averaged. If all are left out, none is.

    Returns:
        The places of each slab's slices, in order. Each slab is a single slice if the usual step is above
        ``THIN`` of the thickness, or if a position is unknown.
    """
    step = measure_step(positions)
    if thickness is None or not step <= THIN * thickness or not np.isfinite(positions).all():
        return [[place] for place in range(len(positions))]
    gaps = np.flatnonzero(np.diff(positions) > THIN * thickness) + 1
    runs = np.split(np.arange(len(positions)), gaps)
    slabs = [slab for run in runs for slab in _divide(run, positions[run], thickness, step)]
    if len(left_out) >= len(positions):
        return slabs
    alone = [[place] for place in left_out]
    counted = [[place for place in slab if place not in left_out] for slab in slabs]
    return sorted([*filter(None, counted), *alone])


def _divide(run: NDArray[np.int64], positions: Positions, thickness: float, step: float) -> list[list[int]]:
    """Divides a run of slices into slabs of equal thickness."""
    depth = positions[-1] - positions[0] + step  # mm, with half a step below and above
    count = max(1, round(depth / thickness))
    slab = ((positions - positions[0] + step / 2) * count / depth).astype(np.int64)
    return [part.tolist() for part in np.split(run, np.flatnonzero(np.diff(slab)) + 1)]


def find_middle(slab: Sequence[int]) -> int:
    """Returns the place of the slice that stands for a slab: the middle one, of an even number the upper."""
    return slab[len(slab) // 2]


def number_slabs(table: pd.DataFrame, thickness: float | None) -> NDArray[np.int32]:
    """Numbers the slabs of an index.

    Args:
        table: An index: the slices of a stack in consecutive rows, in order.
        thickness: Thickness of a slab in mm; None averages nothing.

    Returns:
        (rows,) from 0 in order of first appearance; slices of one slab have the same number.
    """
    if thickness is None:
        return np.arange(len(table), dtype=np.int32)
    sizes = [len(slab) for stack in _split_stacks(table) for slab in find_slabs(stack, thickness)]
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def find_middles(slab: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Finds the rows of the middle slices of slabs; see ``find_middle``.

    Args:
        slab: (rows,) the number of each slice's slab, as from ``number_slabs``.
    """
    of_slab = pd.Series(slab).groupby(slab)
    return (of_slab.cumcount() == of_slab.transform("size") // 2).to_numpy()


def list_averaged(table: pd.DataFrame) -> pd.DataFrame:
    """Lists the slices of an index with ``SLAB_COLUMN`` that are averaged with others.

    Returns:
        ``SOPInstanceUID``, and in ``middle`` that of the middle slice, which stands for the mean.
    """
    uids, slab = table["SOPInstanceUID"].reset_index(drop=True), table[SLAB_COLUMN].to_numpy()
    middle = uids[find_middles(slab)].set_axis(slab[find_middles(slab)])
    found = pd.DataFrame({"SOPInstanceUID": uids, "middle": middle.loc[slab].to_numpy()})
    return found[found.duplicated("middle", keep=False)].reset_index(drop=True)


def measure_thickness(table: pd.DataFrame) -> float | None:
    """Measures the usual step of stacks: the median of their medians, mm; None if unknown.

    Args:
        table: ``POSITION_COLUMNS`` of an index, the slices of a stack in consecutive rows.
    """
    steps = [step for stack in _split_stacks(table) if np.isfinite(step := measure_step(stack))]
    return float(np.median(steps)) if steps else None


def _split_stacks(table: pd.DataFrame) -> list[Positions]:
    """Splits the positions of an index by stack."""
    stacks = table[list(POSITION_COLUMNS[:3])]
    starts = np.flatnonzero((stacks != stacks.shift()).any(axis=1).to_numpy())
    return np.split(table["position"].to_numpy(np.float64), starts[1:])
