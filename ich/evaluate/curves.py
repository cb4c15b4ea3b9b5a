"""Data for pictures, as arrays: curves with their bands, and histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A curve on a fixed grid, with the 95 % band of the bootstrap at each point of the grid.

    Attributes:
        x: (G,) the grid: false positive rate of an ROC curve, recall of a precision-recall curve.
        y: (G,) the curve of the table.
        low: (G,) lower end of the band.
        high: (G,) upper end.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed shares in bins of equal width; NaN for an empty bin.

    Attributes:
        edges: (B + 1,) edges of the bins over [0, 1].
        units: (B,) number of units in each bin.
        predicted: (B,) their mean probability.
        observed: (B,) their share of positives.
        low: (B,) lower end of the 95 % band of ``observed``.
        high: (B,) upper end.
    """

    edges: Floats
    units: NDArray[np.int64]
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Histogram:
    """Number of units with a probability in each bin.

    Attributes:
        edges: (B + 1,) edges of the bins over [0, 1].
        positives: (B,) units that have the label.
        negatives: (B,) units that do not.
    """

    edges: Floats
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]


@dataclass(frozen=True)
class Curves:
    """The curves of one label at one level; a curve is None if its figures are not available.

    Attributes:
        roc: True positive rate over false positive rate, of the raw probabilities.
        precision_recall: Precision over recall, of the raw probabilities.
        reliability: Reliability of the raw probabilities.
        reliability_calibrated: Reliability of the calibrated probabilities; None without a calibration.
        histogram: Histogram of the raw probabilities.
    """

    roc: Band | None
    precision_recall: Band | None
    reliability: Reliability | None
    reliability_calibrated: Reliability | None
    histogram: Histogram
