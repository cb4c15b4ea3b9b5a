"""What the batches of a set hold: slices, whole studies or whole series, in which order, and how many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.data.groups import Groups, Series, Studies
from ich.data.slices import SliceArrays
from ich.data.training import Training, TrainingSpec
from ich.tables import find_study_targets


@dataclass(frozen=True)
class Draws:
    """What a loader draws in a pass.

    Attributes:
        rows: (N,) the row of each item, a slice or the first slice of a group.
        batch_size: Number of items in a batch.
        order: Returns the rows in the order of an epoch; None keeps their own order.
        training: Changes batches; None leaves them.
        groups: Studies or series that the items stand for; None if they stand for slices.
    """

    rows: NDArray[np.int64]
    batch_size: int
    order: Callable[[int], NDArray[np.int64]] | None = None
    training: Training | None = None
    groups: Groups | None = None


def draw_training(table: pd.DataFrame, arrays: SliceArrays, spec: TrainingSpec, batch_size: int) -> Draws:
    """Draws the training set, in a new order in each epoch.

    Args:
        table: The data module's table.
        arrays: Its columns for reading.
        spec: How slices are drawn and changed.
        batch_size: Number of slices in a batch.
    """
    rows = find_rows(table, "train")
    groups: Groups | None = None
    if spec.study_slices is not None:
        groups = _find_studies(table, rows, spec.study_slices, spec.seed)
        batch_size //= spec.study_slices
    elif spec.series is not None:
        groups = Series(rows, arrays.stack, arrays.position, spec.series, spec.seed)
        batch_size //= spec.series.most
    rows = rows if groups is None else groups.first
    training = Training(spec, rows, arrays.target[rows])
    return Draws(training.rows, max(1, batch_size), training.draw_order, training, groups)


def draw_held_out(
    table: pd.DataFrame, part: str, arrays: SliceArrays, spec: TrainingSpec, batch_size: int
) -> Draws:
    """Draws the validation or the test set, in the order of the table; for arguments see ``draw_training``.

    Several views of a slice in the validation set are augmented. With labels of studies a batch holds one
    study, and at most ``batch_size`` of its slices. A batch of series holds one, with all of its slices.
    """
    rows = find_rows(table, part)
    if spec.study_slices is not None:
        studies = _find_studies(table, rows, batch_size)
        return Draws(studies.first, 1, groups=studies)
    if spec.series is not None:
        series = Series(rows, arrays.stack, arrays.position)
        return Draws(series.first, 1, groups=series)
    if part == "val" and spec.views > 1:
        training = Training(spec, rows, arrays.target[rows])
        return Draws(training.rows, batch_size, training=training)
    return Draws(rows, batch_size)


def find_rows(table: pd.DataFrame, part: str) -> NDArray[np.int64]:
    """Finds the rows of a set."""
    return np.flatnonzero((table["part"] == part).to_numpy()).astype(np.int64)


def _find_studies(
    table: pd.DataFrame, rows: NDArray[np.int64], most: int, seed: int | None = None
) -> Studies:
    numbers = pd.factorize(table["StudyInstanceUID"])[0]
    return Studies(rows, numbers, table[find_study_targets(table)].to_numpy(np.float32), most, seed)
