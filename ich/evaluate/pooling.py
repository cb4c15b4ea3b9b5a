"""Pools slices to series, studies and patients, with one probability and one target for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema import UserError
from ich.tables import (
    PROB_COLUMNS,
    SLAB_COLUMN,
    find_names,
    find_study_targets,
    hides_slices,
    name_columns,
    require_columns,
)

log = logging.getLogger(__name__)

LEVELS = ("slice", "series", "study", "patient")
"""Levels of evaluation. Slices, series and studies are units of their patient."""

DEFAULT_LEVELS = ("slice", "study", "patient")

UNIT_COLUMNS = {
    "slice": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "patient": "PatientID",
}

METHODS = ("max", "mean", "top3_mean", "top5_mean", "noisy_or")
"""How slices become one probability: the highest; their mean; the mean of the three or five highest; the
chance that at least one is positive if slices were independent, ``1 - prod(1 - p)``."""

DEFAULT_POOLING = "max"

TOP = {"top3_mean": 3, "top5_mean": 5}
"""How many of the highest probabilities are averaged."""


def pool(predictions: pd.DataFrame, level: str, method: str = DEFAULT_POOLING) -> pd.DataFrame:
    """Pools the slices of each unit into one row.

    Args:
        predictions: A predictions table. A slab of averaged slices (``SLAB_COLUMN``) counts once.
        level: One of ``LEVELS``; ``slice`` leaves every slice as it is.
        method: One of ``METHODS``.

    Returns:
        One row per unit in order of first appearance: ``unit`` (the UID or PatientID), ``PatientID``,
        ``part``, ``slices`` (their number), a probability and a target for each label. The target is 1 if a
        slice has 1, else NaN if one is unknown, else 0. For studies and patients, the slices of a study with
        a known target of its own have this target.

    Raises:
        UserError: If level or method is unknown, if slices do not name their unit, or if a unit belongs to
            several patients.
    """
    if level not in LEVELS:
        raise UserError(f"level={level}: expected one of {', '.join(LEVELS)}")
    if method not in METHODS:
        raise UserError(f"pooling={method}: expected one of {', '.join(METHODS)}")
    key = UNIT_COLUMNS[level]
    names = find_names(predictions)
    prob_columns, target_columns = name_columns("prob", names), name_columns("target", names)
    needed = (key, "PatientID", "part", *(prob_columns or PROB_COLUMNS), *target_columns)
    require_columns(predictions, needed, "the predictions table")
    codes, units = pd.factorize(predictions[key].replace("", None))
    if nameless := int((codes < 0).sum()):
        raise UserError(
            f"the predictions table lacks the {key} of {nameless} slices, so an evaluation by {level} is "
            "not possible"
        )
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(units)))
    first = predictions.iloc[order[starts]]
    table = pd.DataFrame(
        {
            "unit": units.to_numpy(),
            "PatientID": first["PatientID"].to_numpy(),
            "part": first["part"].to_numpy(),
            "slices": np.diff(starts, append=len(codes)),
        }
    )
    if mixed := int((predictions["PatientID"].to_numpy() != table["PatientID"].to_numpy()[codes]).sum()):
        raise UserError(
            f"{mixed} slices share their {key} with another patient: give each {key} to one patient only"
        )
    probs, target = (predictions[c].to_numpy(np.float64) for c in (prob_columns, target_columns))
    if level != "slice" and len(starts):
        kept = order[_is_first_of_slab(predictions)[order]]
        firsts = np.searchsorted(codes[kept], np.arange(len(units)))
        probs = _combine(probs[kept], codes[kept], firsts, method)
    table[prob_columns] = probs
    if level in ("study", "patient") and (study_columns := find_study_targets(predictions)):
        of_study = predictions[study_columns].to_numpy(np.float64)
        target = np.where(np.isnan(of_study), target, of_study)
    # Positive over unknown over negative: 1 > 0 > -1.
    ranked = np.select([target == 1, np.isnan(target)], [1.0, 0.0], -1.0)[order]
    highest = np.maximum.reduceat(ranked, starts) if len(starts) else ranked
    table[target_columns] = np.select([highest == 1, highest == 0], [1.0, np.nan], 0.0)
    return table


def _is_first_of_slab(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    """(rows,) whether a row is the first of its slab: averaged slices share one prediction."""
    if SLAB_COLUMN not in predictions:
        return np.ones(len(predictions), bool)
    repeated = predictions.duplicated(["StudyInstanceUID", "SeriesInstanceUID", SLAB_COLUMN])
    return (~repeated | predictions[SLAB_COLUMN].isna()).to_numpy()


def find_levels(predictions: pd.DataFrame, name: str) -> list[str]:
    """Finds the levels that a table can be evaluated at. Those with contradicting UIDs are warned of.

    Args:
        predictions: A predictions table.
        name: Name of the table, for the warning about a level that it cannot be pooled to.

    Returns:
        Those of ``DEFAULT_LEVELS``.
    """
    levels, known = [], keep_known(DEFAULT_LEVELS, predictions)
    if len(known) < len(DEFAULT_LEVELS):
        log.info("no figures for %s by slice: positive studies are labeled, but not their slices", name)
    for level in known:
        try:
            pool(predictions, level)
        except UserError as error:
            log.warning("no figures for %s by %s: %s", name, level, error)
        else:
            levels.append(level)
    return levels


def choose_pooling(predictions: pd.DataFrame) -> str:
    """Chooses how slices are pooled: several count if labels of studies taught the model, else the highest.

    Such a training compares the highest slices of a study with its label. A single slice is less certain; see
    ``benchmarks/study_labels.py``.

    Args:
        predictions: A predictions table.

    Returns:
        One of ``METHODS``.
    """
    return "top3_mean" if find_study_targets(predictions) else DEFAULT_POOLING


def keep_known(levels: Sequence[str], predictions: pd.DataFrame) -> list[str]:
    """Leaves out slices and series where the targets of studies say less than figures of them need."""
    hidden = ("slice", "series") if hides_slices(predictions) else ()
    return [level for level in levels if level not in hidden]


def pool_unit(probs: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """Pools the (N, L) probabilities of one unit's slices to its (L,), by one of ``METHODS``.

    Raises:
        UserError: If the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f"pooling={method}: expected one of {', '.join(METHODS)}")
    one = np.zeros(len(probs), np.intp)
    return np.asarray(_combine(probs, one, one[:1], method)[0])


def _combine(
    probs: NDArray[np.float64], codes: NDArray[np.intp], starts: NDArray[np.intp], method: str
) -> NDArray[np.float64]:
    """Pools (N, L) probabilities of slices, unit by unit, to (U, L); units begin at ``starts``."""
    sizes = np.diff(starts, append=len(codes))
    if method == "max":
        return np.maximum.reduceat(probs, starts)
    if method == "mean":
        return np.add.reduceat(probs, starts) / sizes[:, None]
    if method == "noisy_or":
        with np.errstate(divide="ignore"):  # a slice with 1 gives its unit 1, because exp(-inf) is 0
            return -np.expm1(np.add.reduceat(np.log1p(-probs), starts))
    falling = np.stack([column[np.lexsort((-column, codes))] for column in probs.T], axis=1)
    rank = np.arange(len(codes)) - np.repeat(starts, sizes)
    top = np.where(rank[:, None] < TOP[method], falling, 0.0)
    return np.add.reduceat(top, starts) / np.minimum(sizes, TOP[method])[:, None]
