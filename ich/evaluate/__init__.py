"""Predictions table -> figures with intervals.

Everything here is a function of the predictions table of ``ich.tables`` and, for subgroups and the order of
slices, of the index: no model, no GPU, no disk.

    pooling        slices -> series, studies, patients
    areas          ROC and precision-recall curves and their areas, under many weightings at once
    delong         DeLong's variance of areas, clustered by patient
    recalibration  calibration slope and intercept
    honesty        Brier score, log loss, calibration
    decisions      calibration and operating points, fitted on the validation part
    thresholds     sensitivity, specificity, predictive values, F1
    estimate       the bootstrap over patients
    figures        what an evaluation says, and its form as ``metrics.json``
    curves         what is drawn, as arrays
    levels         the figures of one level
    comparison     two or more models on the same slices; their ensemble
    subgroups      figures by scanner encoding, slice thickness or any other column
    terminal       the table that ends a run

What people read is made of it here too:

    run            what is known of the run that made a table; the one that reads its folder
    report_data    all that a report is made from
    tables         figures as tables
    pictures       figures as pictures, from arrays
    plates         which pictures a report has, and what is said of each
    limits         what stands against the figures, and what would make them stronger
    document       a report in the order of a paper, and a short deck
    model_card     a model card
    claim          the CLAIM checklist
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision
from ich.evaluate.checks import check_labels, check_predictions, check_prevalences, check_validation
from ich.evaluate.decisions import DEFAULT_CALIBRATION, DEFAULT_RULE, fit_decisions
from ich.evaluate.estimate import REPLICATES, draw_patients
from ich.evaluate.figures import Areas, Evaluation
from ich.evaluate.levels import Patients, Units, estimate_areas, measure_level
from ich.evaluate.pooling import DEFAULT_POOLING, LEVELS, METHODS
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import find_label_set, find_names

DEFAULT_LEVELS = ("slice", "study", "patient")

PREVALENCES = (0.02, 0.05, 0.10, 0.20)
"""At which predictive values are given: what a scanner in an emergency department sees, and less and more."""


def evaluate(
    predictions: pd.DataFrame,
    *,
    labels: LabelSet | None = None,
    validation: pd.DataFrame | None = None,
    decisions: Mapping[str, Decision] | None = None,
    levels: Sequence[str] = DEFAULT_LEVELS,
    pooling: str = DEFAULT_POOLING,
    prevalences: Sequence[float] = PREVALENCES,
    training_prevalences: Sequence[float] | None = None,
    rule: str = DEFAULT_RULE,
    calibration: str = DEFAULT_CALIBRATION,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Evaluation:
    """Evaluates a predictions table, with 95 % intervals by a bootstrap that draws patients.

    Args:
        predictions: A predictions table; targets are NaN where unknown, and are then left out.
        labels: The labels of the table, with their weights. Without them, labels other than the RSNA's weigh
            the same, and none decides.
        validation: Another, of the validation part: calibration and operating points are fitted on it.
        decisions: By level, calibration and operating points that were fitted before; they go before those
            of ``validation``, and before ``pooling``.
        levels: Some of ``LEVELS``.
        pooling: One of ``METHODS``: how slices become series, studies and patients.
        prevalences: At which predictive values are given.
        training_prevalences: By slice, one for each label: what the constant predictor of slices
            says. Without them, and at other levels, those of the table itself.
        rule: How operating points are chosen on ``validation``; see ``choose_operating_point``.
        calibration: How probabilities are calibrated on it, one of ``ich.calibration.METHODS``.
        replicates: Bootstrap samples.
        seed: Random seed for the resampling.

    Returns:
        Every figure; those that are not available say why.

    Raises:
        UserError: If a table is none, is empty, has a slice twice or holds impossible values, or if another
            argument is none of what it may be.
    """
    check_predictions(predictions)
    labels = labels or find_label_set(predictions)
    check_labels(find_names(predictions), labels)
    if unknown := [level for level in levels if level not in LEVELS]:
        raise UserError(f"levels={', '.join(unknown)}: expected some of {', '.join(LEVELS)}")
    if not all(0 < prevalence < 1 for prevalence in prevalences):
        raise UserError(f"prevalences={list(prevalences)}: expected shares between 0 and 1")
    constant = (
        None if training_prevalences is None else check_prevalences(training_prevalences, len(labels.names))
    )
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
        units = Units(predictions, patients, level, how, decision)
        figures[level], curves[level] = measure_level(
            units, labels, how, counts, decision, prevalences, constant if level == "slice" else None
        )
    effect = _measure_pooling(predictions, patients, counts) if "study" in levels else {}
    return Evaluation(len(predictions), len(patients), replicates, seed, figures, effect, labels, curves)


def _measure_pooling(
    predictions: pd.DataFrame, patients: Patients, counts: NDArray[np.int32]
) -> dict[str, dict[str, Areas]]:
    """The areas by study for each way of pooling."""
    effect: dict[str, dict[str, Areas]] = {}
    for method in METHODS:
        units = Units(predictions, patients, "study", method)
        columns = {label: units.column(label) for label in units.names}
        effect[method] = {
            label: estimate_areas(column, *column.score_areas(counts)) for label, column in columns.items()
        }
    return effect
