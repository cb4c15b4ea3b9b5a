"""Sensitivity, specificity, predictive values and F1 at an operating point."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ich.calibration.points import OperatingPoint
from ich.evaluate.estimate import divide, estimate, estimate_share, say_too_few, sum_by_patient
from ich.evaluate.figures import OperatingFigures, PredictiveValues, unavailable

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def adjust_to_prevalence(
    sensitivity: Floats, specificity: Floats, prevalence: float
) -> tuple[Floats, Floats]:
    """Positive and negative predictive value where the label is as frequent as given, by Bayes' theorem.

    Args:
        sensitivity: Array of any shape.
        specificity: Array of the same shape.
        prevalence: Share of units that have the label.

    Returns:
        PPV and NPV; NaN where no result is positive, or none negative.
    """
    hits, alarms = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    misses, right = prevalence * (1 - sensitivity), (1 - prevalence) * specificity
    return divide(hits, hits + alarms), divide(right, right + misses)


def measure_at_point(
    target: Floats,
    called: NDArray[np.bool_],
    codes: Ints,
    counts: NDArray[np.integer],
    point: OperatingPoint,
    prevalences: Sequence[float],
    shortages: tuple[str, str],
) -> OperatingFigures:
    """Measures one label at its operating point.

    Args:
        target: (N,) 0 or 1.
        called: (N,) whether each calibrated probability reaches the operating point.
        codes: (N,) the patient of each.
        counts: (R, P) of ``draw_patients``.
        point: The operating point, as it was chosen.
        prevalences: Prevalences at which predictive values are given.
        shortages: Why figures that need positives, and negatives, are not to be given; empty where they are.
    """
    positive = target == 1
    cells = np.stack([positive & called, ~positive & called, ~positive & ~called, positive & ~called], axis=1)
    by_patient = sum_by_patient(codes, counts.shape[1], cells.astype(np.float64))
    hits, alarms, right, misses = (counts @ by_patient).T
    sensitivity, specificity = divide(hits, hits + misses), divide(right, right + alarms)
    few_positives, few_negatives = shortages
    either = few_positives or few_negatives
    with_label, without, raised, clear = (
        int(np.count_nonzero(by_patient[:, columns].any(axis=1)))
        for columns in ([0, 3], [1, 2], [0, 1], [2, 3])
    )
    few_raised = say_too_few(raised, "with a unit at or above the threshold")
    few_clear = say_too_few(clear, "with a unit below the threshold")
    values = []
    for prevalence in prevalences:
        ppv, npv = adjust_to_prevalence(sensitivity, specificity, prevalence)
        figures = (estimate(samples, either, bounds=(0.0, 1.0)) for samples in (ppv, npv))
        values.append(PredictiveValues(prevalence, *figures))
    return OperatingFigures(
        threshold=point.threshold,
        rule=point.rule,
        chosen_sensitivity=point.sensitivity,
        chosen_specificity=point.specificity,
        true_positives=int(hits[0]),
        false_positives=int(alarms[0]),
        true_negatives=int(right[0]),
        false_negatives=int(misses[0]),
        sensitivity=estimate_share(sensitivity, with_label, few_positives),
        specificity=estimate_share(specificity, without, few_negatives),
        ppv=estimate_share(divide(hits, hits + alarms), raised, either or few_raised),
        npv=estimate_share(divide(right, right + misses), clear, either or few_clear),
        f1=estimate(divide(2 * hits, 2 * hits + alarms + misses), either, bounds=(0.0, 1.0)),
        at_prevalences=tuple(values),
    )


def without_point(reason: str, prevalences: Sequence[float]) -> OperatingFigures:
    """Returns the figures of a label that has no operating point."""
    nothing = unavailable(reason)
    return OperatingFigures(
        threshold=math.nan,
        rule="",
        chosen_sensitivity=math.nan,
        chosen_specificity=math.nan,
        true_positives=0,
        false_positives=0,
        true_negatives=0,
        false_negatives=0,
        sensitivity=nothing,
        specificity=nothing,
        ppv=nothing,
        npv=nothing,
        f1=nothing,
        at_prevalences=tuple(PredictiveValues(p, nothing, nothing) for p in prevalences),
    )
