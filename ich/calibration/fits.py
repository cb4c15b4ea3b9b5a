"""Calibration curves on arrays: logistic and isotonic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]

MAX_KNOTS = 64
"""Maximum number of points of an isotonic curve, so that the model metadata stay short."""

_STEPS, _HALVINGS, _TOLERANCE = 100, 30, 1e-12


def fit_logistic(x: Floats, target: Floats, *, with_intercept: bool) -> tuple[float, float]:
    """Maximum likelihood of P(target = 1) = 1 / (1 + exp(-(slope * x + intercept))), by Newton's method.

    Args:
        x: (N,) values of both classes. If targets are 0 and 1, the classes must overlap, or there is no
            maximum.
        target: (N,) from 0 to 1.
        with_intercept: Whether to fit the intercept; otherwise it is 0.

    Returns:
        Slope and intercept.
    """
    center = x.mean() if with_intercept else 0.0
    scale = np.abs(x - center).max()
    columns = [(x - center) / scale] + [np.ones_like(x)] * with_intercept
    none = np.zeros(len(columns))
    weights = _find_peak(np.stack(columns, axis=1), target, np.ones_like(x), mean=none, precision=none)
    slope = float(weights[0] / scale)
    return slope, float(weights[1] - slope * center) if with_intercept else 0.0


def fit_shrunk_logistic(
    x: Floats, target: Floats, counts: Floats, *, slope_sd: float, intercept_sd: float
) -> tuple[float, float]:
    """The curve of ``fit_logistic`` with the highest posterior density, given a prior around no change.

    The prior of slope and intercept is normal around 1 and 0, so there is one peak for any data. Without data
    the peak is there. With much data it is that of the likelihood.

    Args:
        x: (N,) values.
        target: (N,) 0 or 1.
        counts: (N,) how much each row counts; 1 for a row of its own.
        slope_sd: Standard deviation of the slope's prior.
        intercept_sd: Standard deviation of the intercept's prior.

    Returns:
        Slope and intercept. The slope is not above 0 if the data say strongly that the curve falls.
    """
    design = np.stack([x, np.ones_like(x)], axis=1)
    precision = np.array([slope_sd, intercept_sd]) ** -2.0
    slope, intercept = _find_peak(design, target, counts, mean=np.array([1.0, 0.0]), precision=precision)
    return float(slope), float(intercept)


def _find_peak(design: Floats, target: Floats, counts: Floats, *, mean: Floats, precision: Floats) -> Floats:
    """Weights (K,) of the columns of ``design`` (N, K) with the highest likelihood times normal prior."""

    def measure(weights: Floats) -> float:
        logits = design @ weights
        loss = np.sum(counts * (np.logaddexp(0, logits) - target * logits))
        return float(loss + np.sum(precision * (weights - mean) ** 2) / 2)

    weights = mean
    loss = measure(weights)
    for _ in range(_STEPS):
        prob = expit(design @ weights)
        curvature = (design * (counts * prob * (1 - prob))[:, None]).T @ design + np.diag(precision)
        slope = design.T @ (counts * (target - prob)) - precision * (weights - mean)
        step = np.linalg.lstsq(curvature, slope)[0]
        for _ in range(_HALVINGS):
            if (stepped := measure(weights + step)) <= loss:
                break
            step /= 2
        else:
            break  # no further down within the precision of numbers
        weights, loss = weights + step, stepped
        if np.abs(step).max() <= _TOLERANCE * (1 + np.abs(weights).max()):
            break
    return weights


def fit_isotonic(x: Floats, target: Floats) -> tuple[list[float], list[float]]:
    """Fits the rising curve of least squares, as knots with straight lines between them.

    Pool adjacent violators gives steps (Barlow et al., Statistical Inference under Order Restrictions, 1972).
    If they need more than ``MAX_KNOTS`` knots, neighboring steps are joined. The smallest additional squared
    error comes first: n1 * n2 / (n1 + n2) * (difference of values)^2.

    Args:
        x: (N,).
        target: (N,) 0 or 1.

    Returns:
        The places of the knots, strictly rising, and the values of the curve there, which never fall.
    """
    from scipy.optimize import isotonic_regression  # slow to import, and not needed to apply a model

    places, rows, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(rows, weights=target) / counts
    fitted = isotonic_regression(means, weights=counts.astype(np.float64))
    starts, stops = fitted.blocks[:-1], fitted.blocks[1:]
    first, last = list(places[starts]), list(places[stops - 1])
    values = list(fitted.x[starts])
    sizes = list(np.add.reduceat(counts, starts).astype(np.float64))
    while sum(1 + (a < b) for a, b in zip(first, last, strict=True)) > MAX_KNOTS:
        size, value = np.array(sizes), np.array(values)
        added = size[:-1] * size[1:] / (size[:-1] + size[1:]) * np.diff(value) ** 2
        i = int(added.argmin())
        joined = sizes[i] + sizes[i + 1]
        values[i : i + 2] = [(values[i] * sizes[i] + values[i + 1] * sizes[i + 1]) / joined]
        sizes[i : i + 2] = [joined]
        del first[i + 1], last[i]
    knots = [
        (float(place), float(value))
        for a, b, value in zip(first, last, values, strict=True)
        for place in ([a, b] if a < b else [a])
    ]
    return [place for place, _ in knots], [min(max(value, 0.0), 1.0) for _, value in knots]
