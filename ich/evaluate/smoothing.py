"""Smoothing over neighboring slices on predictions tables, fitted on the validation set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import NotFitted
from ich.calibration.smoothing import Kernel, Smoothing, fit_smoothing, smooth
from ich.tables import find_names, name_columns


def fit_table(validation: pd.DataFrame) -> dict[str, Kernel | NotFitted]:
    """Chooses the kernel of each label on the predictions table of a validation set."""
    names = find_names(validation)
    return fit_smoothing(
        validation[name_columns("target", names)],
        validation[name_columns("prob", names)],
        *find_place(validation),
        validation["PatientID"],
        names,
    )


def smooth_table(table: pd.DataFrame, smoothing: Smoothing) -> pd.DataFrame:
    """Returns a predictions table with its probabilities smoothed.

    Args:
        table: A predictions table with ``position``.
        smoothing: From ``fit_table``, for the labels of the table in their order.
    """
    columns = name_columns("prob", list(smoothing))
    smoothed = table.copy()
    probs = smooth(table[columns], *find_place(table), smoothing)
    smoothed[columns] = probs.astype(str).astype(np.float64)  # the shortest digits, as a CSV holds them
    return smoothed


def smooth_folds(tables: Mapping[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], Smoothing]:
    """Smooths out-of-fold predictions, each fold by kernels that were fitted on the other folds.

    Args:
        tables: Predictions table of each fold's test set, by the name of the fold.

    Returns:
        The smoothed tables, and the kernels for the mean of the folds' models, fitted on all tables.
    """
    smoothed = {}
    for name, table in tables.items():
        others = [each for other, each in tables.items() if other != name]
        smoothed[name] = smooth_table(table, fit_table(pd.concat(others, ignore_index=True)))
    return smoothed, fit_table(pd.concat(tables.values(), ignore_index=True))


def find_place(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns (N,) positions in mm, NaN for a slice that names no series, and (N,) numbers of stacks."""
    named = table["SeriesInstanceUID"] != ""
    positions = np.asarray(table["position"].where(named), np.float64)
    stacks = table.groupby(["StudyInstanceUID", "SeriesInstanceUID", "stack"], sort=False).ngroup()
    return positions, np.asarray(stacks, np.int64)
