"""Stacking: how much each of several models should count in the mean of their probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ich.evaluate.calibration_error import EPSILON
from ich.evaluate.checks import Tables, align
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import hides_slices, name_columns

_STEPS, _TOLERANCE = 10_000, 1e-9


def fit_shares(tables: Tables, labels: LabelSet) -> NDArray[np.float64]:
    """Fits one weight for each model, from 0 and summing to 1, by the least weighted log loss of the mean.

    The mean is a mixture of the models, so that expectation maximization finds the only minimum. Dempster,
    Laird and Rubin, J R Stat Soc B 39, 1977. Held-out predictions: Wolpert, Stacked Generalization, Neural
    Networks 5, 1992.

    Args:
        tables: Predictions tables of the same slices by the name of their model. No model may have learned
            from the patients that it predicts.
        labels: What they predict, with their weights in the loss.

    Returns:
        (M,) weights in the order of the tables.

    Raises:
        UserError: If there are fewer than two tables, they differ in slices, patients or targets, or only
            their studies are labeled.
    """
    aligned = align(tables)
    first = next(iter(aligned.values()))
    if hides_slices(first):
        raise UserError("stacking needs labels of slices, and only studies are labeled: leave out --stack")
    target = first[name_columns("target", labels.names)].to_numpy(np.float64)
    known = ~np.isnan(target)
    weights = np.broadcast_to(np.asarray(labels.weights, np.float64), target.shape)[known]
    weights = weights / weights.sum()
    columns = name_columns("prob", labels.names)
    probs = np.stack([table[columns].to_numpy(np.float64)[known] for table in aligned.values()])  # (M, K)
    truth = np.where(target[known] == 1, probs, 1 - probs).clip(EPSILON, 1 - EPSILON)
    shares = np.full(len(aligned), 1 / len(aligned))
    for _ in range(_STEPS):
        mixed = shares[:, None] * truth
        updated = (mixed / mixed.sum(axis=0)) @ weights
        moved = np.abs(updated - shares).max()
        shares = updated / updated.sum()
        if moved < _TOLERANCE:
            break
    return shares
