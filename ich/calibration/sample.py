"""Selects the known rows of a label, and checks whether they are enough for a fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ich.calibration.fits import Floats
from ich.schema import UserError

MIN_CASES = 10
"""Positives, and negatives, that a label needs for a fit: ten for the single slope of a logistic curve.
Source: Peduzzi et al., Journal of Clinical Epidemiology 1996;49:1373."""

MIN_PATIENTS = 3
"""Patients that the positives, and the negatives, must come from. A fit to one or two heads describes only
those. Slices of one patient are alike, so ten of them may be one case."""


def take_known(target: ArrayLike, prob: ArrayLike) -> tuple[Floats, Floats]:
    """Returns targets and probabilities of the rows with a known target, which is not NaN.

    Raises:
        UserError: If they differ in length, or a value is out of range.
    """
    targets, probs = np.asarray(target, np.float64), np.asarray(prob, np.float64)
    if targets.ndim != 1 or targets.shape != probs.shape:
        raise UserError(f"targets {targets.shape} and probabilities {probs.shape}: expected (N,) of each")
    known = ~np.isnan(targets)
    targets, probs = targets[known], probs[known]
    if not ((targets == 0) | (targets == 1)).all():
        raise UserError("targets other than 0, 1 and unknown (NaN)")
    if not ((probs >= 0) & (probs <= 1)).all():
        raise UserError("probabilities that are missing or outside [0, 1]")
    return targets, probs


def find_shortage(target: ArrayLike, patients: ArrayLike | None = None) -> str | None:
    """Says why there are too few data to fit a label, without names; None if there are enough.

    Args:
        target: (N,) 0 or 1; NaN where unknown.
        patients: (N,) the patient of each row; without them only rows are counted.
    """
    targets = np.asarray(target, np.float64)
    for value, name in ((1, "positive"), (0, "negative")):
        has = targets == value
        if (cases := int(has.sum())) < MIN_CASES:
            return f"only {cases} {name}s; at least {MIN_CASES} needed"
        if patients is None:
            continue
        if (heads := pd.Series(patients)[has].nunique()) < MIN_PATIENTS:
            return f"only {heads} {name} patients; at least {MIN_PATIENTS} needed"
    return None
