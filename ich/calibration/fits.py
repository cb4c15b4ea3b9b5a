"""Calibration curves on arrays: logistic and isotonic regression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
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
    design = np.stack(columns, axis=1)  # (N, 1) or (N, 2)
    weights = np.zeros(len(columns))
    loss = _loss(design @ weights, target)
    for _ in range(_STEPS):
        prob = expit(design @ weights)
        curvature = (design * (prob * (1 - prob))[:, None]).T @ design
        step = np.linalg.lstsq(curvature, design.T @ (target - prob))[0]
        for _ in range(_HALVINGS):
            if (stepped := _loss(design @ (weights + step), target)) <= loss:
                break
            step /= 2
        else:
            break  # no further down within the precision of numbers
        weights, loss = weights + step, stepped
        if np.abs(step).max() <= _TOLERANCE * (1 + np.abs(weights).max()):
            break
    slope = float(weights[0] / scale)
    return slope, float(weights[1] - slope * center) if with_intercept else 0.0


def _loss(logits: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0, logits) - target * logits))


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
