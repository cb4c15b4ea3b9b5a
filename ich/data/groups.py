"""Batches of whole studies or whole series, for training that needs all slices of one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ich.data.order import Item
from ich.schema import UserError
from ich.tables.runs import RunDraw

Rows = NDArray[np.int64]


def check_groups(split: str, study_labels: str | None, series: RunDraw | None) -> None:
    """Refuses batches of studies and series at once, and a split that separates the slices of one.

    Args:
        split: ``data.split``.
        study_labels: File with labels of studies, if batches hold studies.
        series: Draws runs, if batches hold series.

    Raises:
        UserError: Naming both settings.
    """
    if study_labels and series is not None:
        raise UserError(
            "series.end_to_end=true with data.study_labels: a batch holds either series or studies; leave "
            "out one of the two"
        )
    if split == "slice" and (study_labels or series is not None):
        given, held = ("data.study_labels", "study") if study_labels else ("series.end_to_end=true", "series")
        raise UserError(f"data.split=slice with {given}: a {held} would be in several sets")


class Groups(ABC):
    """Groups of slices. A sampler yields them by their first rows; a batch holds their slices.

    Args:
        rows: (N,) the set's rows, in the order of the table.
        number: (rows of the table,) number of each slice's group.
        seed: Random seed of what is drawn in each epoch; None always takes the same slices.

    Attributes:
        first: (K,) the first row of each group.
    """

    def __init__(self, rows: Rows, number: NDArray[np.integer], seed: int | None = None) -> None:
        self.seed = seed
        self._number = number
        ordered = rows[np.argsort(number[rows], kind="stable")]
        runs = np.split(ordered, np.flatnonzero(np.diff(number[ordered])) + 1)
        self._slices = {int(run[0]): run for run in runs}
        self.first = np.array(list(self._slices))

    def list_slices(self, item: Item) -> list[Item]:
        """Lists the items of the slices that are taken of a group, given by the item of its first row."""
        epoch, first, repeat = item
        rng = None if self.seed is None else np.random.default_rng([self.seed, *item])
        return [(epoch, row, repeat) for row in self._take(self._slices[first], rng).tolist()]

    @abstractmethod
    def describe(self, rows: list[int]) -> dict[str, Tensor]:
        """Returns what a batch tells of its groups; ``rows`` are those of its N slices."""

    @abstractmethod
    def _take(self, rows: Rows, rng: np.random.Generator | None) -> Rows:
        """Takes some rows of a group, at random if there is a generator."""


class Studies(Groups):
    """Studies with targets of their own, of which evenly spaced slices are taken.

    Args:
        rows: (N,) the set's rows, in the order of the table.
        study: (rows of the table,) number of each slice's study.
        target: (rows of the table, L) targets of these studies, NaN where unknown.
        most: Largest number of slices that are taken of a study.
        seed: Random seed that moves the chosen slices in each epoch; None always takes the same ones.
    """

    def __init__(
        self,
        rows: Rows,
        study: NDArray[np.integer],
        target: NDArray[np.float32],
        most: int,
        seed: int | None = None,
    ) -> None:
        super().__init__(rows, study, seed)
        self.most = most
        self._target = target

    def describe(self, rows: list[int]) -> dict[str, Tensor]:
        """Returns ``study`` (N,) int64, counted from 0 within the batch, and ``study_target`` (K, L)."""
        _, firsts, places = np.unique(self._number[rows], return_index=True, return_inverse=True)
        return {
            "study": torch.from_numpy(places),
            "study_target": torch.from_numpy(self._target[np.asarray(rows)[firsts]]),
        }

    def _take(self, rows: Rows, rng: np.random.Generator | None) -> Rows:
        if len(rows) <= self.most:
            return rows
        draw = 0.5 if rng is None else rng.random()
        return rows[((np.arange(self.most) + draw) * len(rows) / self.most).astype(np.int64)]


class Series(Groups):
    """Series in order of position, of which training takes runs. Slices without a position are left out.

    Args:
        rows: (N,) the set's rows, in the order of the table, which is that of positions within a series.
        series: (rows of the table,) number of each slice's series.
        position: (rows of the table,) along the slice normal, mm; NaN where unknown.
        draw: Draws runs; None takes whole series.
        seed: Random seed of what is drawn in each epoch.
    """

    def __init__(
        self,
        rows: Rows,
        series: NDArray[np.integer],
        position: NDArray[np.float32],
        draw: RunDraw | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(rows[np.isfinite(position[rows])], series, seed)
        self._position = position
        self._draw = draw

    def describe(self, rows: list[int]) -> dict[str, Tensor]:
        """Returns ``series`` (N,) int64, counted from 0 within the batch, and ``position`` (N,), mm."""
        _, places = np.unique(self._number[rows], return_inverse=True)
        return {"series": torch.from_numpy(places), "position": torch.from_numpy(self._position[rows])}

    def _take(self, rows: Rows, rng: np.random.Generator | None) -> Rows:
        return rows if self._draw is None or rng is None else self._draw.take(rows, rng)
