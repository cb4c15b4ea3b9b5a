"""Averages the probabilities of neighboring slices, with weights that fall with their distance in mm.

A hemorrhage usually extends over several slices, so the neighbors of a slice say something about it. Each
label has a kernel or none, because a small hemorrhage bears less smoothing than a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ich.calibration import NotFitted, Platt, fit_calibrator
from ich.calibration.choice import is_better, measure_losses
from ich.calibration.fits import Floats
from ich.schema.formats import ChosenBy, Number, Positive, check_keys

WIDTHS = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0, 20.0)
"""Widths to choose from, mm. With slices of 5 mm, a neighbor has from 0.25 to 0.97 of the slice's weight."""


@dataclass(frozen=True)
class Kernel:
    """The mean over the slices of a series, a slice at distance d with the weight exp(-d^2 / (2 width^2)).

    Nadaraya, On Estimating Regression, Theory of Probability and Its Applications 1964;9:141.

    Attributes:
        width: Standard deviation of the Gaussian, mm.
        slope: Slope on the logits of the means: sigmoid(slope * logit(mean) + intercept) follows.
        intercept: Intercept on the logits of the means.
    """

    width: Positive
    slope: Positive
    intercept: Number


OWN_PATIENTS = 20
"""With fewer patients all labels share a kernel. Chance alone makes other kernels look good on so few."""

OWN_GROUPS = 5
"""Groups of patients; kernels of the labels are tried on each after a fit on the others."""

TIED = NotFitted("it does not lower the log loss")


def _choose_kernel(found: Mapping[str, Any]) -> str:
    return "NotFitted" if "missing" in found else "Kernel"


Smoothing = Mapping[str, Annotated[Kernel | NotFitted, ChosenBy(_choose_kernel, "fields")]]
"""For each label its kernel, or why its probabilities stay as they are."""


def order_smoothing(smoothing: Smoothing, names: Sequence[str]) -> Smoothing:
    """Brings kernels into the order of a model's labels, for the ``__post_init__`` of a format.

    Raises:
        ValueError: If they are for other labels.
    """
    check_keys(smoothing, names, "smoothing")
    return {name: smoothing[name] for name in names}


def has_kernels(smoothing: Smoothing | None) -> bool:
    """Whether any label is smoothed."""
    return any(isinstance(kernel, Kernel) for kernel in (smoothing or {}).values())


def smooth(
    probs: ArrayLike, positions: ArrayLike, series: ArrayLike, smoothing: Smoothing
) -> NDArray[np.float32]:
    """Smooths the probabilities of slices over their series.

    Args:
        probs: (N, L) probabilities, a column for each label of ``smoothing``.
        positions: (N,) along the slice normal, mm. A slice with NaN is averaged with no other.
        series: (N,) the series of each slice; slices of different series never change each other.
        smoothing: A kernel for each label.

    Returns:
        (N, L) probabilities, as precise as those of a network.
    """
    smoothed = np.array(probs, np.float64)
    groups = _group(positions, series)
    for column, kernel in zip(smoothed.T, smoothing.values(), strict=True):
        if isinstance(kernel, Kernel):
            column[:] = Platt(kernel.slope, kernel.intercept).apply(_average(column, groups, kernel.width))
    return smoothed.astype(np.float32)


def fit_smoothing(
    target: ArrayLike,
    probs: ArrayLike,
    positions: ArrayLike,
    series: ArrayLike,
    patients: ArrayLike,
    names: Sequence[str],
) -> dict[str, Kernel | NotFitted]:
    """Chooses one width for all labels: that with the lowest log loss, if this is better than none.

    A label whose own log loss does not fall keeps its probabilities. A mean is less sure of itself than its
    parts, and each label may need a width of its own. So a width and a logistic curve are fitted for each
    label too. Few patients do not determine them, so they are used only if they lower the log loss of
    patients that they were not fitted on.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        probs: (N, L) probabilities.
        positions: (N,) along the slice normal, mm; NaN where unknown.
        series: (N,) the series of each slice.
        patients: (N,) PatientID.
        names: The L labels.

    Returns:
        A kernel for each label, or the reason why there is none. ``is_better`` decides on the sum of all
        labels.
    """
    groups = _group(positions, series)
    if not groups:
        return dict.fromkeys(names, NotFitted("no series with the positions of several slices"))
    known, given, people = np.asarray(target, np.float64), np.array(probs, np.float64), np.asarray(patients)
    means = {width: _average_all(given, groups, width) for width in WIDTHS}
    shared, losses = _share(known, given, means, people)
    return dict(zip(names, _refine(known, given, means, people, shared, losses), strict=True))


_Kernels = Sequence[Kernel | NotFitted]
"""What becomes of each label."""


def _share(
    target: Floats, probs: Floats, means: Mapping[float, Floats], patients: NDArray[Any]
) -> tuple[_Kernels, Floats]:
    """Returns one width without a curve for the labels that it helps, and the (N, L) losses with it."""
    before = measure_losses(target, probs)
    losses = {width: _keep_lower(before, measure_losses(target, mean)) for width, mean in means.items()}
    width = min(losses, key=lambda each: float(losses[each].sum()))
    after = losses[width]
    if not is_better(before.sum(axis=1), after.sum(axis=1), patients):
        return [TIED] * target.shape[1], before
    return [Kernel(width, 1.0, 0.0) if helps else TIED for helps in (after != before).any(axis=0)], after


def _keep_lower(before: Floats, after: Floats) -> Floats:
    """(N, L) losses: for each label those with the lower sum, and those before for a tie."""
    return np.where(after.sum(axis=0) < before.sum(axis=0), after, before)


def _refine(
    target: Floats,
    probs: Floats,
    means: Mapping[float, Floats],
    patients: NDArray[Any],
    shared: _Kernels,
    losses: Floats,
) -> _Kernels:
    """Gives kernels of their own to the labels where these help new patients.

    A curve alone may lower the log loss, and a model gets one in its calibration anyway. So a kernel must
    also do better than a curve on the probabilities themselves.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        probs: (N, L) probabilities.
        means: (N, L) means by their width.
        patients: (N,) PatientID.
        shared: What becomes of each label otherwise.
        losses: (N, L) losses of that.
    """
    if len(np.unique(patients)) < OWN_PATIENTS:
        return shared
    before = _keep_lower(losses, _measure_on_others(target, {0.0: probs}, patients, losses))
    after = _keep_lower(before, _measure_on_others(target, means, patients, losses))
    if not is_better(before.sum(axis=1), after.sum(axis=1), patients):
        return shared
    kernels = list(shared)
    for label, fitted in enumerate(_fit_own(target, means, patients)):
        if fitted is not None and (after != before)[:, label].any():
            width, curve = fitted
            kernels[label] = Kernel(width, curve.slope, curve.intercept)
    return kernels


def _measure_on_others(
    target: Floats, means: Mapping[float, Floats], patients: NDArray[Any], losses: Floats
) -> Floats:
    """(N, L) losses on each group of patients, by kernels of the other groups; else those of ``losses``."""
    new, rows = losses.copy(), np.unique(patients, return_inverse=True)[1]
    for group in range(OWN_GROUPS):
        own = rows % OWN_GROUPS == group
        others = {width: mean[~own] for width, mean in means.items()}
        for label, fitted in enumerate(_fit_own(target[~own], others, patients[~own])):
            if fitted is not None:
                width, curve = fitted
                new[own, label] = measure_losses(target[own, label], curve.apply(means[width][own, label]))
    return new


def _fit_own(
    target: Floats, means: Mapping[float, Floats], patients: NDArray[Any]
) -> list[tuple[float, Platt] | None]:
    """Fits a width and a curve for each label; None for a label with too few cases."""
    fitted = []
    for label, known in enumerate(target.T):
        found = []
        for width, mean in means.items():
            curve = fit_calibrator(known, mean[:, label], "platt", patients=patients)
            if isinstance(curve, Platt):
                loss = float(measure_losses(known, curve.apply(mean[:, label])).sum())
                found.append((loss, (width, curve)))
        fitted.append(min(found, key=lambda pair: pair[0])[1] if found else None)
    return fitted


_Groups = Sequence[tuple[NDArray[np.intp], Floats]]
"""For each series with several known positions: the rows of its slices, and their distances in mm."""


def _group(positions: ArrayLike, series: ArrayLike) -> _Groups:
    places = np.asarray(positions, np.float64)
    known = np.flatnonzero(np.isfinite(places))
    rows = pd.Series(known).groupby(np.asarray(series)[known], sort=False)
    found = [each.to_numpy(np.intp) for _, each in rows if len(each) > 1]
    return [(each, np.abs(np.subtract.outer(places[each], places[each]))) for each in found]


def _average_all(probs: Floats, groups: _Groups, width: float) -> Floats:
    """(N, L) probabilities -> (N, L) means."""
    return np.stack([_average(column, groups, width) for column in probs.T], axis=1)


def _average(prob: Floats, groups: _Groups, width: float) -> Floats:
    """(N,) probabilities of one label -> (N,) means; those of no group stay as they are."""
    averaged = prob.copy()
    for rows, distances in groups:
        weights = np.exp(-0.5 * (distances / width) ** 2)
        averaged[rows] = np.minimum(weights @ prob[rows] / weights.sum(axis=1), 1.0)
    return averaged


def describe_kernels(smoothing: Smoothing | None) -> str:
    """Returns the labels that are smoothed, each with its width."""
    kernels = (smoothing or {}).items()
    widths = [f"{label} {each.width:g} mm" for label, each in kernels if isinstance(each, Kernel)]
    return ", ".join(widths) or "none"
