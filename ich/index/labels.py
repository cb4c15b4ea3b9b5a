"""Reads label files of both forms, of slices, studies or patients, into one row for each."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.index.columns import (
    LABEL_KEYS,
    NO_COLUMNS,
    STUDY_KEYS,
    check_columns,
    choose_key,
    fold,
    show_columns,
)
from ich.index.csv_files import read_columns, read_csv
from ich.remote import AnyPath, parse_path
from ich.schema import UserError
from ich.schema.labels import RSNA_LABELS, LabelSet

_TRUTHS = {"true": "1", "false": "0"}

_Long = tuple["pd.Series[str]", NDArray[np.int64], "pd.Series[str]"]


def list_labels(
    root: AnyPath, labels: LabelSet = RSNA_LABELS, columns: Mapping[str, str] = NO_COLUMNS
) -> list[AnyPath]:
    """Lists the label files of a data set: the RSNA's own, or every CSV in ``root`` with such labels."""
    if labels == RSNA_LABELS and not columns and (root / "stage_2_train.csv").is_file():
        return [root / "stage_2_train.csv"]
    found: list[AnyPath] = [*root.glob("*.csv")]
    return [path for path in sorted(found, key=str) if _holds_labels(path, labels, columns)]


def find_labels(
    root: AnyPath, labels: LabelSet = RSNA_LABELS, columns: Mapping[str, str] = NO_COLUMNS
) -> AnyPath:
    """Finds the label file of a data set, the only one of ``list_labels``.

    Raises:
        UserError: If there is none, or several.
    """
    found = list_labels(root, labels, columns)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(
            f"data.root={root} holds {f'several label files ({names})' if found else 'no label file'}; "
            "name the one with data.labels=FILE, or data.study_labels=FILE for labels of studies"
        )
    return found[0]


def _holds_labels(path: AnyPath, labels: LabelSet, columns: Mapping[str, str]) -> bool:
    try:
        names = read_columns(path, labels.names, columns)
        return find_slice_column(names, labels.names, columns) is not None
    except UserError:
        return False


def read_labels(
    path: str | AnyPath, labels: LabelSet = RSNA_LABELS, columns: Mapping[str, str] = NO_COLUMNS
) -> pd.DataFrame:
    """Reads labels from a CSV file.

    It can be long, like the RSNA's: ``ID`` (``ID_12345_subdural``) and ``Label``. Or it can be wide:
    ``SOPInstanceUID`` or ``ID``, and a column for each known label. Names of columns and labels may be in any
    case; see ``ich.index.csv_files.read_csv`` for encodings and delimiters. Labels are 0, 1, true and false;
    blank is unknown. If no slice has ``LabelSet.union``, such as ``any``, it follows from the others, if the
    file has all of them: 1 if one is 1, and 0 if all are 0.

    Args:
        path: The file.
        labels: Labels to read; other columns of a wide file are ignored.
        columns: The file's name of a label or a key, where it has another, such as ``{"epidural": "EDH"}``.

    Returns:
        One row per slice, indexed by ``SOPInstanceUID``: a column for each label, float32, NaN where unknown.

    Raises:
        UserError: If the file cannot be read or has other columns, an unknown subtype, other labels, or
            labels that contradict each other; if ``columns`` names an unknown column, or one twice.
    """
    path = parse_path(path) if isinstance(path, str) else path
    names = labels.names
    check_columns(columns, names)
    table = read_csv(path, names, columns)
    key = find_slice_column(table.columns, names, columns)
    if key is None:
        raise _refuse_columns(path, table, f"ID and Label, or {' or '.join(LABEL_KEYS)}", names)
    return _tabulate(table, key, names, labels, path)


def read_study_labels(
    path: str | AnyPath, labels: LabelSet = RSNA_LABELS, columns: Mapping[str, str] = NO_COLUMNS
) -> pd.DataFrame:
    """Reads labels of studies or patients from a CSV file with one row for each.

    The file has ``StudyInstanceUID`` or ``PatientID``, and a column for each known label. Everything else is
    as in ``read_labels``.

    Returns:
        One row per study or patient, indexed by ``StudyInstanceUID`` or ``PatientID``: a column for each
        label, float32, NaN where unknown.

    Raises:
        UserError: As in ``read_labels``.
    """
    path = parse_path(path) if isinstance(path, str) else path
    names = labels.names
    check_columns(columns, names)
    table = read_csv(path, (*names, *STUDY_KEYS), columns)
    key = choose_key(STUDY_KEYS, table.columns, columns)
    if key is None or not any(name in table for name in names):
        raise _refuse_columns(path, table, " or ".join(STUDY_KEYS), names)
    return _tabulate(table.drop(columns="Label", errors="ignore"), key, names, labels, path)


def read_any_labels(path: AnyPath, labels: LabelSet, columns: Mapping[str, str] = NO_COLUMNS) -> pd.DataFrame:
    """Reads labels of slices, studies or patients, by the columns of the file.

    Returns:
        As ``read_labels`` does, or else as ``read_study_labels`` does.

    Raises:
        UserError: As ``read_labels`` does.
    """
    check_columns(columns, labels.names)
    present = read_columns(path, (*labels.names, *STUDY_KEYS), columns)
    of_slices = find_slice_column(present, labels.names, columns)
    of_studies = choose_key(STUDY_KEYS, present, columns)
    read = read_labels if of_slices or not of_studies else read_study_labels
    return read(path, labels, columns)


def _refuse_columns(path: AnyPath, table: pd.DataFrame, keys: str, names: Sequence[str]) -> UserError:
    """Describes a file without the columns of labels, and what may be meant."""
    message = f"{path} has the columns {show_columns(table)}; expected {keys} with some of {', '.join(names)}"
    folded = set(map(fold, map(str, table)))
    if folded & set(map(fold, STUDY_KEYS)) and folded & set(names):
        return UserError(f"{message}. Labels of studies or patients are for data.study_labels=FILE")
    return UserError(f"{message}. For other names give columns, such as data.columns={{{names[0]}: COLUMN}}")


def find_slice_column(
    present: Collection[Hashable], labels: Sequence[str], columns: Mapping[str, str] = NO_COLUMNS
) -> str | None:
    """Finds the column that names the slice.

    Args:
        present: The columns of a table, under their known names.
        labels: The labels.
        columns: Columns with names of their own in the file.

    Returns:
        The column; None if a table with these columns holds no labels of slices.
    """
    if "Label" in present:
        return "ID" if "ID" in present else None
    key = choose_key(LABEL_KEYS, present, columns)
    return key if any(label in present for label in labels) else None


def _tabulate(
    table: pd.DataFrame, key: str, names: Sequence[str], labels: LabelSet, path: AnyPath
) -> pd.DataFrame:
    """Turns the texts of a label file into one row of numbers for each value of ``key``."""
    unit = key if key in STUDY_KEYS else "SOPInstanceUID"
    table = drop_blank_rows(table, key)
    if table.empty:
        raise UserError(f"{path} holds no label")
    uids, columns, values = (
        split_ids(table, names, path) if "Label" in table else melt(table, key, names, path)
    )
    found = parse_values(values, uids, columns, names, path)
    codes, units = pd.factorize(uids)
    if "" in units:
        raise UserError(f"{path} has labels without a {key}; complete or remove them")
    wide = np.full((len(units), len(names)), np.nan, dtype=np.float32)
    wide[codes, columns] = found
    kept = wide[codes, columns]
    differs = (kept != found) & ~(np.isnan(kept) & np.isnan(found))
    _refuse(units[np.unique(codes[differs])], "two values for one label", path, unit)
    if labels.union is not None:
        place = labels.index(labels.union)
        wrong = _fill_union(wide[:, place], np.delete(wide, place, axis=1))
        what = f"a label {labels.union} that is not the largest of the other labels"
        _refuse(units[wrong], what, path, unit)
    return pd.DataFrame(wide, index=pd.Index(units, name=unit), columns=list(names))


def _fill_union(union: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Fills in (N,) labels that follow from (N, L) others, if none is known; returns where they conflict."""
    if np.isnan(union).all() and not np.isnan(others).all(axis=0).any():
        union[(others == 1).any(axis=1)] = 1
        union[(others == 0).all(axis=1)] = 0
    wrong = (union == 0) & (others == 1).any(axis=1) | (union == 1) & (others == 0).all(axis=1)
    return np.asarray(wrong)


def count_repeats(path: AnyPath, labels: LabelSet, columns: Mapping[str, str] = NO_COLUMNS) -> int:
    """Counts the rows of a label file that repeat an earlier row; ``read_labels`` checks them."""
    table = read_csv(path, labels.names, columns)
    key = find_slice_column(table.columns, labels.names, columns)
    return 0 if key is None else int(table[key].duplicated().sum())


def _refuse(names: Any, what: str, path: AnyPath, unit: str) -> None:
    if len(names):
        examples = ", ".join(map(str, names[:5]))
        among = {"SOPInstanceUID": "slices", "StudyInstanceUID": "studies", "PatientID": "patients"}[unit]
        raise UserError(f"{path} has {what}, for {len(names)} of its {among}: {examples}; correct them")


def drop_blank_rows(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """Removes rows without values, as spreadsheets write them, and blanks around slices' names."""
    table = table.assign(**{key: table[key].str.strip()})
    nameless = table[table[key] == ""]
    blank = [all(not str(value).strip() for value in row) for row in nameless.itertuples(index=False)]
    return table.drop(index=nameless.index[blank])


def split_ids(table: pd.DataFrame, labels: Sequence[str], path: AnyPath) -> _Long:
    """Converts the long form to slices, numbers of labels and values, label by label.

    Raises:
        UserError: If an ID does not end in a label.
    """
    with_label = _find_endings(table, table["ID"], labels)
    if sum(map(len, with_label)) < len(table):  # another case, or another word
        with_label = _find_endings(table, table["ID"].str.lower(), labels)
    counts = [len(rows) for rows in with_label]
    if sum(counts) < len(table):
        known = pd.concat(with_label).index
        name = str(table["ID"].drop(known).iloc[0])
        raise UserError(f"{path} holds the ID {name!r}: {_suggest(name.rpartition('_')[2], labels)}")
    names = (
        rows["ID"].str.slice(stop=-len(label) - 1) for rows, label in zip(with_label, labels, strict=True)
    )
    return (
        pd.concat(names, ignore_index=True),
        np.repeat(np.arange(len(labels)), counts),
        pd.concat([rows["Label"] for rows in with_label], ignore_index=True),
    )


def _find_endings(table: pd.DataFrame, ids: pd.Series[str], labels: Sequence[str]) -> list[pd.DataFrame]:
    """Finds the rows of each label by the ending of the ID: the longest label, if one ends in another."""
    found = []
    for label in labels:
        ends = ids.str.endswith(f"_{label}")
        for longer in labels:
            if longer.endswith(f"_{label}"):
                ends &= ~ids.str.endswith(f"_{longer}")
        found.append(table[ends])
    return found


def melt(table: pd.DataFrame, key: str, labels: Sequence[str], path: AnyPath) -> _Long:
    """Converts the wide form to slices, numbers of labels and values, slice by slice.

    Raises:
        UserError: If the name of a column is almost a label.
    """
    for column in table.columns.difference([*labels, key]):
        near = difflib.get_close_matches(fold(column), labels, n=1, cutoff=0.85)
        if near and near[0] not in table:
            raise UserError(f"{path} has the column {column!r}: {_suggest(column, labels)}")
    present = [number for number, label in enumerate(labels) if label in table]
    columns = np.tile(np.array(present), len(table))
    uids = table[key].repeat(len(present)).reset_index(drop=True)
    values = table[[labels[number] for number in present]].to_numpy().ravel()
    return uids, columns, pd.Series(values, dtype="str")


def _suggest(name: str, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(fold(name), labels, n=1, cutoff=0.0)
    return f"{name!r} is not a label; nearest is {near[0]}, of {', '.join(labels)}"


def parse_values(
    values: pd.Series[str],
    uids: pd.Series[str],
    columns: NDArray[np.int64],
    labels: Sequence[str],
    path: AnyPath,
) -> NDArray[np.float32]:
    """Converts texts to 0, 1 or NaN.

    Raises:
        UserError: If there are values other than 0, 1, true, false and blanks.
    """
    numbers, texts = pd.factorize(values)
    folded = pd.Series(texts, dtype="str").map(fold)
    parsed = pd.to_numeric(folded.replace(_TRUTHS), errors="coerce").to_numpy(dtype=np.float32)
    wrong = (folded != "").to_numpy() & ~np.isin(parsed, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong[numbers]))
        raise UserError(
            f"{path} has the label {values.iloc[row]!r} for {labels[columns[row]]} of {uids.iloc[row]}: "
            "expected 0, 1, true, false or nothing"
        )
    return np.asarray(parsed[numbers])
