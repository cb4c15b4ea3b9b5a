"""What is drawn of a model, as plain arrays: curves with their bands, histograms, timelines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema import UserError
from ich.tables import find_names, name_columns

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A curve on a fixed grid, with the 95 % band of the bootstrap at each point of the grid.

    Attributes:
        x: (G,) the grid: false positive rate of an ROC curve, recall of a precision-recall curve.
        y: (G,) the curve of the table itself.
        low: (G,) lower end of the band.
        high: (G,) upper end.
    """

    x: Floats
    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Reliability:
    """What was predicted against what was found, in bins of equal width; NaN where a bin is empty.

    Attributes:
        edges: (B + 1,) of the bins over [0, 1].
        units: (B,) how many units fall into each.
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
    """How many units have a probability within each bin.

    Attributes:
        edges: (B + 1,) of the bins over [0, 1].
        positives: (B,) units that have the label.
        negatives: (B,) units that do not.
    """

    edges: Floats
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]


@dataclass(frozen=True)
class Curves:
    """What is drawn of one label at one level; a curve is None where its figures are not available.

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


@dataclass(frozen=True)
class Timeline:
    """The slices of one series in their order, which name nobody.

    Attributes:
        rows: (N,) of the predictions table, from 0.
        position: (N,) mm along the slice normal, from feet to head; NaN where it is not known, and then in
            the table's order.
        probs: (N, L) raw probabilities.
        target: (N, L) 0 or 1; NaN where unknown.
    """

    rows: NDArray[np.int64]
    position: Floats
    probs: Floats
    target: Floats


def trace_study(predictions: pd.DataFrame, study: str, index: pd.DataFrame | None = None) -> list[Timeline]:
    """Follows the slices of a study from bottom to top.

    Args:
        predictions: A predictions table.
        study: A StudyInstanceUID in it.
        index: An index of the same data; without it slices stay in the order of the table.

    Returns:
        A timeline a series.

    Raises:
        UserError: If the table has no such study.
    """
    rows = np.flatnonzero(predictions["StudyInstanceUID"] == study)
    if not len(rows):
        raise UserError(
            f"the predictions table has no study {study}", kept="the predictions table lacks the study"
        )
    slices = predictions.iloc[rows].assign(row=rows, position=np.nan)
    if index is not None:
        known = index.drop_duplicates("SOPInstanceUID").set_index("SOPInstanceUID")["position"]
        slices["position"] = slices["SOPInstanceUID"].map(known)
    names = find_names(predictions)
    return [
        Timeline(
            series["row"].to_numpy(np.int64),
            series["position"].to_numpy(np.float64),
            series[name_columns("prob", names)].to_numpy(np.float64),
            series[name_columns("target", names)].to_numpy(np.float64),
        )
        for _, series in slices.sort_values("position", kind="stable").groupby(
            "SeriesInstanceUID", sort=False
        )
    ]
