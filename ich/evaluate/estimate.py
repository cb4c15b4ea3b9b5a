"""The bootstrap over patients: how often each is drawn, and what the samples say of a figure.

A figure is computed for all samples at once from the matrix of ``draw_patients``, whose first row draws each
patient once: the first value is that of the table itself, the others are its samples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ich.evaluate.figures import FEW, Estimate, unavailable
from ich.schema import UserError, check_seed

REPLICATES = 1000
"""Bootstrap samples, by default."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

SAME = "every bootstrap sample gives the same figure, which leaves its interval unknown"


def draw_patients(patients: int, replicates: int, seed: int) -> NDArray[np.int32]:
    """Draws patients with replacement: a patient's slices are not independent of each other.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 8.

    Args:
        patients: Their number P.
        replicates: Samples R.
        seed: Random seed for the draws.

    Returns:
        (R + 1, P) how often each patient is drawn; once each in the first row.

    Raises:
        UserError: If ``replicates`` is not positive, or ``seed`` out of range.
    """
    if replicates < 1:
        raise UserError(f"replicates={replicates}: expected at least 1")
    check_seed("seed", seed)
    rng = np.random.default_rng(seed)
    counts = np.ones((replicates + 1, patients), np.int32)
    for row in counts[1:]:
        row[:] = np.bincount(rng.integers(patients, size=patients), minlength=patients)
    return counts


def estimate(samples: Floats, shortage: str = "", *, bounds: tuple[float, ...] = ()) -> Estimate:
    """Sums up a figure's samples: the 95 % percentile interval.

    Samples in which the figure is not defined, as when they draw no positive, are left out.

    Args:
        samples: (R + 1,) the table's own value first.
        shortage: Why samples tell nothing of the interval, if there is a reason.
        bounds: Values that end the figure's range: where all samples lie on one, they tell nothing of the
            interval.

    Returns:
        The figure with its interval; or without it, or none at all, and then with the reason.
    """
    value, drawn = float(samples[0]), samples[1:][~np.isnan(samples[1:])]
    if math.isnan(value):
        return unavailable(shortage or "it is not defined on this table")
    if shortage:
        return Estimate(value, math.nan, math.nan, shortage)
    if not drawn.size:
        return Estimate(value, math.nan, math.nan, "it is defined in no bootstrap sample")
    if value in bounds and (drawn == value).all():
        return Estimate(value, math.nan, math.nan, SAME)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def estimate_share(samples: Floats, patients: int, shortage: str = "") -> Estimate:
    """Sums up a share of units, such as a sensitivity.

    Where it is 0 or 1 in every sample, its interval is that of Clopper and Pearson (Biometrika 1934;26:404)
    with patients for trials, which is wider than any that slices would give.

    Args:
        samples: (R + 1,) the table's own value first.
        patients: Who have a unit that the share is of.
        shortage: As in ``estimate``.
    """
    figure = estimate(samples, shortage, bounds=(0.0, 1.0))
    if figure.reason != SAME:
        return figure
    tail = 0.025 ** (1 / patients)
    return Estimate(1.0, tail, 1.0) if figure.value == 1 else Estimate(0.0, 0.0, 1 - tail)


def sum_by_patient(codes: Ints, patients: int, terms: Floats) -> Floats:
    """(N, F) terms of units -> (P, F) sums over each patient's units; ``counts @`` it sums a sample's."""
    return np.stack([np.bincount(codes, weights=term, minlength=patients) for term in terms.T], axis=1)


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """The quotient, NaN where the denominator is not above 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, math.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def say_too_few(patients: int, of: str) -> str:
    """Why a figure that rests on so many patients has no interval; empty where it may have one.

    Args:
        patients: Their number.
        of: What they have, as in ``"with a positive slice"``.
    """
    return "" if patients >= FEW else f"patients {of}: {patients}, fewer than {FEW}"
