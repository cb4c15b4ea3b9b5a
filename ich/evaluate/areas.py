"""The areas under a label's curves, exact with ties, for weightings that change often."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def auroc(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the receiver operating characteristic, exact with ties.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the slice out.
        prob: (N,) scores, higher for 1.
        weight: (N,) weights of 0 or more; each slice once without it.

    Returns:
        The area, or NaN where one class is absent.
    """
    return _score(target, prob, weight)[0]


def average_precision(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Average precision, the sum over thresholds of the gain in recall times the precision.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the slice out.
        prob: (N,) scores, higher for 1.
        weight: (N,) weights of 0 or more; each slice once without it.

    Returns:
        The average precision, or NaN where one class is absent.
    """
    return _score(target, prob, weight)[1]


class Ranking:
    """The known slices of a label from the highest probability down, with the ties of each positive.

    Only sums up to the first slice of a positive's probability and past the last one enter the figures, so
    that another weighting costs one gather and one running sum.

    Attributes:
        rows: (K,) the known slices, by falling probability.
        positives: Which of ``rows`` are positive.
    """

    def __init__(self, target: NDArray[np.float64], prob: NDArray[np.float64]) -> None:
        known = np.flatnonzero(~np.isnan(target))
        self.rows = known[np.argsort(-prob[known], kind="stable")]
        falling, positive = -prob[self.rows], target[self.rows] == 1
        self.positives = np.flatnonzero(positive)
        self.start = np.searchsorted(falling, falling[self.positives], "left")
        self.stop = np.searchsorted(falling, falling[self.positives], "right")
        before = np.concatenate([[0], np.cumsum(positive)])
        self.positive_start, self.positive_stop = before[self.start], before[self.stop]

    def score(self, weight: NDArray[np.float64]) -> tuple[float, float]:
        """Returns AUROC and average precision for (K,) weights of ``rows``; NaN where a class is absent."""
        own = weight[self.positives]
        total, hits = (np.concatenate([[0.0], np.cumsum(values)]) for values in (weight, own))
        positives, negatives = hits[-1], total[-1] - hits[-1]
        if not (positives > 0 and negatives > 0):
            return math.nan, math.nan
        above = total[self.start] - hits[self.positive_start]  # negatives that rank higher
        reached = total[self.stop]
        above_or_level = reached - hits[self.positive_stop]
        precision = np.divide(hits[self.positive_stop], reached, out=np.zeros_like(own), where=reached > 0)
        area = 1 - own @ (above + above_or_level) / (2 * positives * negatives)
        return float(area), float(own @ precision / positives)


def _score(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None) -> tuple[float, float]:
    ranking = Ranking(np.asarray(target, np.float64), np.asarray(prob, np.float64))
    weights = np.ones(np.shape(target)) if weight is None else np.asarray(weight, np.float64)
    return ranking.score(weights[ranking.rows])
