"""What training does with its slices, and validation does not: sampling, augmentation, sizes and targets."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ich.data.order import Item, balance_weights, draw_order, measure_draws
from ich.image.augment import Augment
from ich.image.augment.transforms import UserTransform
from ich.image.lesions import Lesions
from ich.schema import UserError
from ich.tables.runs import RunDraw

SAMPLINGS = ("natural", "balanced")


@dataclass(frozen=True)
class TrainingSpec:
    """How slices are drawn and changed in training; the fields are arguments of ``HeadCTDataModule``.

    Raises:
        UserError: If a value is not allowed.
    """

    size: int  # input.size
    augment: Augment | UserTransform | None = None
    lesions: Lesions | None = None
    sampling: str = "natural"
    label_smoothing: float = 0.0
    first_sizes: Sequence[int] = ()
    views: int = 1
    study_slices: int | None = None  # None without labels of studies
    series: RunDraw | None = None  # None where batches do not hold series
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise UserError(f"data.sampling={self.sampling}: expected one of {', '.join(SAMPLINGS)}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"data.label_smoothing={self.label_smoothing}: expected a number from 0 to below 1"
            )
        if self.views < 1:
            raise UserError(f"data.views={self.views}: expected 1 or more")
        if not all(isinstance(size, int) and 16 <= size <= self.size for size in self.first_sizes):
            raise UserError(
                f"data.first_sizes={list(self.first_sizes)}: expected sizes from 16 to input.size={self.size}"
            )
        if self.study_slices is not None and self.study_slices < 1:
            raise UserError(f"data.study_slices={self.study_slices}: expected 1 or more")
        if self.study_slices is not None:
            self._check_groups(
                "data.study_labels", "so they would no longer have the labels of their studies"
            )
        if self.series is not None:
            self._check_groups("series.end_to_end=true", "so they would no longer fit their series")

    def _check_groups(self, setting: str, reason: str) -> None:
        """Refuses what cannot be with batches of whole studies or series."""
        mixes = isinstance(self.augment, Augment) and (self.augment.mixup or self.augment.cutmix)
        settings = {
            f"data.sampling={self.sampling}": self.sampling != "natural",
            f"data.label_smoothing={self.label_smoothing}": self.label_smoothing,
            "lesions": self.lesions is not None,
            "augment.mixup and augment.cutmix": mixes,
        }
        if given := [name for name, value in settings.items() if value]:
            raise UserError(
                f"{given[0]} with {setting}: this draws or changes slices one by one, {reason}; leave out "
                "one of the two"
            )


class Training:
    """Draws the slices of a training set, and changes their batches.

    Both depend only on the spec, the slices and the items ``(epoch, row, repeat)`` of a batch.

    Args:
        spec: How to draw and change them.
        rows: (N,) the set's rows.
        target: (N, L) targets of these rows, NaN where unknown.

    Attributes:
        rows: (N * V,) the rows, each as often in a row as a slice has views.
    """

    def __init__(self, spec: TrainingSpec, rows: NDArray[np.int64], target: NDArray[np.float32]) -> None:
        self.spec = spec
        self._slices = rows
        self.rows = np.repeat(rows, spec.views)
        self.augment = spec.augment
        self.weights = balance_weights(target) if spec.sampling == "balanced" else None
        weights = np.ones(len(rows)) if self.weights is None else self.weights
        prevalences, shift = measure_draws(target, weights)
        self.prevalences, self.shift = torch.from_numpy(prevalences), torch.from_numpy(shift)  # each (L,)

    def for_thread(self) -> Training:
        """Returns a copy for another thread."""
        twin = copy.copy(self)
        twin.augment = copy.deepcopy(self.augment)
        return twin

    def draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Draws the rows of an epoch, in their order."""
        return np.repeat(draw_order(self._slices, self.spec.seed, epoch, self.weights), self.spec.views)

    def change(self, batch: dict[str, Any], items: Sequence[Item]) -> dict[str, Any]:
        """Changes a batch.

        Args:
            batch: ``hu`` (N, D, S, S) int16, which is changed in place, and ``target`` (N, L).
            items: The N items of the batch.

        Returns:
            The batch with smoothed targets, and with what is left to the device as needed: ``changes``,
            ``size`` and ``logit_shift`` (N, L).
        """
        added: dict[str, Any] = {}
        if self.spec.label_smoothing:
            added["target"] = torch.lerp(batch["target"], self.prevalences, self.spec.label_smoothing)
        if self.weights is not None:
            added["logit_shift"] = self.shift.expand(len(items), -1)
        if (epoch := items[0][0]) < len(self.spec.first_sizes):
            added["size"] = self.spec.first_sizes[epoch]
        if self.augment is not None:
            changes = self.augment(batch["hu"].numpy(), [(self.spec.seed, *item) for item in items])
            added |= {} if changes is None else {"changes": changes}
        return batch | added
