"""Separates the images of a series into stacks of slices and images that are not slices.

A series may hold a scout, a dose page or a screen beside its slices, and two scans or reconstructions of one
head. Slices that lie side by side in a table count as neighbors, so these images must be separated first.

- An image is odd, and in no stack, if most images of its series are slices but it is not: a localizer or a
  secondary image by its ImageType (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1), an image across the slices, or one
  without geometry.
- Slices are in several stacks if they lie at the same places and differ in ImageType, ConvolutionKernel,
  AcquisitionNumber or the times of acquisition and content. Consecutive blocks of a scan stay together,
  whatever their numbers. Slices without such a difference are not separated.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema.codes import Odd

SAME_POSITION = 0.01  # mm: slices that are nearer to each other lie at one position

KEYS = ("ImageType", "ConvolutionKernel", "AcquisitionNumber")
TIMES = ("AcquisitionTime", "ContentTime")
_COLUMNS = ("SOPInstanceUID", "position", "orientation", *KEYS, *TIMES)

NO_STACK = -1
"""Stack number of an odd image."""

_FEW = 3  # slices: fewer do not form a scan, and count as twins only at the same position
_TWIN = 0.75  # of a step: twins are nearer to each other than to the next slice of their scan
_MOST_TWINS = 0.5  # of the slices of the smaller scan: with more, two scans lie at the same places

Columns = dict[str, NDArray[Any]]
Rows = NDArray[np.int64]


def find_odd(images: pd.DataFrame) -> NDArray[np.object_]:
    """Finds the images of a series that are not slices.

    Args:
        images: Images of one series: columns of the index.

    Returns:
        (images,) an ``Odd``, or an empty text for a slice. If odd images are not the minority, none is odd.
    """
    return _find_odd(_take(images))


def describe_odd(odd: NDArray[np.object_]) -> str:
    """Says in one line how many images of a series are not slices, and why."""
    codes, counts = np.unique(odd[odd != ""].astype(str), return_counts=True)
    listed = ", ".join(f"{code} {count}" for code, count in zip(codes, counts, strict=True))
    return f"images of the series that are not slices: {listed}"


def find_stacks(images: pd.DataFrame) -> NDArray[np.int32]:
    """Numbers the stacks of a series; the order of the rows does not matter.

    Args:
        images: Images of one series: columns of the index.

    Returns:
        (images,) from 0, the largest stack first; ``NO_STACK`` for odd images.
    """
    return _find_stacks(_take(images))


def number_stacks(table: pd.DataFrame) -> NDArray[np.int32]:
    """Numbers the stacks of each series of an index.

    Args:
        table: The columns of ``ich.tables.HEADER_DTYPES``, with the images of a series in consecutive rows.

    Returns:
        (rows,) as from ``find_stacks``.
    """
    stacks = np.zeros(len(table), dtype=np.int32)
    if not len(table):
        return stacks
    series = table[["StudyInstanceUID", "SeriesInstanceUID"]]
    is_first = (series != series.shift()).any(axis=1).to_numpy()
    is_mixed = _find_mixed(table, is_first)
    mixed = np.flatnonzero(is_mixed)
    starts = np.flatnonzero(is_first[mixed])
    columns = _take(table[is_mixed])  # as Python objects, so not of the whole table
    for start, stop in pairwise([*starts.tolist(), len(mixed)]):
        part = {name: values[start:stop] for name, values in columns.items()}
        stacks[mixed[start:stop]] = _find_stacks(part)
    return stacks


def _take(images: pd.DataFrame) -> Columns:
    return {name: images[name].to_numpy() for name in _COLUMNS}


def _find_mixed(table: pd.DataFrame, is_first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Finds the rows of the series that may hold several stacks.

    Args:
        table: The index.
        is_first: (rows,) whether a row is the first of its series.
    """
    starts, number = np.flatnonzero(is_first), np.cumsum(is_first)
    sizes = np.diff(starts, append=len(table))
    columns = {name: table[name].to_numpy() for name in ("position", "orientation")}
    differs = np.zeros(len(table), dtype=bool)
    for values in (_number_kinds(columns), *(pd.factorize(table[key])[0] for key in KEYS)):
        differs |= values != np.repeat(values[starts], sizes)
    order = np.lexsort((columns["position"], number))
    position, series = columns["position"][order], number[order]
    twins = np.zeros(len(table), dtype=bool)
    twins[order[1:]] = (np.diff(position) < SAME_POSITION) & (series[1:] == series[:-1])
    return np.repeat(np.maximum.reduceat(differs | twins, starts), sizes)


def _number_kinds(columns: Columns) -> NDArray[np.int64]:
    """Returns 0 for an axial image, 1 for another plane, and 2 without geometry."""
    known = np.isfinite(columns["position"].astype(np.float64))
    return np.where(known, np.where(columns["orientation"] < 0, 1, 0), 2)


def _find_odd(columns: Columns) -> NDArray[np.object_]:
    kinds = _number_kinds(columns)
    usual = int(np.argmax(np.bincount(kinds)))
    types = [text.upper().split("\\") for text in columns["ImageType"]]
    secondary = np.array([len(values) > 1 and values[1].strip() == "SECONDARY" for values in types])
    odd = np.full(len(kinds), "", dtype=object)
    if usual != 2:
        odd[kinds != usual] = Odd.ACROSS
        odd[kinds == 2] = Odd.NO_GEOMETRY
    if 2 * secondary.sum() < len(secondary):
        odd[secondary] = Odd.SECONDARY
    odd[["LOCALIZER" in map(str.strip, values) for values in types]] = Odd.LOCALIZER
    if 2 * (odd != "").sum() >= len(odd):
        odd[:] = ""
    return odd


def _find_stacks(columns: Columns) -> NDArray[np.int32]:
    stacks = np.full(len(columns["position"]), NO_STACK, dtype=np.int32)
    slices = np.flatnonzero(_find_odd(columns) == "")
    parts = _split(columns, slices)

    def rank(part: Rows) -> tuple[Any, ...]:
        texts = (min(columns[name][part]) for name in (*KEYS, *TIMES, "SOPInstanceUID"))
        return (-len(part), *texts)

    for number, part in enumerate(sorted(parts, key=rank)):
        stacks[part] = number
    return stacks


def _split(columns: Columns, rows: Rows) -> list[Rows]:
    """Splits slices at the same places by the first attribute that differs, recursively."""
    for key in KEYS:
        parts = _join_apart(columns, _group(columns[key], rows))
        if len(parts) > 1:
            return [each for part in parts for each in _split(columns, part)]
    for time in TIMES:
        parts = _find_runs(columns, columns[time], rows)
        if len(parts) > 1:
            return parts
    return [rows]


def _group(values: NDArray[Any], rows: Rows) -> list[Rows]:
    """Groups rows by value, the largest group first, then by number or text."""
    groups: dict[str, list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(values[row].strip(), []).append(row)

    def rank(text: str) -> tuple[int, int, str]:
        return -len(groups[text]), int(text) if text.isdecimal() else 0, text

    return [np.array(groups[text]) for text in sorted(groups, key=rank)]


def _join_apart(columns: Columns, groups: list[Rows]) -> list[Rows]:
    """Joins groups of slices as long as they do not lie at the same places."""
    parts: list[Rows] = []
    for group in groups:
        for number, part in enumerate(parts):
            if not _lie_together(columns["position"][part], columns["position"][group]):
                parts[number] = np.concatenate([part, group])
                break
        else:
            parts.append(group)
    return parts


def _lie_together(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether most slices of the smaller group are twins of some of the larger one."""
    smaller, larger = sorted((first[np.isfinite(first)], second[np.isfinite(second)]), key=len)
    if not len(smaller):
        return False
    larger = np.sort(larger)
    nearest = np.searchsorted(larger, smaller).clip(1, max(1, len(larger) - 1))
    beside = larger[np.stack([nearest - 1, nearest.clip(max=len(larger) - 1)])]
    distance = np.abs(beside - smaller).min(axis=0)
    limit = SAME_POSITION
    steps = np.diff(larger)
    if len(smaller) >= _FEW and len(steps := steps[steps >= SAME_POSITION]):
        limit = _TWIN * float(np.median(steps))
    return float((distance < limit).mean()) > _MOST_TWINS


def _find_runs(columns: Columns, times: NDArray[Any], rows: Rows) -> list[Rows]:
    """Splits consecutive scans, each without repeated positions.

    All slices stay together if a time is missing, or if the split is not even. A slice that is stored twice
    therefore does not separate the slices below it from those above.
    """
    if not all(times[row].strip() for row in rows):
        return [rows]
    position = columns["position"].astype(np.float64)
    order = rows[np.lexsort((position[rows], np.char.strip(times[rows].astype(str))))]
    starts, held = [0], list[float]()
    for place, here in enumerate(position[order].tolist()):
        if any(abs(here - there) < SAME_POSITION for there in held):
            starts.append(place)
            held = []
        held.append(here)
    runs = [order[start:stop] for start, stop in pairwise([*starts, len(order)])]
    comes_even = all(len(run) >= _FEW for run in runs) and all(
        times[first[-1]].strip() < times[second[0]].strip()
        and _lie_together(position[first], position[second])
        for first, second in pairwise(runs)
    )
    return runs if comes_even else [rows]
