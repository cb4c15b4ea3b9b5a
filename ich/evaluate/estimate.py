"""The bootstrap over patients: the draws, and estimates from their samples.

A figure is computed for all samples at once from the matrix of ``draw_patients``. Its first row draws each
patient once, so the first value is that of the table, and the others are its samples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ich.evaluate.figures import FEW, Estimate, unavailable, without_interval
from ich.schema import UserError, check_seed

REPLICATES = 1000
"""Bootstrap samples, by default."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

SAME = "every bootstrap sample gives the same figure, so its interval is unknown"


def draw_patients(patients: int, replicates: int, seed: int) -> NDArray[np.int32]:
    """Draws patients with replacement, because a patient's slices are not independent.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 8.

    Args:
        patients: Number of patients, P.
        replicates: Number of samples, R.
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
    """Estimates a figure with its 95 % percentile interval from samples.

    Samples without a defined figure, such as those without a positive, are left out.

    Args:
        samples: (R + 1,) the table's own value first.
        shortage: Why the samples give no interval, if there is a reason.
        bounds: Limits of the figure's range. If all samples lie on one limit, they give no interval.

    Returns:
        The figure with its interval, or with the reason why the interval or the figure is missing.
    """
    value, drawn = float(samples[0]), samples[1:][~np.isnan(samples[1:])]
    if math.isnan(value):
        return unavailable(shortage or "it is not defined on this table")
    if shortage:
        return without_interval(value, shortage)
    if not drawn.size:
        return without_interval(value, "it is defined in no bootstrap sample")
    if value in bounds and (drawn == value).all():
        return without_interval(value, SAME)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def estimate_share(samples: Floats, patients: int, shortage: str) -> Estimate:
    """Estimates a share of units, such as a sensitivity.

    If it is 0 or 1 in every sample, its interval is that of Clopper and Pearson (Biometrika 1934;26:404),
    with patients as trials. This is wider than an interval over slices.

    Args:
        samples: (R + 1,) the table's own value first.
        patients: Number of patients with a unit that the share counts.
        shortage: As in ``estimate``.
    """
    figure = estimate(samples, shortage, bounds=(0.0, 1.0))
    if figure.reason != SAME:
        return figure
    tail = 0.025 ** (1 / patients)
    return Estimate(1.0, tail, 1.0) if figure.value == 1 else Estimate(0.0, 0.0, 1 - tail)


def sum_by_patient(codes: Ints, patients: int, terms: Floats) -> Floats:
    """Sums (N, F) terms of units by patient, (P, F). ``counts @`` these are the sums of the samples."""
    return np.stack([np.bincount(codes, weights=term, minlength=patients) for term in terms.T], axis=1)


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Returns the quotient, NaN where the denominator is not above 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, math.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def say_too_few(patients: int, of: str) -> str:
    """Says why a figure from so few patients has no interval; empty if it may have one.

    Args:
        patients: Number of patients.
        of: What these patients have, such as ``"with a positive slice"``.
    """
    return "" if patients >= FEW else f"only {patients} patients {of}; at least {FEW} needed"
