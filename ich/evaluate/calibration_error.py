"""Calibration measures: Brier score, log loss, calibration slope and intercept, reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ich.evaluate.curves import Reliability
from ich.evaluate.estimate import divide, estimate, sum_by_patient
from ich.evaluate.figures import CalibrationMeasures, unavailable
from ich.evaluate.recalibration import recalibrate

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

EPSILON = 1e-15
"""Probabilities are clipped to [EPSILON, 1 - EPSILON] before the logarithm, as the RSNA 2019 metric does."""

BINS = 10
"""Bins of equal width over [0, 1], of reliability and of the expected calibration error."""

OVERLAP = "the probabilities separate the two classes fully, so the logistic recalibration has no solution"


def find_entropy(target: Floats, prob: Floats) -> Floats:
    """Returns the binary cross-entropy of each target, NaN where unknown."""
    clipped = np.clip(prob, EPSILON, 1 - EPSILON)
    entropy = -np.where(target == 1, np.log(clipped), np.log1p(-clipped))
    return np.where(np.isnan(target), math.nan, entropy)


def weigh_losses(target: Floats, probs: Floats, label_weights: Sequence[float]) -> Floats:
    """Computes the terms of the weighted log loss, over the known labels of each unit.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        probs: (N, L) probabilities.
        label_weights: The weight of each label; with those of the RSNA it is the metric of 2019.

    Returns:
        (N, 2) weighted cross-entropy of each unit, and the sum of its weights. The metric is the quotient of
        their sums.
    """
    weights = np.where(np.isnan(target), 0.0, np.asarray(label_weights))
    losses = np.where(np.isnan(target), 0.0, weights * find_entropy(target, probs))
    return np.stack([losses.sum(axis=1), weights.sum(axis=1)], axis=1)


def measure_calibration(
    target: Floats, prob: Floats, codes: Ints, counts: NDArray[np.integer], shortage: str
) -> tuple[CalibrationMeasures, Reliability | None]:
    """Measures the calibration of one label.

    Args:
        target: (N,) 0 or 1.
        prob: (N,) probabilities.
        codes: (N,) the patient of each.
        counts: (R, P) how often each patient counts, from ``draw_patients``.
        shortage: Why no measure is given; empty if there is no reason.

    Returns:
        The measures, and the observed share in each bin of probability; None with a shortage.
    """
    if shortage:
        return without_calibration(shortage), None
    patients = counts.shape[1]
    terms = np.stack([np.ones_like(prob), (prob - target) ** 2, find_entropy(target, prob)], axis=1)
    units, square, entropy = (counts @ sum_by_patient(codes, patients, terms)).T
    bins = np.minimum((prob * BINS).astype(np.intp), BINS - 1)
    filled, predicted, observed = (
        counts @ _sum_by_bin(codes, bins, patients, weights) for weights in (np.ones_like(prob), prob, target)
    )
    slope, intercept, large = recalibrate(target, prob, codes, counts)
    ideal = unavailable(OVERLAP) if math.isnan(slope[0]) else None
    measures = CalibrationMeasures(
        brier=estimate(divide(square, units)),
        log_loss=estimate(divide(entropy, units)),
        slope=ideal or estimate(slope),
        intercept=ideal or estimate(intercept),
        in_the_large=estimate(large),
        expected_error=estimate(divide(np.abs(observed - predicted).sum(axis=1), units)),
    )
    shares = [estimate(samples) for samples in divide(observed, filled).T]
    reliability = Reliability(
        edges=np.linspace(0, 1, BINS + 1),
        units=filled[0].astype(np.int64),
        predicted=divide(predicted[0], filled[0]),
        observed=np.array([share.value for share in shares]),
        low=np.array([share.low for share in shares]),
        high=np.array([share.high for share in shares]),
    )
    return measures, reliability


def without_calibration(reason: str) -> CalibrationMeasures:
    """Returns the measures if there is nothing to measure."""
    return CalibrationMeasures(*[unavailable(reason)] * 6)


def _sum_by_bin(codes: Ints, bins: Ints, patients: int, weights: Floats) -> Floats:
    """Sums weights over each patient's units in each bin, (P, BINS)."""
    sums = np.bincount(codes * BINS + bins, weights=weights, minlength=patients * BINS)
    return np.asarray(sums, np.float64).reshape(patients, BINS)
