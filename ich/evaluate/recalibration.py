"""Calibration slope and intercept: logistic recalibration under many weightings at once.

Source: Cox, Biometrika 1958;45:562; Van Calster et al., BMC Medicine 2019;17:230.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ich.calibration import to_logits
from ich.evaluate.estimate import sum_by_patient

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

ROUNDS = 60
TOLERANCE = 1e-6
"""Largest last step. Newton's steps square, so the error after it is about 1e-12."""

FLAT = 1e-12
"""Curvature below which a likelihood has no peak that numbers could find."""

STEP = 1 / 4
"""Distance of the grid's points, in units of the fitted logit where the slope is above 1."""

POINTS = np.arange(-3, 5)
"""Points of the grid that a logit between point 0 and point 1 is spread over."""


def recalibrate(
    target: Floats, prob: Floats, codes: Ints, counts: NDArray[np.integer]
) -> tuple[Floats, Floats, Floats]:
    """Fits ``logit P(target) = intercept + slope * logit(prob)`` under each weighting of patients.

    The first weighting is fitted on every unit. For the others the sums over units that Newton's method
    needs are taken on a grid: each unit's logit is spread over the eight points around it by Lagrange's
    weights, which is exact for polynomials of degree 7 and to about 1e-8 for a logistic curve at this
    distance of points. A weighting then costs one product of matrices, however many units there are.

    Args:
        target: (N,) 0 or 1.
        prob: (N,) probabilities.
        codes: (N,) the patient of each.
        counts: (R, P) how often each patient counts; once each in the first row.

    Returns:
        (R,) slopes, (R,) intercepts, and (R,) intercepts with a slope of 1; NaN if there is none, as for
        classes that do not overlap.
    """
    x = to_logits(prob)
    patients = counts.shape[1]
    ones = np.ones((1, len(x)))
    reached = np.array([[target.sum(), target @ x]])
    slope, intercept = _fit(x, ones, reached, np.zeros(1), _start(target))
    _, large = _fit(x, ones, reached, np.ones(1), np.zeros(1), slope_fixed=True)
    steepest = max(1.0, abs(slope[0])) if math.isfinite(slope[0]) else 1.0
    points, spread = _spread(x, STEP / steepest, codes, patients)
    weights = counts[1:] @ spread
    reached = counts[1:] @ sum_by_patient(codes, patients, np.stack([target, target * x], axis=1))
    both = (reached[:, 0] > 0) & (reached[:, 0] < weights.sum(axis=1) - 0.5)
    start = np.where(both, 1.0, math.nan)
    slopes, intercepts = _fit(points, weights, reached, start * slope[0], start * intercept[0])
    _, larges = _fit(points, weights, reached, start, start * large[0], slope_fixed=True)
    return np.append(slope, slopes), np.append(intercept, intercepts), np.append(large, larges)


def _start(target: Floats) -> Floats:
    share = target.mean()
    return np.array([math.log(share / (1 - share)) if 0 < share < 1 else math.nan])


def _spread(x: Floats, step: float, codes: Ints, patients: int) -> tuple[Floats, Floats]:
    """Returns the (K,) points of the grid near ``x``, and the (P, K) weight of each patient's units there."""
    cell = np.floor(x / step)
    offset = x / step - cell
    cells = (cell[:, None] + POINTS).astype(np.intp)
    used, place = np.unique(cells, return_inverse=True)
    shares = np.stack(
        [
            np.prod([(offset - other) / (point - other) for other in POINTS if other != point], axis=0)
            for point in POINTS
        ],
        axis=1,
    )
    keys = codes[:, None] * len(used) + place.reshape(cells.shape)
    sums = np.bincount(keys.ravel(), weights=shares.ravel(), minlength=patients * len(used))
    weight = np.asarray(sums, np.float64).reshape(patients, len(used))
    return np.asarray(used * step, np.float64), weight


def _fit(
    x: Floats,
    weights: Floats,
    reached: Floats,
    slope: Floats,
    intercept: Floats,
    *,
    slope_fixed: bool = False,
) -> tuple[Floats, Floats]:
    """Newton's method on R likelihoods at once, from a start; NaN where it does not settle.

    Args:
        x: (K,) logits.
        weights: (R, K) their weights.
        reached: (R, 2) sums over units of the target, and of the target times the logit.
        slope: (R,) the start.
        intercept: (R,) the start.
        slope_fixed: Only the intercept is fitted.
    """
    slope, intercept = slope.copy(), intercept.copy()
    settled = np.zeros(len(slope), bool)
    open_ = np.flatnonzero(~np.isnan(slope + intercept))
    for _ in range(ROUNDS):
        if not open_.size:
            break
        weight = weights[open_]
        chance = expit(intercept[open_, None] + slope[open_, None] * x)
        expected = weight * chance
        gap = reached[open_] - np.stack([expected.sum(axis=1), expected @ x], axis=1)
        bend = expected * (1 - chance)
        b0, b1, b2 = bend.sum(axis=1), bend @ x, bend @ x**2
        determinant = b0 if slope_fixed else b0 * b2 - b1**2
        peaked = determinant > FLAT
        determinant = np.where(peaked, determinant, 1.0)
        if slope_fixed:
            up, tilt = gap[:, 0] / determinant, np.zeros(len(open_))
        else:
            up = (b2 * gap[:, 0] - b1 * gap[:, 1]) / determinant
            tilt = (b0 * gap[:, 1] - b1 * gap[:, 0]) / determinant
        intercept[open_] += up
        slope[open_] += tilt
        size = np.maximum(np.abs(up), np.abs(tilt))
        done = size <= TOLERANCE * (1 + np.abs(intercept[open_]) + np.abs(slope[open_]))
        settled[open_[done & peaked]] = True
        open_ = open_[~done & peaked]
    return np.where(settled, slope, math.nan), np.where(settled, intercept, math.nan)
