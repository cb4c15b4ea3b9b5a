"""DeLong's variance of areas under ROC curves, for units that cluster within patients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from ich.evaluate.figures import Estimate, unavailable, without_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DeLongTest:
    """Test whether two areas on the same units differ.

    Attributes:
        difference: Difference of the two areas, ``a - b``, with its 95 % interval.
        standard_error: Standard error of the difference; NaN if not available.
        z: Difference divided by its standard error.
        p_value: Two-sided probability of such a large difference by chance.
    """

    difference: Estimate
    standard_error: float
    z: float
    p_value: float


def delong(target: ArrayLike, probs: ArrayLike, clusters: ArrayLike) -> tuple[Floats, Floats]:
    """Computes the areas of M models on the same units, and their covariance.

    DeLong et al., Biometrics 1988;44:837, computed from ranks as Sun and Xu do (IEEE Signal Processing
    Letters 2014;21:1389). Slices of one patient are not independent, so their terms are summed by cluster, as
    in Obuchowski, Biometrics 1997;53:567. If every cluster is a single unit, this is DeLong's own variance.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the unit out.
        probs: (M, N) scores, higher for 1.
        clusters: (N,) the patient of each unit.

    Returns:
        (M,) areas and (M, M) covariance; NaN if either class has fewer than two clusters.
    """
    targets, scores = np.asarray(target, np.float64), np.asarray(probs, np.float64)
    known = ~np.isnan(targets)
    names, codes = np.unique(np.asarray(clusters)[known], return_inverse=True)
    positive = targets[known] == 1
    scores = scores[:, known]
    positives, negatives = int(positive.sum()), int((~positive).sum())
    with_positives, with_negatives = (len(np.unique(codes[side])) for side in (positive, ~positive))
    if min(with_positives, with_negatives) < 2:
        return np.full(len(scores), math.nan), np.full((len(scores), len(scores)), math.nan)
    ranks = _rank(scores)
    # The share of negatives below each positive, and of positives above each negative.
    below = (ranks[:, positive] - _rank(scores[:, positive])) / negatives
    beyond = 1 - (ranks[:, ~positive] - _rank(scores[:, ~positive])) / positives
    areas = below.mean(axis=1)
    at_positives, at_negatives = (
        np.stack([np.bincount(codes[side], weights=row, minlength=len(names)) for row in centered])
        for side, centered in ((positive, below - areas[:, None]), (~positive, beyond - areas[:, None]))
    )
    cross = at_positives @ at_negatives.T
    covariance = (
        with_positives / (with_positives - 1) * (at_positives @ at_positives.T) / positives**2
        + with_negatives / (with_negatives - 1) * (at_negatives @ at_negatives.T) / negatives**2
        + len(names) / (len(names) - 1) * (cross + cross.T) / (positives * negatives)
    )
    return areas, covariance


def estimate_delong(target: ArrayLike, prob: ArrayLike, clusters: ArrayLike, shortage: str = "") -> Estimate:
    """Estimates one area with its 95 % normal interval, limited to [0, 1].

    Args:
        target: As in ``delong``.
        prob: (N,) scores, higher for 1.
        clusters: As in ``delong``.
        shortage: Why no figure is given; empty if there is no reason.
    """
    if shortage:
        return unavailable(shortage)
    areas, covariance = delong(target, np.asarray(prob)[None], clusters)
    area, variance = float(areas[0]), float(covariance[0, 0])
    if not variance > 0:
        return without_interval(area, "the classes are fully separated, so DeLong's variance is 0")
    reach = ndtri(0.975) * math.sqrt(variance)
    return Estimate(area, max(0.0, area - reach), min(1.0, area + reach))


def compare_delong(
    target: ArrayLike, a: ArrayLike, b: ArrayLike, clusters: ArrayLike, shortage: str = ""
) -> DeLongTest:
    """Compares the areas of two models on the same units.

    Args:
        target: As in ``delong``.
        a: (N,) scores of the first.
        b: (N,) scores of the second.
        clusters: As in ``delong``.
        shortage: Why no figure is given; empty if there is no reason.
    """
    if shortage:
        return DeLongTest(unavailable(shortage), math.nan, math.nan, math.nan)
    areas, covariance = delong(target, np.stack([np.asarray(a), np.asarray(b)]), clusters)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 1e-18:  # equal models leave only rounding errors
        reason = "the models rank alike, so DeLong's variance of the difference is 0"
        return DeLongTest(without_interval(difference, reason), math.nan, math.nan, math.nan)
    error = math.sqrt(variance)
    reach = float(ndtri(0.975)) * error
    z = difference / error
    interval = Estimate(difference, difference - reach, difference + reach)
    return DeLongTest(interval, error, z, float(2 * ndtr(-abs(z))))


def _rank(scores: Floats) -> Floats:
    """(M, N) scores -> their ranks in each row from 1; equal scores share the mean of theirs."""
    return pd.DataFrame(scores).rank(axis=1).to_numpy()
