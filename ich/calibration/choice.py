"""Whether a change of a model's probabilities helps, by a paired comparison over patients."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ich.calibration.fits import Floats

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP] before their logarithm or logit; float32 cannot distinguish
values nearer to 1."""


def measure_losses(target: ArrayLike, prob: ArrayLike) -> Floats:
    """Returns the log loss of each entry, ``-log`` of the probability of its target; 0 where it is unknown.

    Args:
        target: 0 or 1, NaN where unknown; of any shape.
        prob: Probabilities of the same shape.
    """
    targets, probs = np.asarray(target, np.float64), np.clip(np.asarray(prob, np.float64), CLIP, 1 - CLIP)
    losses = -np.where(targets == 1, np.log(probs), np.log1p(-probs))
    return np.where(np.isnan(targets), 0.0, losses)


def is_better(before: ArrayLike, after: ArrayLike, patients: ArrayLike) -> bool:
    """Whether losses are lower by more than one standard error, so that a tie keeps what was before.

    The difference is summed by patient, because the slices of a patient are not independent. Its standard
    error is that of a sum over as many patients. Of two models within one standard error, the simpler one is
    kept: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3.

    Args:
        before: (N,) losses of the simpler model.
        after: (N,) losses of the other model on the same rows.
        patients: (N,) the patient of each row.
    """
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    by_patient = pd.Series(difference).groupby(np.asarray(patients)).sum().to_numpy()
    if len(by_patient) < 2:
        return False
    error = np.sqrt(len(by_patient)) * by_patient.std(ddof=1)
    return bool(by_patient.sum() < -error)
