"""Batches of whole studies, for training on labels of studies."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ich.data.order import Item


class Studies:
    """The studies of a set. A sampler yields them by their first rows; a batch holds their slices.

    Args:
        rows: (N,) the set's rows, in the order of the table.
        study: (rows of the table,) number of each slice's study.
        target: (rows of the table, L) targets of these studies, NaN where unknown.
        most: Largest number of slices that are taken of a study, evenly spaced.
        seed: Random seed that moves the chosen slices in each epoch; None always takes the same ones.

    Attributes:
        first: (K,) the first row of each study.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        study: NDArray[np.intp],
        target: NDArray[np.float32],
        most: int,
        seed: int | None = None,
    ) -> None:
        self.most = most
        self.seed = seed
        self._study = study
        self._target = target
        ordered = rows[np.argsort(study[rows], kind="stable")]
        runs = np.split(ordered, np.flatnonzero(np.diff(study[ordered])) + 1)
        self._slices = {int(run[0]): run for run in runs}
        self.first = np.array(list(self._slices))

    def list_slices(self, item: Item) -> list[Item]:
        """Lists the items of the slices that are taken of a study, given by the item of its first row."""
        epoch, first, repeat = item
        rows = self._slices[first]
        if len(rows) > self.most:
            draw = 0.5 if self.seed is None else np.random.default_rng([self.seed, *item]).random()
            rows = rows[((np.arange(self.most) + draw) * len(rows) / self.most).astype(np.int64)]
        return [(epoch, row, repeat) for row in rows.tolist()]

    def describe(self, rows: list[int]) -> dict[str, Tensor]:
        """Returns what a batch of slices tells of its studies.

        Args:
            rows: The N rows of the slices.

        Returns:
            ``study`` (N,) int64, counted from 0 within the batch, and ``study_target`` (K, L).
        """
        _, firsts, places = np.unique(self._study[rows], return_index=True, return_inverse=True)
        return {
            "study": torch.from_numpy(places),
            "study_target": torch.from_numpy(self._target[np.asarray(rows)[firsts]]),
        }
