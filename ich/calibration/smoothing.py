"""Averages the probabilities of neighboring slices, with weights that fall with their distance in mm.

A hemorrhage usually extends over several slices, so the neighbors of a slice say something about it. Each
label has its own kernel, because a small hemorrhage bears less smoothing than a large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ich.calibration import NotFitted, Platt, find_obstacle, fit_calibrator
from ich.calibration.choice import is_better, measure_losses
from ich.calibration.fits import Floats
from ich.schema.formats import ChosenBy, Number, Positive, check_keys

WIDTHS = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 14.0, 20.0)
"""Widths to choose from, mm. With slices of 5 mm, a neighbor has from 0.25 to 0.97 of the slice's weight."""


@dataclass(frozen=True)
class Kernel:
    """The mean over the slices of a series, a slice at distance d with the weight exp(-d^2 / (2 width^2)).

    Nadaraya, On Estimating Regression, Theory of Probability and Its Applications 1964;9:141. A mean is less
    sure of itself than its parts, so sigmoid(slope * logit(mean) + intercept) follows.

    Attributes:
        width: Standard deviation of the Gaussian, mm.
        slope: Slope on the logits of the means.
        intercept: Intercept on the logits of the means.
    """

    width: Positive
    slope: Positive
    intercept: Number


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
    """Chooses the kernel of each label: the width with the lowest log loss, if this is better than none.

    Both losses are those after Platt's calibration. Calibration alone therefore does not count as a gain.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        probs: (N, L) probabilities.
        positions: (N,) along the slice normal, mm; NaN where unknown.
        series: (N,) the series of each slice.
        patients: (N,) PatientID.
        names: The L labels.

    Returns:
        A kernel for each label, or the reason why there is none. ``is_better`` decides.
    """
    groups = _group(positions, series)
    columns = zip(names, np.asarray(target, np.float64).T, np.array(probs, np.float64).T, strict=True)
    return {name: _fit(known, prob, groups, patients) for name, known, prob in columns}


def _fit(target: Floats, prob: Floats, groups: _Groups, patients: ArrayLike) -> Kernel | NotFitted:
    if not groups:
        return NotFitted("no series with the positions of several slices")
    if obstacle := find_obstacle(target, prob, "platt", patients=patients):
        return NotFitted(obstacle)
    before = measure_calibrated(target, prob, patients)
    after = {width: measure_calibrated(target, _average(prob, groups, width), patients) for width in WIDTHS}
    choices = [(width, *found) for width, found in after.items() if found is not None]
    if before is None or not choices:
        return TIED
    width, losses, curve = min(choices, key=lambda choice: float(choice[1].sum()))
    return Kernel(width, curve.slope, curve.intercept) if is_better(before[0], losses, patients) else TIED


def measure_calibrated(target: Floats, prob: Floats, patients: ArrayLike) -> tuple[Floats, Platt] | None:
    """Returns (N,) losses of one label after Platt's calibration, and its curve; None if it has none."""
    curve = fit_calibrator(target, prob, "platt", patients=patients)
    return (measure_losses(target, curve.apply(prob)), curve) if isinstance(curve, Platt) else None


_Groups = Sequence[tuple[NDArray[np.intp], Floats]]
"""For each series with several known positions: the rows of its slices, and their distances in mm."""


def _group(positions: ArrayLike, series: ArrayLike) -> _Groups:
    places = np.asarray(positions, np.float64)
    known = np.flatnonzero(np.isfinite(places))
    rows = pd.Series(known).groupby(np.asarray(series)[known], sort=False)
    found = [each.to_numpy(np.intp) for _, each in rows if len(each) > 1]
    return [(each, np.abs(np.subtract.outer(places[each], places[each]))) for each in found]


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
