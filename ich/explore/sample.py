"""The pixels of a sample of slices: histograms of stored values and of HU, and data quality."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_pixels
from ich.index.quality import find_in_slice
from ich.progress import map_in_threads
from ich.schema import ReadError
from ich.schema.hu import AIR, BLOOD, BONE_ALONE, GRAY_AND_WHITE, WATER
from ich.schema.labels import RSNA_LABELS, LabelSet

MOST_ENCODINGS = 4
"""Encodings with a histogram of their own; the rest share one."""


class Material(NamedTuple):
    """The HU range of a material."""

    name: str
    low: float
    high: float


MATERIALS = (
    Material("air", *AIR),
    Material("water", *WATER),
    Material("soft tissue", *GRAY_AND_WHITE),
    Material("blood", *BLOOD),
    Material("bone", *BONE_ALONE),
)

_LOWEST, _HIGHEST = -(1 << 15), (1 << 16) - 1  # of 16 bits, signed or not


class Histogram:
    """A histogram of whole numbers."""

    def __init__(self) -> None:
        self.counts = np.zeros(_HIGHEST - _LOWEST + 1, dtype=np.int64)

    def add(self, low: int, counts: NDArray[np.int64]) -> None:
        """Adds counts for ``low`` and the following numbers."""
        self.counts[low - _LOWEST : low - _LOWEST + len(counts)] += counts

    @property
    def total(self) -> int:
        """Total of all counts."""
        return int(self.counts.sum())

    def count(self, low: float, high: float) -> int:
        """Counts the values from ``low`` to ``high``, both included."""
        return int(self.counts[int(np.ceil(low)) - _LOWEST : int(np.floor(high)) - _LOWEST + 1].sum())

    def find_peak(self, low: int, high: int) -> int | None:
        """Finds the most frequent number from ``low`` to ``high``; None if there is none."""
        part = self.counts[low - _LOWEST : high - _LOWEST + 1]
        return low + int(part.argmax()) if part.any() else None

    @property
    def lowest(self) -> int:
        """The lowest counted number."""
        return _LOWEST + int((self.counts > 0).argmax())

    def find_quantile(self, share: float) -> int:
        """Finds the smallest number that this share does not exceed."""
        return _LOWEST + int(np.searchsorted(self.counts.cumsum(), share * self.total))

    def bin(self, low: int, high: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the edges of bins from ``low`` to at least ``high``, and the share of all in each."""
        edges = np.arange(low, high + width, width)
        ends = np.clip(edges - _LOWEST, 0, len(self.counts))
        sums = np.concatenate(([0], self.counts.cumsum()))[ends]
        return edges, np.diff(sums) / max(self.total, 1)


@dataclass
class Sample:
    """Measures of the pixels of a sample.

    Attributes:
        rows: Rows of the index.
        stored: Histogram of stored values by number of the encoding; the last one is for all rarer encodings.
        hu: The same for HU.
        problems: Counts of slices by code of ``Quality``.
        unread: Counts of slices that could not be read, by code of ``Refusal``.
    """

    rows: NDArray[np.int64]
    stored: dict[int, Histogram] = field(default_factory=dict)
    hu: dict[int, Histogram] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    @property
    def read(self) -> int:
        """Number of slices that could be read."""
        return len(self.rows) - self.unread.total()

    def merge_hu(self) -> Histogram:
        """Returns the histogram of HU of all slices."""
        merged = Histogram()
        for histogram in self.hu.values():
            merged.add(_LOWEST, histogram.counts)
        return merged


def draw_sample(
    table: pd.DataFrame, patients: NDArray[np.int64], size: int, labels: LabelSet = RSNA_LABELS
) -> NDArray[np.int64]:
    """Draws slices spread over patients, half of them so that each subtype is represented.

    The place of a slice in the draw follows from its SOPInstanceUID, so the same data set gives the same
    sample.

    Args:
        table: Index, with label columns if labels are known.
        patients: (slices,) the patient of each.
        size: Number of slices to draw.
        labels: The labels.

    Returns:
        Rows of the index, in order.
    """
    if size >= len(table):
        return np.arange(len(table))
    keys = pd.util.hash_array(table["SOPInstanceUID"].to_numpy(dtype=object), categorize=False)
    order = np.lexsort((keys, patients))
    turn = np.empty(len(table), dtype=np.int64)  # of a slice among its patient's
    turn[order] = np.arange(len(table)) - np.maximum.accumulate(
        np.where(np.diff(patients[order], prepend=-1) != 0, np.arange(len(table)), 0)
    )
    drawn = np.zeros(len(table), dtype=bool)

    def draw(among: NDArray[np.bool_], count: int) -> None:
        rows = np.flatnonzero(among & ~drawn)
        drawn[rows[np.lexsort((keys[rows], turn[rows]))][:count]] = True

    everything = np.ones(len(table), dtype=bool)
    if labels.names[0] in table:
        draw(everything, size - size // 2)
        for subtype in labels.averaged:
            draw((table[subtype] == 1).to_numpy(), size // 2 // len(labels.averaged))
    draw(everything, size - int(drawn.sum()))
    return np.flatnonzero(drawn)


def read_sample(
    root: Path,
    table: pd.DataFrame,
    rows: NDArray[np.int64],
    encodings: NDArray[np.int64],
    progress: bool,
) -> Sample:
    """Reads the pixels of a sample; unreadable slices are counted.

    Args:
        root: Folder of the data set.
        table: Its index.
        rows: Rows of the index.
        encodings: (slices,) the number of the encoding of every slice of the index.
        progress: Show a bar on a terminal.
    """
    sample = Sample(rows)
    places = list(zip(table["path"].iloc[rows], table["frame"].iloc[rows], strict=True))
    measured = map_in_threads(partial(_measure, root), places, "Reading a sample of pixels", progress)
    for encoding, found in zip(np.minimum(encodings[rows], MOST_ENCODINGS).tolist(), measured, strict=True):
        if isinstance(found, str):
            sample.unread[found] += 1
            continue
        sample.stored.setdefault(encoding, Histogram()).add(*found.stored)
        sample.hu.setdefault(encoding, Histogram()).add(*found.hu)
        sample.problems.update(found.codes)
    return sample


class _Measures(NamedTuple):
    """Measures of the pixels of a slice: few, because many wait at a time."""

    stored: tuple[int, NDArray[np.int64]]
    hu: tuple[int, NDArray[np.int64]]
    codes: list[str]


def _measure(root: Path, place: tuple[str, int]) -> _Measures | str:
    path, frame = place
    try:
        stored, hu = read_pixels(root / path, frame)
    except ReadError as error:
        return str(error.code)
    return _Measures(_count(stored), _count(hu), [str(code) for code, _ in find_in_slice(hu)])


def _count(values: NDArray[np.int16]) -> tuple[int, NDArray[np.int64]]:
    low = int(values.min())
    return low, np.bincount((values.astype(np.int32) - low).ravel())
