"""ROC and precision-recall curves and the areas under them, exact with ties, for many weightings at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ich.machine import count_cores

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

BLOCK = 1 << 18
"""Weights that are swept over at once: what fits into a core's cache."""

GRID = np.linspace(0, 1, 101)
"""False positive rates of an ROC curve, recalls of a precision-recall curve."""


@dataclass(frozen=True)
class Sweep:
    """Counts at a threshold that is lowered past G distinct probabilities of positives, under B weightings.

    Attributes:
        gained: (B, G) positives gained at each.
        hits: (B, G) positives at or above each.
        above: (B, G) negatives above each.
        reached: (B, G) negatives at or above each.
        positives: (B,) all positives; NaN if a class is absent, so that every figure is NaN.
        negatives: (B,) all negatives.
    """

    gained: Floats
    hits: Floats
    above: Floats
    reached: Floats
    positives: Floats
    negatives: Floats

    @cached_property
    def precision(self) -> Floats:
        """(B, G) share of positives at or above each; 0 if there is no unit."""
        chosen = self.hits + self.reached
        return np.divide(self.hits, chosen, out=np.zeros_like(chosen), where=chosen > 0)


Statistic = Callable[[Sweep], Floats]


def find_auroc(sweep: Sweep) -> Floats:
    """Returns the (B,) areas under the ROC curve, a tie counting half."""
    lost = np.einsum("bg,bg->b", sweep.gained, sweep.above + sweep.reached)
    return np.asarray(1 - lost / (2 * sweep.positives * sweep.negatives))


def find_average_precision(sweep: Sweep) -> Floats:
    """Returns the (B,) average precisions."""
    return np.asarray(np.einsum("bg,bg->b", sweep.gained, sweep.precision) / sweep.positives)


def find_roc(sweep: Sweep) -> Floats:
    """Returns (B, 101) true positive rates at the false positive rates of ``GRID``, ties joined by a line."""
    curves = np.full((len(sweep.positives), len(GRID)), math.nan)
    for curve, gained, hits, above, reached, positives, negatives in zip(
        curves,
        sweep.gained,
        sweep.hits,
        sweep.above,
        sweep.reached,
        sweep.positives,
        sweep.negatives,
        strict=True,
    ):
        false_positives = np.stack([above, reached], axis=1).ravel()
        true_positives = np.stack([hits - gained, hits], axis=1).ravel()
        # Past the last positive nothing is gained; before the first the curve stays at 0.
        curve[:] = np.interp(GRID * negatives, false_positives, true_positives, left=0.0) / positives
    return curves


def find_precision_recall(sweep: Sweep) -> Floats:
    """Returns (B, 101) precisions at the highest threshold that reaches each recall of ``GRID``."""
    curves = np.full((len(sweep.positives), len(GRID)), math.nan)
    for curve, hits, precision, positives in zip(
        curves, sweep.hits, sweep.precision, sweep.positives, strict=True
    ):
        if not math.isnan(positives):
            # Weights are counts: a rounding error must not ask for one hit more.
            wanted = np.maximum(GRID * positives, 1.0) - 1e-6
            curve[:] = precision[np.searchsorted(hits, wanted)]
    return curves


class Ranking:
    """The known units of a label from the highest probability down.

    They are sorted once. For another weighting, one gather and one running sum give the curves at the
    distinct probabilities of positives. All figures follow from these.

    Args:
        target: (N,) 0 or 1; NaN where unknown.
        prob: (N,) scores, higher for 1.
        codes: (N,) the patient of each unit; a unit has the weight of its patient.
    """

    def __init__(self, target: Floats, prob: Floats, codes: Ints) -> None:
        known = np.flatnonzero(~np.isnan(target))
        rows = known[np.argsort(-prob[known], kind="stable")]
        falling, positive = -prob[rows], target[rows] == 1
        self._codes = codes[rows].astype(np.int32)
        self._positive_codes = self._codes[positive]
        values, self._first = np.unique(falling[positive], return_index=True)
        # Where each tied group of the positives begins and ends in the whole ranking.
        self._start = np.searchsorted(falling, values, "left")
        self._stop = np.searchsorted(falling, values, "right")

    def score(self, counts: NDArray[np.integer], statistics: Sequence[Statistic]) -> list[Floats]:
        """Computes statistics under many weightings, on all cores.

        Args:
            counts: (R, P) how often each patient counts.
            statistics: Such as ``find_auroc``.

        Returns:
            For each statistic (R,) or (R, 101) values, NaN where a class is absent.
        """
        size = max(1, BLOCK // max(1, len(self._codes)))
        blocks = [counts[start : start + size] for start in range(0, len(counts), size)]

        def measure(block: NDArray[np.integer]) -> list[Floats]:
            sweep = self._sweep(block)
            return [statistic(sweep) for statistic in statistics]

        if len(blocks) == 1:
            return measure(blocks[0])
        with ThreadPoolExecutor(min(len(blocks), count_cores())) as pool:
            measured = list(pool.map(measure, blocks))
        return [np.concatenate(values) for values in zip(*measured, strict=True)]

    def _sweep(self, counts: NDArray[np.integer]) -> Sweep:
        if not len(self._positive_codes):
            nothing = np.zeros((len(counts), 0))
            absent = np.full(len(counts), math.nan)
            return Sweep(nothing, nothing, nothing, nothing, absent, absent)
        total = _run(counts, self._codes)
        own = _run(counts, self._positive_codes)
        ends = np.append(self._first[1:], len(self._positive_codes))
        hits, missed = own[:, ends].astype(np.float64), own[:, self._first].astype(np.float64)
        positives, negatives = hits[:, -1], total[:, -1] - hits[:, -1]
        both = (positives > 0) & (negatives > 0)
        return Sweep(
            gained=hits - missed,
            hits=hits,
            above=total[:, self._start] - missed,
            reached=total[:, self._stop] - hits,
            positives=np.where(both, positives, math.nan),
            negatives=np.where(both, negatives, math.nan),
        )


def _run(counts: NDArray[np.integer], codes: NDArray[np.int32]) -> NDArray[np.integer]:
    """Returns the (B, K + 1) running sums of (B, P) counts along the ranking, from 0."""
    sums = np.zeros((len(counts), len(codes) + 1), counts.dtype)
    np.cumsum(np.take(counts, codes, axis=1), axis=1, dtype=counts.dtype, out=sums[:, 1:])
    return sums
