"""The two forms of a label file, to one row a label."""

from __future__ import annotations

import difflib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from ich.schema import LABELS, UserError

LABEL_KEYS = ("SOPInstanceUID", "ID")
"""Columns that may name the slice in a wide label file, the first that is there."""

_Long = tuple["pd.Series[str]", NDArray[np.int64], "pd.Series[str]"]


def read_csv(path: Path, nrows: int | None = None) -> pd.DataFrame:
    """Reads a CSV file as text.

    Raises:
        UserError: If it cannot be.
    """
    try:
        if nrows is not None:
            return _parse_csv(path, nrows)
        content = path.read_bytes()
        columns = _parse_csv(io.BytesIO(content), nrows=0)
        plain = _parse_plain_csv(content, columns.columns.tolist())
        return _parse_csv(io.BytesIO(content)) if plain is None else plain
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error


def _parse_csv(source: Path | io.BytesIO, nrows: int | None = None) -> pd.DataFrame:
    return pd.read_csv(source, dtype="str", keep_default_na=False, compression=None, nrows=nrows)


def _parse_plain_csv(content: bytes, columns: list[str]) -> pd.DataFrame | None:
    """Parses 4.5 million rows in a fifth of the time that pandas takes; None for what is not plain."""
    if b'"' in content:  # Arrow takes a quote that is never closed for one that is
        return None
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.large_string()))
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            convert_options=options,
        )
    except pa.ArrowInvalid:
        return None
    return table.to_pandas() if table.column_names == columns else None


def find_key(table: pd.DataFrame) -> str | None:
    """Returns the column that names the slice, or None if the table holds no labels."""
    if "Label" in table:
        return "ID" if "ID" in table else None
    keys = [key for key in LABEL_KEYS if key in table]
    return keys[0] if keys and any(label in table for label in LABELS) else None


def split_ids(table: pd.DataFrame, path: Path) -> _Long:
    """Takes the long form to slices, numbers of labels and values, label by label.

    Raises:
        UserError: If an ID ends in no label.
    """
    with_label = [table[table["ID"].str.endswith(f"_{label}")] for label in LABELS]
    counts = [len(rows) for rows in with_label]
    if sum(counts) < len(table):
        known = pd.concat(with_label).index
        name = str(table["ID"].drop(known).iloc[0])
        raise UserError(f"{path} holds the ID {name!r}: {_suggest(name.rpartition('_')[2])}")
    names = (
        rows["ID"].str.slice(stop=-len(label) - 1) for rows, label in zip(with_label, LABELS, strict=True)
    )
    return (
        pd.concat(names, ignore_index=True),
        np.repeat(np.arange(len(LABELS)), counts),
        pd.concat([rows["Label"] for rows in with_label], ignore_index=True),
    )


def melt(table: pd.DataFrame, key: str, path: Path) -> _Long:
    """Takes the wide form to slices, numbers of labels and values, slice by slice.

    Raises:
        UserError: If a column is nearly a label.
    """
    for column in table.columns.difference([*LABELS, key]):
        near = difflib.get_close_matches(column.strip().lower(), LABELS, n=1, cutoff=0.85)
        if near and near[0] not in table:
            raise UserError(f"{path} has the column {column!r}: {_suggest(column)}")
    present = [number for number, label in enumerate(LABELS) if label in table]
    columns = np.tile(np.array(present), len(table))
    uids = table[key].repeat(len(present)).reset_index(drop=True)
    values = table[[LABELS[number] for number in present]].to_numpy().ravel()
    return uids, columns, pd.Series(values, dtype="str")


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name.strip().lower(), LABELS, n=1, cutoff=0.0)
    return f"{name!r} is no label; nearest is {near[0]}, of {', '.join(LABELS)}"


def parse_values(
    values: pd.Series[str], uids: pd.Series[str], columns: NDArray[np.int64], path: Path
) -> NDArray[np.float32]:
    """Takes texts to 0, 1 or NaN.

    Raises:
        UserError: If there are others.
    """
    numbers, texts = pd.factorize(values)
    parsed = pd.to_numeric(pd.Series(texts).str.strip(), errors="coerce").to_numpy(dtype=np.float32)
    wrong = np.array([bool(text.strip()) for text in texts]) & ~np.isin(parsed, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong[numbers]))
        raise UserError(
            f"{path} has the label {values.iloc[row]!r} for {LABELS[columns[row]]} of {uids.iloc[row]}: "
            "expected 0, 1 or nothing"
        )
    return np.asarray(parsed[numbers])
