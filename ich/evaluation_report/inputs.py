"""The inputs of an evaluation: tables, labels, index and checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pandas as pd

from ich.evaluate.checks import check_same_weights
from ich.evaluate.comparison import ensemble
from ich.evaluate.pooling import LEVELS, UNIT_COLUMNS, keep_known
from ich.evaluate.subgroups import describe_slices
from ich.evaluation_report.run import Run, read_run
from ich.index import build_index
from ich.index.columns import STUDY_KEYS, choose_key
from ich.index.csv_files import read_csv
from ich.index.joining import join_study_labels, match_slices, require_matches
from ich.index.labels import find_slice_column, read_any_labels
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import (
    OUT_OF_FOLD,
    UIDS,
    find_label_set,
    find_names,
    find_study_targets,
    hides_slices,
    name_columns,
    read_index,
    read_predictions,
)

TEST, VALIDATION = "predictions_test.csv", "predictions_val.csv"
"""Names of a run's tables."""

PREDICTED = "slices.csv"
"""Name of the table that ``ich predict`` writes."""

_NAMING = {*UIDS, "path", "file_size", "mtime_ns", "pixel_offset"}
"""Columns that name or identify patients, slices or files, so they cannot form subgroups."""


@dataclass(frozen=True)
class Sources:
    """Sources of an evaluation.

    Attributes:
        predictions: Predictions tables.
        val: Predictions tables of their validation sets, if given.
        labels: A label CSV, or None.
        columns: What it calls some of the labels and keys.
        root: The folder of the DICOM files, or None.
        index: Its index, if given.
        by: Columns to group by; None for the default columns of the index.
        ensemble: Whether to average several tables, not only compare them.
    """

    predictions: Sequence[Path]
    val: Sequence[Path]
    labels: Path | None
    columns: Mapping[str, str]
    root: Path | None
    index: Path | None
    by: Sequence[str] | None
    ensemble: bool

    @property
    def evaluated(self) -> Sequence[Path]:
        """The evaluated tables: all if they are averaged, else the first."""
        return self.predictions if self.ensemble else self.predictions[:1]


@dataclass(frozen=True)
class Inputs:
    """The inputs after reading.

    Attributes:
        tables: Predictions tables by the name of their model.
        predictions: The table to evaluate, or the mean of several.
        validation: Predictions of the same model or models on the validation set, or None.
        run: The run behind the table.
        averaged: Names of the averaged models.
        root: The folder of the DICOM files, or None.
        index: Its index, or None.
        by: Groups of the slices; none if only studies are labeled.
        labels: What was predicted.
        notes: Notes for the user.
    """

    tables: Mapping[str, pd.DataFrame]
    predictions: pd.DataFrame
    validation: pd.DataFrame | None
    run: Run
    averaged: Sequence[str]
    root: Path | None
    index: pd.DataFrame | None
    by: Sequence[pd.Series]
    labels: LabelSet
    notes: Sequence[str]


def read_inputs(sources: Sources, *, label_set: LabelSet | None, needs_targets: bool) -> Inputs:
    """Reads the inputs of an evaluation.

    Args:
        sources: Places of the inputs.
        label_set: What the model predicts; if None, what the run's folder or the first table says.
        needs_targets: Whether a table without any target is refused.

    Raises:
        UserError: If an input is missing or not valid.
    """
    paths = sources.predictions
    runs = [_find_run(path) for path in paths]
    names = _name_models(paths, runs)
    read = [read_predictions(path) for path in paths]
    label_set = label_set or _find_label_set(runs[0], read[0])
    labels = None
    if sources.labels is not None:
        labels = read_any_labels(sources.labels, label_set, sources.columns)
    tables = {}
    for name, path, table in zip(names, paths, read, strict=True):
        if labels is not None:
            table = _join(table, labels)
        if needs_targets:
            _require_targets(table, path)
        tables[name] = table
    notes = [f"{name}: {path}" for name, path in zip(names, paths, strict=True) if len(paths) > 1]
    validation, found = _read_validation(sources, tables, labels)
    predictions = ensemble(tables) if sources.ensemble else tables[names[0]]
    index = _find_index(sources.root, sources.index)
    groups = collect_groups(predictions, index, sources, label_set)
    return Inputs(
        tables=tables,
        predictions=predictions,
        validation=validation,
        run=_join_runs(runs) if sources.ensemble else runs[0],
        averaged=names if sources.ensemble else (),
        root=sources.root,
        index=index,
        by=[] if hides_slices(predictions) else groups,
        labels=label_set,
        notes=[*notes, *found],
    )


def _find_label_set(run: Run, table: pd.DataFrame) -> LabelSet:
    labels = run.labels
    return labels if labels is not None and labels.names == find_names(table) else find_label_set(table)


def find_table(path: Path, *names: str) -> Path:
    """Returns a table's path: ``path`` itself, or in a folder the first existing file of ``names``.

    Raises:
        UserError: If there is none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{path} holds none of {', '.join(names)}: give a predictions table, or a finished run"
        )
    return found


def _find_run(predictions: Path) -> Run:
    """Reads the run in whose folder a table lies; empty for any other table."""
    return read_run(predictions.parent) if predictions.name in (TEST, VALIDATION, OUT_OF_FOLD) else Run()


def _join_runs(runs: Sequence[Run]) -> Run:
    """Joins several runs: keeps the settings that they share."""
    shared = dict(set.intersection(*(set(run.settings.items()) for run in runs)))
    settings = {name: value for name, value in runs[0].settings.items() if name in shared}
    parts = runs[0].parts if all(run.parts == runs[0].parts for run in runs) else {}
    return Run(
        settings, parts, any(run.leaky for run in runs), any(run.phantom for run in runs), runs[0].labels
    )


def _name_models(paths: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """Names models by letters and their backbones, because names of files and folders may name patients."""
    if len(paths) > len(ascii_uppercase):
        raise UserError(f"{len(paths)} predictions tables: at most {len(ascii_uppercase)} can be compared")
    backbones = (run.settings.get("backbone") for run in runs)
    return [
        f"{letter} ({backbone})" if backbone else letter
        for letter, backbone in zip(ascii_uppercase, backbones, strict=False)
    ]


def _read_validation(
    sources: Sources, predictions: Mapping[str, pd.DataFrame], labels: pd.DataFrame | None
) -> tuple[pd.DataFrame | None, list[str]]:
    """Reads the table of the validation set, or the mean of several, and says where it was found."""
    wanted = sources.evaluated
    paths = sources.val or [beside for path in wanted if (beside := _find_beside(path))]
    if sources.val and len(paths) != len(wanted):
        raise UserError(
            f"--val names {len(paths)} tables for {len(wanted)} predictions tables: give one for each"
        )
    if len(paths) != len(wanted):
        return None, []
    tables = {}
    for name, path in zip(predictions, paths, strict=False):
        table = read_predictions(path)
        check_same_weights(predictions[name], table, str(path))
        if labels is not None and _are_of(labels, table):
            table = _join(table, labels)
        tables[name] = table
    notes = [] if sources.val else [f"calibration and operating points: from {VALIDATION} beside {TEST}"]
    return (ensemble(tables) if len(tables) > 1 else next(iter(tables.values()))), notes


def _find_beside(predictions: Path) -> Path | None:
    beside = predictions.with_name(VALIDATION)
    return beside if predictions.name == TEST and beside.is_file() else None


def _are_of(labels: pd.DataFrame, table: pd.DataFrame) -> bool:
    """Whether any label is that of a slice, study or patient in a table."""
    if (key := str(labels.index.name)) in STUDY_KEYS:
        return bool(table[key].isin(labels.index).any())
    return bool((match_slices(table["SOPInstanceUID"], labels) >= 0).any())


def _join(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Replaces the targets of a predictions table by labels of its slices, studies or patients."""
    names = list(map(str, labels))
    table = table.drop(columns=find_study_targets(table))
    if labels.index.name in STUDY_KEYS:
        return _join_studies(table, labels, names)
    places = match_slices(table["SOPInstanceUID"], labels)
    require_matches(places, table["SOPInstanceUID"], labels)
    targets = labels.to_numpy(np.float64)[places]
    targets[places < 0] = np.nan
    return table.assign(**dict(zip(name_columns("target", names), targets.T, strict=True)))


def _join_studies(table: pd.DataFrame, labels: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Gives slices what follows for them: those of a negative study are negative, others are unknown."""
    unlabeled = table[list(UIDS)].assign(**dict.fromkeys(names, np.float32(np.nan)))
    joined = join_study_labels(unlabeled, labels).drop(columns=list(UIDS))
    joined = joined.rename(columns=dict(zip(names, name_columns("target", names), strict=True)))
    return table.assign(**{str(name): joined[name] for name in joined})


def _require_targets(table: pd.DataFrame, path: Path) -> None:
    if table.empty:
        raise UserError(f"{path} is empty: there is nothing to evaluate")
    columns = name_columns("target", find_names(table)) + find_study_targets(table)
    if table[columns].isna().to_numpy().all():
        raise UserError(
            f"{path} has no targets: give labels with --labels CSV (ID,Label like the RSNA's, or "
            "SOPInstanceUID, StudyInstanceUID or PatientID, and one column per label)"
        )


def list_levels(table: pd.DataFrame) -> list[str]:
    """Lists the levels whose units the slices name and that are labeled; series only if studies differ."""
    named = [level for level in keep_known(LEVELS, table) if (table[UNIT_COLUMNS[level]] != "").all()]
    same = table["SeriesInstanceUID"].nunique() == table["StudyInstanceUID"].nunique()
    return [level for level in named if level != "series" or (not same or "study" not in named)]


def _find_index(root: Path | None, index: Path | None) -> pd.DataFrame | None:
    """Reads the index of the data, if there is one; updates that of ``root``."""
    if index is not None:
        return read_index(index / "index.parquet" if index.is_dir() else index)
    return None if root is None else build_index(root).table


def collect_groups(
    predictions: pd.DataFrame,
    index: pd.DataFrame | None,
    sources: Sources,
    label_set: LabelSet,
) -> list[pd.Series]:
    """Collects the groups of slices, one value per slice.

    Args:
        predictions: A predictions table.
        index: The data set's index. It gives encoding, slice spacing and tilt, the default columns.
        sources: Its ``by`` names columns of ``describe_slices``, the index, the label CSV or the predictions.
        label_set: The labels in the label CSV.

    Raises:
        UserError: If a column does not exist, or names patients or files.
    """
    described = (
        pd.DataFrame(index=predictions.index) if index is None else describe_slices(predictions, index)
    )
    if sources.by is None:
        return [described[column] for column in described]
    tables = [described, predictions[["part"]]]
    if index is not None:
        tables.append(_align(index, "SOPInstanceUID", predictions["SOPInstanceUID"]))
    if sources.labels is not None:
        wide = read_csv(sources.labels, (*label_set.names, *STUDY_KEYS), sources.columns)
        key = find_slice_column(wide.columns, label_set.names, sources.columns)
        unit = "SOPInstanceUID" if key else choose_key(STUDY_KEYS, wide.columns, sources.columns)
        if unit is not None and "Label" not in wide:
            tables.append(_align(wide.drop_duplicates(key or unit), key or unit, predictions[unit]))
    return [_find_column(column, tables) for column in sources.by]


def _align(table: pd.DataFrame, key: str, units: pd.Series) -> pd.DataFrame:
    """Returns the rows of a table for each of some slices, by the names of their units."""
    return table.set_index(key).reindex(units).reset_index(drop=True)


def _find_column(column: str, sources: Sequence[pd.DataFrame]) -> pd.Series:
    if column in _NAMING:
        raise UserError(
            f"--by {column}: this column identifies patients or files, and a report names neither; give "
            "another"
        )
    for source in sources:
        if column in source:
            return source[column]
    known = sorted({str(name) for source in sources for name in source} - _NAMING)
    raise UserError(f"--by {column}: there is no such column; there are {', '.join(known)}")
