"""Calibration and operating points of a model, fitted on predictions that it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ich.calibration import DECIDED_LEVELS, Decision, fit_decision
from ich.evaluate.pooling import DEFAULT_POOLING, pool
from ich.tables import find_names, name_columns

DEFAULT_CALIBRATION = "platt"
DEFAULT_RULE = "sensitivity>=0.95"


@dataclass(frozen=True)
class HeldOut:
    """Decisions of one level for each fold, fitted on the other folds.

    A threshold fits the patients that chose it too well. These show how well one fits other patients.

    Attributes:
        folds: Name of the fold of each patient, by PatientID.
        decisions: Decision for the patients of each fold.
    """

    folds: Mapping[str, str]
    decisions: Mapping[str, Decision]

    def select(self, patients: ArrayLike) -> list[tuple[Decision | None, NDArray[np.bool_]]]:
        """Pairs each decision with the rows that it applies to.

        Args:
            patients: (N,) PatientID of each row.
        """
        fold = pd.Series(np.asarray(patients)).map(self.folds)
        return [(decision, (fold == name).to_numpy()) for name, decision in self.decisions.items()]


def fit_decisions(
    validation: pd.DataFrame,
    *,
    levels: Sequence[str] = DECIDED_LEVELS,
    pooling: str = DEFAULT_POOLING,
    method: str = DEFAULT_CALIBRATION,
    rule: str = DEFAULT_RULE,
) -> dict[str, Decision]:
    """Fits the calibration and the operating points of a model.

    Args:
        validation: The predictions table of the validation set.
        levels: Some of ``ich.evaluate.pooling.LEVELS``.
        pooling: Method that pools slices to units, one of ``ich.evaluate.pooling.METHODS``.
        method: Calibration method, one of ``ich.calibration.METHODS``.
        rule: Rule for operating points, as for ``choose_operating_point``.

    Returns:
        One decision per level.

    Raises:
        UserError: If an argument is not allowed, or the slices do not form units of a level.
    """
    names = find_names(validation)
    decisions = {}
    for level in levels:
        units = pool(validation, level, pooling)
        decisions[level] = fit_decision(
            units[name_columns("target", names)],
            units[name_columns("prob", names)],
            units["PatientID"],
            pooling=pooling,
            method=method,
            rule=rule,
            names=names,
        )
    return decisions
