"""Figures with intervals from a predictions table.

Everything here is a function of the predictions table of ``ich.tables``. Subgroups and the order of slices
also use the index. No model, GPU or disk is needed.

    pooling            slices to series, studies, patients
    roc                ROC and precision-recall curves and their areas, under many weightings at once
    delong             DeLong's variance of areas, clustered by patient
    recalibration      calibration slope and intercept
    calibration_error  Brier score, log loss, calibration
    decisions          calibration and operating points
    units              slices, or pooled series, studies or patients
    thresholds         sensitivity, specificity, predictive values, F1
    estimate           the bootstrap over patients
    figures            the figures of an evaluation, and their form in ``metrics.json``
    curves             data for pictures, as arrays
    levels             the figures of one level
    comparison         two or more models on the same slices, and their ensemble
    folds              out-of-fold predictions of all patients as one table
    subgroups          figures by scanner encoding, slice thickness or any other column
    submission         the CSV of the RSNA 2019 challenge
    terminal           the table at the end of a run
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision
from ich.evaluate.checks import check_labels, check_predictions, check_prevalences, check_validation
from ich.evaluate.decisions import DEFAULT_CALIBRATION, DEFAULT_RULE, HeldOut, fit_decisions
from ich.evaluate.estimate import REPLICATES, draw_patients
from ich.evaluate.figures import Areas, Evaluation
from ich.evaluate.levels import estimate_areas, measure_level
from ich.evaluate.pooling import DEFAULT_LEVELS, DEFAULT_POOLING, LEVELS, METHODS
from ich.evaluate.units import Patients, Units
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import find_label_set, find_names

__all__ = ["evaluate"]

PREVALENCES = (0.02, 0.05, 0.10, 0.20)
"""Prevalences for predictive values: that of an emergency department, and lower and higher ones."""


def evaluate(
    predictions: pd.DataFrame,
    *,
    labels: LabelSet | None = None,
    validation: pd.DataFrame | None = None,
    decisions: Mapping[str, Decision] | None = None,
    held_out: Mapping[str, HeldOut] | None = None,
    levels: Sequence[str] = DEFAULT_LEVELS,
    pooling: str = DEFAULT_POOLING,
    prevalences: Sequence[float] = PREVALENCES,
    training_prevalences: Sequence[float] | None = None,
    rule: str = DEFAULT_RULE,
    calibration: str = DEFAULT_CALIBRATION,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Evaluation:
    """Evaluates a predictions table, with 95 % intervals from a bootstrap that draws patients.

    Args:
        predictions: A predictions table. Unknown targets are NaN and are left out.
        labels: The labels of the table, with their weights. Without them, labels other than the RSNA's weigh
            the same, and none decides.
        validation: The predictions table of the validation set, used to fit calibration and operating points.
        decisions: Calibration and operating points that were fitted before, by level. They take precedence
            over ``validation`` and ``pooling``.
        held_out: Decisions for each fold, fitted on the other folds, by level; see ``ich.evaluate.folds``.
            Those in ``decisions`` are then the model's own, which are given beside the figures.
        levels: Some of ``LEVELS``.
        pooling: Method that pools slices to series, studies and patients, one of ``METHODS``.
        prevalences: Prevalences at which predictive values are given.
        training_prevalences: Prevalences by slice, one for each label, for the constant predictor of slices.
            Without them, and at other levels, those of the table are used.
        rule: Rule that chooses operating points on ``validation``; see ``choose_operating_point``.
        calibration: Method that calibrates probabilities on it, one of ``ich.calibration.METHODS``.
        replicates: Number of bootstrap samples.
        seed: Random seed for the resampling.

    Returns:
        All figures. Those that are not available give a reason.

    Raises:
        UserError: If a table is not valid, is empty, has a slice twice or holds impossible values, or if
            another argument is not allowed.
    """
    check_predictions(predictions)
    labels = labels or find_label_set(predictions)
    check_labels(find_names(predictions), labels)
    _check_choices(levels, prevalences)
    constant = None
    if training_prevalences is not None:
        constant = check_prevalences(training_prevalences, len(labels.names))
    chosen = dict(decisions or {})
    if validation is not None:
        check_validation(validation, predictions)
        others = [level for level in levels if level not in chosen]
        chosen |= fit_decisions(validation, levels=others, pooling=pooling, method=calibration, rule=rule)
    patients = Patients(predictions)
    counts = draw_patients(len(patients), replicates, seed)
    figures, curves = {}, {}
    for level in levels:
        decision = chosen.get(level)
        how = pooling if decision is None else decision.pooling
        units = Units(predictions, patients, level, how, decision, (held_out or {}).get(level))
        figures[level], curves[level] = measure_level(
            units, labels, how, counts, decision, prevalences, constant if level == "slice" else None
        )
    effect = _measure_pooling(predictions, patients, counts) if "study" in levels else {}
    folds = max((len(each.decisions) for each in (held_out or {}).values()), default=0)
    return Evaluation(
        len(predictions), len(patients), replicates, seed, figures, effect, folds, labels, curves
    )


def _check_choices(levels: Sequence[str], prevalences: Sequence[float]) -> None:
    if unknown := [level for level in levels if level not in LEVELS]:
        raise UserError(f"levels={', '.join(unknown)}: expected some of {', '.join(LEVELS)}")
    if not all(0 < prevalence < 1 for prevalence in prevalences):
        raise UserError(f"prevalences={list(prevalences)}: expected shares between 0 and 1")


def _measure_pooling(
    predictions: pd.DataFrame, patients: Patients, counts: NDArray[np.int32]
) -> dict[str, dict[str, Areas]]:
    """Measures the areas by study for each pooling method."""
    effect: dict[str, dict[str, Areas]] = {}
    for method in METHODS:
        units = Units(predictions, patients, "study", method)
        columns = {label: units.column(label) for label in units.names}
        effect[method] = {
            label: estimate_areas(column, *column.score_areas(counts)) for label, column in columns.items()
        }
    return effect
