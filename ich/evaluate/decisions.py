"""Calibration and operating points of a model, fitted on the predictions of its validation part."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ich.calibration import DECIDED_LEVELS, Decision, fit_decision
from ich.evaluate.pooling import DEFAULT_POOLING, pool
from ich.tables import find_names, name_columns

DEFAULT_CALIBRATION = "platt"
DEFAULT_RULE = "sensitivity>=0.95"


def fit_decisions(
    validation: pd.DataFrame,
    *,
    levels: Sequence[str] = DECIDED_LEVELS,
    pooling: str = DEFAULT_POOLING,
    method: str = DEFAULT_CALIBRATION,
    rule: str = DEFAULT_RULE,
) -> dict[str, Decision]:
    """Fits what a model decides by.

    Args:
        validation: The predictions table of the validation part.
        levels: Some of ``ich.evaluate.pooling.LEVELS``.
        pooling: How slices become units, one of ``ich.evaluate.pooling.METHODS``.
        method: How probabilities are calibrated, one of ``ich.calibration.METHODS``.
        rule: How operating points are chosen, as ``choose_operating_point`` takes it.

    Returns:
        A decision a level.

    Raises:
        UserError: If an argument is none of these, or the slices do not make units of a level.
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
