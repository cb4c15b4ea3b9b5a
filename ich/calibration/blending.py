"""How much of a second model each label takes, chosen on the validation set."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from ich.calibration import Platt, fit_calibrator, to_logits
from ich.calibration.choice import is_better, measure_losses
from ich.calibration.fits import Floats

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the second model to choose from."""


def blend(first: ArrayLike, second: ArrayLike, shares: ArrayLike) -> Floats:
    """Returns sigmoid((1 - share) * logit(first) + share * logit(second)) of (N, L) probabilities."""
    before, share = to_logits(first), np.asarray(shares, np.float64)
    return np.asarray(expit(before + share * (to_logits(second) - before)), np.float64)


def choose_shares(
    target: ArrayLike, best: ArrayLike, first: ArrayLike, second: ArrayLike, patients: ArrayLike
) -> list[float]:
    """Chooses the share of a second model for each label, by the log loss after Platt's calibration.

    A label whose loss it does not lower by more than one standard error gets 0, and so does a label with too
    few cases. The second model may therefore cost no label its discrimination.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        best: (N, L) probabilities of the best simpler model, which the blend must surpass.
        first: (N, L) probabilities of the first model of the blend.
        second: (N, L) probabilities of the second.
        patients: (N,) PatientID.

    Returns:
        L shares from 0 to 1.
    """
    targets, simpler, firsts, seconds = (
        np.asarray(each, np.float64).T for each in (target, best, first, second)
    )
    columns = zip(targets, simpler, firsts, seconds, strict=True)
    return [_choose(known, base, one, two, patients) for known, base, one, two in columns]


def _choose(target: Floats, best: Floats, first: Floats, second: Floats, patients: ArrayLike) -> float:
    before = _measure_calibrated(target, best, patients)
    if before is None:
        return 0.0
    found: list[tuple[float, float]] = []
    for share in SHARES:
        after = _measure_calibrated(target, blend(first, second, share), patients)
        if after is not None and is_better(before, after, patients):
            found.append((float(after.sum()), share))
    return min(found)[1] if found else 0.0


def _measure_calibrated(target: Floats, prob: Floats, patients: ArrayLike) -> Floats | None:
    """Returns (N,) losses of one label after Platt's calibration; None if it cannot be calibrated."""
    curve = fit_calibrator(target, prob, "platt", patients=patients)
    return measure_losses(target, curve.apply(prob)) if isinstance(curve, Platt) else None
