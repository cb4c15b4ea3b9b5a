"""Figures by scanner encoding, slice thickness, tilt or any other column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pandas as pd

from ich.calibration import Decision
from ich.evaluate.checks import check_predictions
from ich.evaluate.estimate import REPLICATES, draw_patients
from ich.evaluate.levels import estimate_areas, measure_point
from ich.evaluate.pooling import DEFAULT_POOLING, UNIT_COLUMNS
from ich.evaluate.units import Patients, Units
from ich.index.encodings import list_encodings
from ich.schema import UserError
from ich.tables import INDEX_DTYPES, require_columns

SUBGROUP_COLUMNS = (
    "column",
    "group",
    "label",
    "units",
    "positives",
    "patients",
    "figure",
    "value",
    "low",
    "high",
    "reason",
)

MAX_GROUPS = 12
"""Number of groups with their own figures; the rarer values of a column with more form one group."""

UNKNOWN, MIXED, OTHER = "unknown", "mixed", "other"


def subgroups(
    predictions: pd.DataFrame,
    by: pd.Series,
    *,
    level: str = "slice",
    pooling: str = DEFAULT_POOLING,
    decision: Decision | None = None,
    labels: Sequence[str] | None = None,
    bins: int = 4,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """Computes figures for each group of slices, with intervals by a bootstrap over the group's patients.

    Args:
        predictions: A predictions table.
        by: Group of each row, one value per row in their order; its name is that of the grouping. Numbers
            with more than ``bins`` distinct values are cut at quantiles. A study (series, patient) has the
            median of its slices' numbers, or the text that they share; without one it is ``mixed``.
        level: One of ``ich.evaluate.pooling.LEVELS``.
        pooling: One of ``ich.evaluate.pooling.METHODS``; that of ``decision`` takes precedence.
        decision: Decision with the operating points, for sensitivity and specificity.
        labels: Some of the labels; by default all.
        bins: Groups that numbers are cut into.
        replicates: Bootstrap samples.
        seed: Random seed for the resampling.

    Returns:
        One row for each group, label and figure (``auroc``, ``average_precision``, ``sensitivity``,
        ``specificity``): ``SUBGROUP_COLUMNS``. Figures of groups with too few patients have a reason and no
        interval.

    Raises:
        UserError: If the table is not a predictions table, or ``by`` has another length.
    """
    check_predictions(predictions)
    if len(by) != len(predictions):
        raise UserError(
            f"{by.name} has {len(by)} values for {len(predictions)} slices: expected one per slice"
        )
    groups = _group(_describe_units(by, predictions[UNIT_COLUMNS[level]]), bins)
    how = pooling if decision is None else decision.pooling
    rows = []
    for group in groups.cat.categories:
        part = predictions[(groups == group).to_numpy()]
        patients = Patients(part)
        counts = draw_patients(len(patients), replicates, seed)
        units = Units(part, patients, level, how, decision)
        for label in labels or units.names:
            column = units.column(label)
            areas = estimate_areas(column, *column.score_areas(counts))
            point = measure_point(column, counts, decision, ())
            found = column.counts
            head = (by.name, group, label, found.units, found.positives, found.patients)
            figures = {
                "auroc": areas.auroc,
                "average_precision": areas.average_precision,
                "sensitivity": point.sensitivity,
                "specificity": point.specificity,
            }
            rows += [(*head, name, *astuple(figure)) for name, figure in figures.items()]
    return pd.DataFrame(rows, columns=list(SUBGROUP_COLUMNS))


def describe_slices(predictions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Describes each slice by columns of the index that may group it.

    Args:
        predictions: A predictions table.
        index: An index of the same data.

    Returns:
        One row per slice in the order of ``predictions``; missing if the index lacks the slice:

        - ``encoding``: bits, sign, slope and intercept of the stored values, which distinguish scanners
        - ``slice_spacing``: median distance of neighboring slices of the series, mm
        - ``tilt``: tilt of the gantry in degrees, to a tenth, without its sign
    """
    require_columns(index, tuple(INDEX_DTYPES), "the index")
    ordered = index.sort_values("position")
    gaps = ordered.groupby("SeriesInstanceUID")["position"].diff()
    spacing = gaps[gaps > 0].groupby(ordered["SeriesInstanceUID"]).median().round(2)
    numbers, encodings = list_encodings(index)
    described = pd.DataFrame(
        {
            "encoding": np.array(list(map(str, encodings)), dtype=object)[numbers],
            "slice_spacing": index["SeriesInstanceUID"].map(spacing).to_numpy(),
            "tilt": index["tilt"].abs().round(1).to_numpy(),
        },
        index=index["SOPInstanceUID"],
    )
    return described.reindex(predictions["SOPInstanceUID"]).reset_index(drop=True)


def _describe_units(by: pd.Series, units: pd.Series) -> pd.Series:
    """Returns the value of each row's unit: the median of numbers, the shared text, or ``mixed``."""
    values = pd.Series(by.to_numpy(), name=by.name)
    groups = values.groupby(units.to_numpy(), sort=False)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return groups.transform("median")
    texts = values.astype("str").where(values.notna())
    groups = texts.groupby(units.to_numpy(), sort=False)
    return groups.transform("first").mask(groups.transform("nunique") > 1, MIXED)


def _group(values: pd.Series, bins: int) -> pd.Series:
    """Names the group of each value; the categories are in order, ``unknown`` last."""
    if pd.api.types.is_numeric_dtype(values):
        if values.nunique() > bins:
            edges = np.unique(values.quantile(np.linspace(0, 1, bins + 1)))
            order = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
            # A value on an edge belongs to the group below it.
            place = np.searchsorted(edges, values, "left").clip(1, len(edges) - 1) - 1
            named = pd.Series(np.array(order, object)[place]).where(values.notna())
        else:
            order = [f"{value:g}" for value in np.sort(values.dropna().unique())]
            named = values.map(lambda value: f"{value:g}", na_action="ignore").astype("object")
    else:
        frequent = values.value_counts().index[:MAX_GROUPS]
        named = values.where(values.isin(frequent) | values.isna(), OTHER).astype("object")
        order = sorted(frequent) + [OTHER] * bool((named == OTHER).any() and OTHER not in frequent)
    if named.isna().any():
        order = [*(name for name in order if name != UNKNOWN), UNKNOWN]
    return pd.Series(pd.Categorical(named.where(named.notna(), UNKNOWN), categories=order))
