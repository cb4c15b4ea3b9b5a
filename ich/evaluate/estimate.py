"""Figures with their intervals, and what becomes of them in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ich.schema import UserError


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where it is not available.

    It formats like a float, ``f"{estimate:.3f}"``: ``0.912 (0.880-0.940)``, or ``n/a``.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "n/a"
        return f"{self.value:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], patients: int, replicates: int, seed: int
) -> list[Estimate]:
    """Estimates figures by drawing patients with replacement.

    Args:
        statistic: Takes (patients,) how often each patient is drawn and returns (K,) figures, NaN where one
            is not available.
        patients: Their number.
        replicates: Samples drawn.
        seed: Of the drawing.

    Returns:
        K estimates; samples without a figure are left out of its interval.

    Raises:
        UserError: If ``replicates`` is not positive.
    """
    if replicates < 1:
        raise UserError(f"replicates={replicates}: expected at least 1")
    rng = np.random.default_rng(seed)
    draws = (rng.integers(patients, size=patients) for _ in range(replicates))
    samples = np.array([statistic(np.bincount(d, minlength=patients).astype(np.float64)) for d in draws])
    values = statistic(np.ones(patients))
    return [_estimate(value, sample) for value, sample in zip(values, samples.T, strict=True)]


def _estimate(value: float, sample: NDArray[np.float64]) -> Estimate:
    sample = sample[~np.isnan(sample)]
    if math.isnan(value) or not sample.size:
        return Estimate(float(value), math.nan, math.nan)
    low, high = np.percentile(sample, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return to_plain(value) if is_dataclass(value) else value


def to_plain(figures: Any) -> dict[str, Any]:
    """Returns a dataclass as plain values: an estimate as ``x`` and ``x_interval``, None for NaN."""
    plain: dict[str, Any] = {}
    for name in (field.name for field in fields(figures)):
        value = getattr(figures, name)
        if isinstance(value, Estimate):
            plain[name] = _plain(value.value)
            plain[f"{name}_interval"] = [_plain(value.low), _plain(value.high)]
        else:
            plain[name] = _plain(value)
    return plain
