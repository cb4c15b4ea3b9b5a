"""What a network sees of a series: the order of its slices, their neighbors, their size.

Training, prediction, explanation and export prepare slices by these functions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.image.brain import show_brain
from ich.image.resize import resize_hu
from ich.image.scale import shift_brain
from ich.schema import InputSpec

__all__ = ["average_hu", "average_slabs", "find_neighbors", "prepare_planes", "prepare_series", "sort_slices"]

ORDER = ("position", "InstanceNumber", "SOPInstanceUID", "frame")
"""Columns that order the slices of a series, whatever their files are called."""


def sort_slices(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Sorts slices by ``ORDER``. Missing positions and numbers come first.

    Args:
        table: One row per slice, with these columns of the index.
        by: Columns to sort by first, such as the series.

    Returns:
        The sorted table, with rows counted from 0.
    """

    def take_file(column: pd.Series) -> pd.Series:  # as text, frame 10 of a file comes before frame 2
        return column.str.replace("#.*", "", regex=True) if column.name == "SOPInstanceUID" else column

    return table.sort_values([*by, *ORDER], key=take_file, na_position="first", ignore_index=True)


def average_hu(slices: NDArray[np.int16]) -> NDArray[np.int16]:
    """Averages (N, S, S) HU to (S, S), rounded to the nearest HU, a half upward."""
    count = len(slices)
    total = slices.sum(axis=0, dtype=np.int32)
    return np.asarray((2 * total + count) // (2 * count), np.int16)


def average_slabs(slices: NDArray[np.int16], slabs: Sequence[Sequence[int]]) -> NDArray[np.int16]:
    """Averages the slices of each slab; a slab of one slice is that slice, bit for bit.

    Args:
        slices: (N, S, S) HU.
        slabs: K slabs, each the places of its slices, as from ``ich.tables.slabs.find_slabs``.

    Returns:
        (K, S, S) HU.
    """
    if len(slabs) == len(slices):
        return slices
    return np.stack([average_hu(slices[list(slab)]) for slab in slabs])


def find_neighbors(kept: Sequence[int], row: int, neighbors: int) -> list[int]:
    """Finds the rows that a network sees for a slice: its neighbors below, itself, its neighbors above.

    At an end of the stack the last slice repeats.

    Args:
        kept: Rows of the slice's stack that may be neighbors, at least one, in order.
        row: The slice's row. It does not have to be among ``kept``.
        neighbors: Number of neighbors on either side.
    """
    below, above, last = bisect_left(kept, row), bisect_right(kept, row) - 1, len(kept) - 1
    steps = range(1, neighbors + 1)
    before = [kept[min(max(below - step, 0), last)] for step in reversed(steps)]
    return [*before, row, *(kept[min(max(above + step, 0), last)] for step in steps)]


def prepare_series(
    slices: Sequence[NDArray[np.int16]] | NDArray[np.int16], spec: InputSpec, left_out: Collection[int] = ()
) -> NDArray[np.int16]:
    """Prepares a series for a network: each slice with its neighbors, in its size, and its brain.

    Args:
        slices: N of (Rows, Columns) HU, at least one, from the feet to the head.
        spec: The network's input.
        left_out: Numbers of slices that are never neighbors; the next slice replaces them. They are
            prepared all the same. If all slices are left out, none is.

    Returns:
        (N, D, S, S) HU.
    """
    kept = [number for number in range(len(slices)) if number not in left_out] or range(len(slices))
    resized = np.stack([resize_hu(hu, spec.size) for hu in slices])
    rows = [find_neighbors(kept, number, spec.neighbors) for number in range(len(slices))]
    planes = resized[np.array(rows)]  # (N, P, S, S), P = spec.slices
    return planes if spec.shows_slices else np.stack([prepare_planes(each, spec) for each in planes])


def prepare_planes(planes: NDArray[np.int16], spec: InputSpec) -> NDArray[np.int16]:
    """Prepares a slice and its neighbors, (P, S, S) HU, as a network sees them: (D, S, S) HU."""
    if spec.brain_hu is not None:
        planes = shift_brain(planes, spec.brain_hu)
    return show_brain(planes, spec.brain)
