"""Out-of-fold predictions: each patient is predicted by the one model of several that did not learn from it.

The test sets of the folds of a split hold every patient once. Their predictions are evaluated as one table,
and calibration and operating points are fitted on all patients. A single validation set is often too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ich.calibration import DECIDED_LEVELS, Decision
from ich.evaluate import evaluate
from ich.evaluate.checks import Tables, check_labels, check_predictions
from ich.evaluate.decisions import DEFAULT_CALIBRATION, DEFAULT_RULE, HeldOut, fit_decisions
from ich.evaluate.estimate import REPLICATES
from ich.evaluate.figures import Evaluation
from ich.evaluate.pooling import DEFAULT_LEVELS, DEFAULT_POOLING
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import WEIGHTS_COLUMN, find_label_set, find_names

__all__ = ["OutOfFold", "evaluate_folds", "fit_held_out", "pool_folds", "split_folds"]


@dataclass(frozen=True)
class OutOfFold:
    """Out-of-fold predictions, their figures, and the decisions that were fitted on them.

    Attributes:
        table: Predictions table of all folds.
        evaluation: Its figures. Each fold is judged by decisions that were fitted on the other folds.
        decisions: By level, fitted on all folds: those of the ensemble of the folds' models.
    """

    table: pd.DataFrame
    evaluation: Evaluation
    decisions: dict[str, Decision]


def pool_folds(tables: Tables) -> pd.DataFrame:
    """Joins the test predictions of folds to one table.

    ``WEIGHTS_COLUMN`` of ``ich.tables`` names the model of each row.

    Args:
        tables: Predictions table of each fold's test set, by the name of the fold.

    Raises:
        UserError: If there are fewer than two folds, labels differ, or a patient is in two folds.
    """
    if len(tables) < 2:
        raise UserError(f"{len(tables)} folds: expected the predictions tables of two or more")
    label_set = find_label_set(next(iter(tables.values())))
    for name, table in tables.items():
        check_predictions(table, f"the predictions table of {name}")
        check_labels(find_names(table), label_set, f"the predictions table of {name}")
    patients = pd.concat([pd.Series(table["PatientID"].unique()) for table in tables.values()])
    if twice := int(patients.duplicated().sum()):
        raise UserError(
            f"{twice} patients are in the test sets of several folds: the folds are of different splits, so "
            "a model would be judged on patients that it learned from. Use folds of one split and one seed"
        )
    pooled = pd.concat(tables.values(), ignore_index=True)
    check_predictions(pooled, "the table of all folds")
    return pooled


def split_folds(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Splits out-of-fold predictions by the model that made them; empty if they are not that.

    Each row names its model in ``WEIGHTS_COLUMN``, and no patient is predicted by two models.
    """
    if WEIGHTS_COLUMN not in table or (table[WEIGHTS_COLUMN] == "").any():
        return {}
    models = table[["PatientID", WEIGHTS_COLUMN]].drop_duplicates()
    if models[WEIGHTS_COLUMN].nunique() < 2 or models["PatientID"].duplicated().any():
        return {}
    return {str(name): each for name, each in table.groupby(WEIGHTS_COLUMN, sort=False)}


def fit_held_out(
    tables: Tables,
    *,
    levels: Sequence[str] = DECIDED_LEVELS,
    pooling: str = DEFAULT_POOLING,
    method: str = DEFAULT_CALIBRATION,
    rule: str = DEFAULT_RULE,
) -> dict[str, HeldOut]:
    """Fits decisions for each fold on the predictions of all other folds (cross-fitting).

    A fold's patients have no part in the choice of their own threshold. The models of the other folds have
    learned from them, as in any cross-validation.

    Args:
        tables: As ``pool_folds`` takes them.
        levels: As ``fit_decisions`` takes them, like the other arguments.
        pooling: Method that pools slices to units.
        method: Calibration method.
        rule: Rule for operating points.

    Returns:
        The decisions of each level.
    """
    found = {}
    for name in tables:
        others = pd.concat([table for other, table in tables.items() if other != name], ignore_index=True)
        found[name] = fit_decisions(others, levels=levels, pooling=pooling, method=method, rule=rule)
    folds = {patient: name for name, table in tables.items() for patient in table["PatientID"].unique()}
    return {
        level: HeldOut(folds, {name: decisions[level] for name, decisions in found.items()})
        for level in levels
    }


def evaluate_folds(
    tables: Tables,
    *,
    labels: LabelSet | None = None,
    levels: Sequence[str] = DEFAULT_LEVELS,
    pooling: str = DEFAULT_POOLING,
    rule: str = DEFAULT_RULE,
    calibration: str = DEFAULT_CALIBRATION,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> OutOfFold:
    """Evaluates the test predictions of all folds as one table, and fits decisions on it.

    Args:
        tables: Predictions table of each fold's test set, by the name of the fold.
        labels: As ``ich.evaluate.evaluate`` takes them, like the other arguments.
        levels: Levels of the figures; those of ``DECIDED_LEVELS`` among them get decisions.
        pooling: Method that pools slices to series, studies and patients.
        rule: Rule for operating points.
        calibration: Calibration method.
        replicates: Number of bootstrap samples.
        seed: Random seed for the resampling.

    Raises:
        UserError: As ``pool_folds`` and ``evaluate`` do.
    """
    table = pool_folds(tables)
    decided = [level for level in DECIDED_LEVELS if level in levels]
    decisions = fit_decisions(table, levels=decided, pooling=pooling, method=calibration, rule=rule)
    held_out = fit_held_out(tables, levels=decided, pooling=pooling, method=calibration, rule=rule)
    evaluation = evaluate(
        table,
        labels=labels,
        decisions=decisions,
        held_out=held_out,
        levels=levels,
        pooling=pooling,
        replicates=replicates,
        seed=seed,
    )
    return OutOfFold(table, evaluation, decisions)
