"""Groups slices by series, study and patient, and counts the labels of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema.labels import RSNA_LABELS, LabelSet

LEVELS = ("slice", "study", "patient")
"""Levels at which labels are counted."""


def number_units(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers the series, study and patient of each slice of an index.

    Returns:
        The columns ``slice``, ``series``, ``study`` and ``patient``: the same number, counted from 0, for
        slices that belong together. A slice without a PatientID is counted by its study.
    """
    study = pd.factorize(table["StudyInstanceUID"])[0]
    blank = (table["PatientID"].str.strip() == "").to_numpy()
    owner = pd.factorize(table["PatientID"])[0]
    owner[blank] = owner.max(initial=0) + 1 + study[blank]
    series = pd.factorize(table["SeriesInstanceUID"])[0]
    return pd.DataFrame(
        {
            "slice": np.arange(len(table)),
            "series": pd.factorize(study.astype(np.int64) * (series.max(initial=0) + 1) + series)[0],
            "study": study,
            "patient": pd.factorize(owner)[0],
        },
        index=table.index,
    )


@dataclass(frozen=True)
class LabelCounts:
    """Counts of labels at one level.

    A unit has a label if one of its slices has it. It lacks the label if all of them lack it, and otherwise
    it is unknown.

    Attributes:
        labels: The labels.
        positive: (L,) units with each of them.
        negative: (L,) units without it.
        unknown: (L,) units for which it is unknown.
        together: (L, L) units with both labels.
        subtypes: Units with none, one, ... all of ``labels.averaged``, among those with all of them known.
    """

    labels: LabelSet
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    unknown: NDArray[np.int64]
    together: NDArray[np.int64]
    subtypes: NDArray[np.int64]


def count_labels(
    targets: NDArray[np.float32], units: NDArray[np.int64], labels: LabelSet = RSNA_LABELS
) -> LabelCounts:
    """Counts the labels of units.

    Args:
        targets: (slices, L) 0, 1 or NaN.
        units: (slices,) the unit of each, numbered from 0.
        labels: The labels of the columns.
    """
    total = int(units.max(initial=-1)) + 1
    has, open_ = np.zeros((2, total, len(labels.names)), dtype=bool)
    for column in range(len(labels.names)):
        has[units[targets[:, column] == 1], column] = True
        open_[units[np.isnan(targets[:, column])], column] = True
    open_ &= ~has
    positive, unknown = has.sum(axis=0), open_.sum(axis=0)
    ones = has.astype(np.float64)  # products of floats are the fast ones, and exact up to 2**53
    subtypes = [labels.index(name) for name in labels.averaged]
    known = ~open_[:, subtypes].any(axis=1)
    return LabelCounts(
        labels=labels,
        positive=positive,
        negative=total - positive - unknown,
        unknown=unknown,
        together=(ones.T @ ones).round().astype(np.int64),
        subtypes=np.bincount(has[known][:, subtypes].sum(axis=1), minlength=len(subtypes) + 1),
    )


def count_conflicts(targets: NDArray[np.float32], labels: LabelSet = RSNA_LABELS) -> int:
    """Counts slices whose union, such as ``any``, is not what their other labels say; 0 without a union.

    Args:
        targets: (slices, L) 0, 1 or NaN. A slice with an unknown label conflicts only if it is certain.
        labels: The labels of the columns.
    """
    if labels.union is None:
        return 0
    place = labels.index(labels.union)
    union, others = targets[:, place], np.delete(targets, place, axis=1)
    missed = (union == 0) & (others == 1).any(axis=1)
    unfounded = (union == 1) & (others == 0).all(axis=1)
    return int((missed | unfounded).sum())
