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
    """Computes predictive values at a given prevalence, by Bayes' theorem.

    Args:
        sensitivity: Array of any shape.
        specificity: Array of the same shape.
        prevalence: Share of units that have the label.

    Returns:
        PPV and NPV; NaN if no result is positive, or none is negative.
    """
    tp, fp = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    fn, tn = prevalence * (1 - sensitivity), (1 - prevalence) * specificity
    return divide(tp, tp + fp), divide(tn, tn + fn)


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
        shortages: Why figures from positives, and from negatives, have no interval; empty if they have one.
    """
    positive = target == 1
    cells = np.stack([positive & called, ~positive & called, ~positive & ~called, positive & ~called], axis=1)
    by_patient = sum_by_patient(codes, counts.shape[1], cells.astype(np.float64))
    tp, fp, tn, fn = (counts @ by_patient).T
    sensitivity, specificity = divide(tp, tp + fn), divide(tn, tn + fp)
    few_positives, few_negatives = shortages
    either = few_positives or few_negatives
    with_label, without, called_positive, called_negative = (
        int(np.count_nonzero(by_patient[:, columns].any(axis=1)))
        for columns in ([0, 3], [1, 2], [0, 1], [2, 3])
    )
    few_called_positive = say_too_few(called_positive, "with a unit at or above the threshold")
    few_called_negative = say_too_few(called_negative, "with a unit below the threshold")
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
        true_positives=int(tp[0]),
        false_positives=int(fp[0]),
        true_negatives=int(tn[0]),
        false_negatives=int(fn[0]),
        sensitivity=estimate_share(sensitivity, with_label, few_positives),
        specificity=estimate_share(specificity, without, few_negatives),
        ppv=estimate_share(divide(tp, tp + fp), called_positive, either or few_called_positive),
        npv=estimate_share(divide(tn, tn + fn), called_negative, either or few_called_negative),
        f1=estimate(divide(2 * tp, 2 * tp + fp + fn), either, bounds=(0.0, 1.0)),
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
