"""Runs of slices: what training takes of a series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Int = TypeVar("Int", bound=np.signedinteger[Any])


@dataclass(frozen=True)
class RunDraw:
    """Draws a run of slices from a series, without some of them, and sometimes in reverse order.

    Attributes:
        most: Largest number of slices; a longer series is cut at a random place.
        drop: Share of the slices that are left out.
        reverse: Share of the series that are read from the head to the feet.
    """

    most: int
    drop: float
    reverse: float

    def take(self, rows: NDArray[Int], rng: np.random.Generator) -> NDArray[Int]:
        """Takes some of the rows of a series, which are in order of position."""
        start = int(rng.integers(max(len(rows) - self.most, 0) + 1))
        rows = rows[start : start + self.most]
        kept = rng.random(len(rows)) >= self.drop
        rows = rows[kept] if kept.any() else rows
        return rows[::-1] if rng.random() < self.reverse else rows
