"""Checks of a predictions table before its evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import (
    PROB_COLUMNS,
    WEIGHTS_COLUMN,
    find_label_set,
    find_names,
    find_study_targets,
    name_columns,
    require_columns,
    require_probs,
)

Tables = Mapping[str, pd.DataFrame]

UNCHECKED = (
    "The predictions do not name the weights that made them. It could not be checked whether the "
    "checkpoint belongs to the same model."
)
"""Note for a reader if nothing shows that predictions and checkpoint belong together."""

_SHORT = 12  # characters of a SHA-256 in a message


def check_predictions(predictions: pd.DataFrame, name: str = "the predictions table") -> None:
    """Checks a predictions table.

    Raises:
        UserError: If it is not a valid table, is empty, has a slice twice or holds impossible values.
    """
    names = find_names(predictions)
    prob_columns, target_columns = name_columns("prob", names), name_columns("target", names)
    columns = ("SOPInstanceUID", "PatientID", "part", *(prob_columns or PROB_COLUMNS), *target_columns)
    require_columns(predictions, columns, name)
    if predictions.empty:
        raise UserError(f"{name} is empty: there is nothing to evaluate")
    if twice := int(predictions["SOPInstanceUID"].duplicated().sum()):
        raise UserError(f"{name} has {twice} slices more than once: give it one row per slice")
    if nameless := int(predictions["PatientID"].replace("", None).isna().sum()):
        raise UserError(f"{name} lacks the PatientID of {nameless} slices")
    require_probs(predictions, prob_columns, name)
    target = predictions[target_columns + find_study_targets(predictions)].to_numpy(np.float64)
    if not (np.isnan(target) | (target == 0) | (target == 1)).all():
        raise UserError(f"{name} holds targets other than 0, 1 and unknown (empty)")


def check_validation(validation: pd.DataFrame, predictions: pd.DataFrame) -> None:
    """Checks the table for fitting calibration and operating points.

    Raises:
        UserError: If it is not a predictions table, or holds all the slices that are evaluated.
    """
    check_predictions(validation, "the validation table")
    if predictions["SOPInstanceUID"].isin(validation["SOPInstanceUID"]).all():
        raise UserError(
            "the validation table holds all slices of the predictions table, so operating points would be "
            "tested on the data that chose them; give the table of another set"
        )


def check_weights(tables: Sequence[pd.DataFrame], weights: Sequence[str], source: str) -> bool:
    """Checks that the predictions come from a model.

    Args:
        tables: Predictions tables. If the mean of several is evaluated, one of them must come from the model.
        weights: SHA-256 of the weights of the model, or of each member of an ensemble.
        source: File of the model, for messages.

    Returns:
        True if a table names such weights in every row. False if a table does not say which weights made it.

    Raises:
        UserError: If every table names other weights.
    """
    named = [set(table[WEIGHTS_COLUMN]) for table in tables]
    if not any(names <= {*weights, ""} for names in named):
        others = sorted(set.union(*named) - {*weights, ""})
        listed = ", ".join(f"{name[:_SHORT]}..." for name in others[:3])
        raise UserError(
            f"{source} did not make the predictions: the SHA-256 of its weights is {weights[0][:_SHORT]}..., "
            f"but the predictions name {listed}. Give the model that made them, or predict with this one"
        )
    return any(names <= set(weights) for names in named)


def check_same_weights(predictions: pd.DataFrame, validation: pd.DataFrame, source: str) -> None:
    """Checks that one model made both a table and that of its validation set, if both name their weights.

    Args:
        predictions: A predictions table.
        validation: Predictions table of the validation set.
        source: File of the validation table, for messages.

    Raises:
        UserError: If they name different weights.
    """
    one, other = (set(table[WEIGHTS_COLUMN]) - {""} for table in (predictions, validation))
    if one and other and one.isdisjoint(other):
        raise UserError(
            f"{source} is from another model than the predictions: it names the weights "
            f"{min(other)[:_SHORT]}..., they name {min(one)[:_SHORT]}...; give the validation table of the "
            "same model"
        )


def check_labels(names: Sequence[str], labels: LabelSet, name: str = "the predictions table") -> None:
    """Checks that a table has the expected labels, in their order.

    Raises:
        UserError: If it has others.
    """
    if tuple(names) != labels.names:
        raise UserError(
            f"{name} has the labels {', '.join(names)}; expected {', '.join(labels.names)}, which are those "
            "of the model, the run or the other table"
        )


def check_prevalences(prevalences: Sequence[float], labels: int) -> NDArray[np.float64]:
    """Returns prevalences, one for each label, as an array; NaN where one is unknown.

    Raises:
        UserError: If there are more or fewer than labels, or one is not between 0 and 1.
    """
    values = np.asarray(prevalences, np.float64)
    if values.shape != (labels,) or ((values < 0) | (values > 1)).any():
        raise UserError(f"training_prevalences={values.tolist()}: expected {labels} values in [0, 1]")
    return values


def align(tables: Tables) -> dict[str, pd.DataFrame]:
    """Sorts tables of the same slices into the order of the first.

    Args:
        tables: Predictions tables by the name of their model.

    Raises:
        UserError: If there are not two or more of them, or they differ in slices, patients or targets.
    """
    if len(tables) < 2:
        raise UserError(f"{len(tables)} predictions table: expected two or more for the same slices")
    for name, table in tables.items():
        check_predictions(table, f"the predictions table {name}")
    first, *others = tables
    aligned = {first: tables[first].reset_index(drop=True)}
    for name in others:
        check_labels(find_names(tables[name]), find_label_set(tables[first]), f"the predictions table {name}")
        aligned[name] = _follow(aligned[first], tables[name], (first, name))
    return aligned


def _follow(first: pd.DataFrame, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Sorts the rows of ``table`` into the order of ``first``."""
    a, b = names
    key = "SOPInstanceUID"
    only_a, only_b = (
        int((~one[key].isin(other[key])).sum()) for one, other in ((first, table), (table, first))
    )
    if only_a or only_b:
        raise UserError(
            f"the predictions tables {a} and {b} have different slices: {only_a} are in {a} only, {only_b} "
            f"in {b} only"
        )
    ordered = table.set_index(key).loc[first[key]].reset_index()
    if others := int((ordered["PatientID"].to_numpy() != first["PatientID"].to_numpy()).sum()):
        raise UserError(
            f"the predictions tables {a} and {b} name different patients for {others} of their slices"
        )
    targets = name_columns("target", find_names(first)) + find_study_targets(first)
    require_columns(table, targets, f"the predictions table {b}")
    here, there = (t[targets].to_numpy(np.float64) for t in (first, ordered))
    if others := int((np.nan_to_num(here, nan=-1) != np.nan_to_num(there, nan=-1)).any(axis=1).sum()):
        raise UserError(
            f"the predictions tables {a} and {b} differ in the targets of {others} slices: "
            "make both from the same labels"
        )
    return ordered
