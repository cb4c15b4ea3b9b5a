"""The two tables that all parts of the library share: the index and the predictions.

The index has one row per slice, and is all that training knows about the disk. The predictions table has one
row per slice, and is all that evaluation knows about a model.

A spreadsheet reads a text as a formula if it begins with ``=``, ``+``, ``-``, ``@``, a tab or an end of
line. In a CSV such a text gets an apostrophe before it. A text that begins with apostrophes and then such a
character gets one more. ``restore_texts`` removes one apostrophe again, and leaves all others. Every text is
quoted, so that no line within it begins a row. Source: OWASP, CSV Injection.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv

from ich.files import replacing
from ich.schema import LABELS, UserError
from ich.schema.formats import DIGEST
from ich.schema.labels import RSNA_LABELS, LabelSet

__all__ = ["hash_slices", "make_predictions", "read_index", "read_predictions"]

UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")

PLURALS = {"slice": "slices", "series": "series", "study": "studies", "patient": "patients"}
"""Plurals of the units that a table counts."""

OUT_OF_FOLD = "predictions_oof.csv"
"""Name of the predictions table of all folds, in the folder of a run over all folds."""

SETS = {"train": "training", "val": "validation", "test": "test"}
"""Names of the parts of a split in texts, before the word set."""

HEADER_DTYPES = {
    "path": "str",  # POSIX, relative to the root
    "file_size": "int64",  # bytes
    "mtime_ns": "int64",
    "SOPInstanceUID": "str",  # names the slice; in a file of several frames # and the frame's number follow
    "PatientID": "str",
    "StudyInstanceUID": "str",
    "SeriesInstanceUID": "str",
    "frame": "int32",  # number of the frame, from 1; 0 if the file holds one slice
    "position": "float64",  # mm, from feet to head along the slice normal; NaN if unknown
    "InstanceNumber": "float64",  # NaN if unknown
    "tilt": "float64",  # degrees between the slice normal and the patient's long axis, signed
    "orientation": "int32",  # conversion of the stored pixels to LPS: a number of ich.dicom.orientation
    "Rows": "int32",  # of the slice in LPS, like everything about rows and columns
    "Columns": "int32",
    "row_spacing": "float64",  # mm between rows, from PixelSpacing; NaN if unknown
    "column_spacing": "float64",  # mm between columns
    "PhotometricInterpretation": "str",
    "BitsAllocated": "int32",
    "BitsStored": "int32",
    "PixelRepresentation": "int32",
    "RescaleSlope": "float64",
    "RescaleIntercept": "float64",
    "WindowCenter": "float64",  # HU, the first of several; NaN if missing
    "WindowWidth": "float64",
    "TransferSyntaxUID": "str",
    "padding_low": "int32",  # lowest stored value that is padding
    "padding_high": "int32",  # highest; below the lowest if there is no padding
    "pixel_offset": "int64",  # bytes from the start of the file to the pixels; -1 if they need decoding
    "RescaleType": "str",  # as stored, like the five below; empty if missing
    "ImageType": "str",
    "AcquisitionNumber": "str",
    "ConvolutionKernel": "str",
    "AcquisitionTime": "str",
    "ContentTime": "str",
}
"""Columns of the index that come from the header of a slice, and their types."""

INDEX_DTYPES = HEADER_DTYPES | {
    "stack": "int32",  # within the series, from 0: only slices of one stack are neighbors
}
"""Columns of the index and their types. Rows are ordered by patient, study, series, stack and position."""

STAMP = ["path", "file_size", "mtime_ns"]
"""Columns of the index that show whether a file has changed."""

REFUSED_COLUMNS = ["path", "code", "detail"]
"""Columns of a table of refused files."""


def make_table(rows: Sequence[Sequence[Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Makes a table of rows, whose values are in the order of ``dtypes``."""
    columns = zip(*rows, strict=True) if rows else [()] * len(dtypes)
    # Column by column, as rows of mixed types take pandas several times as long.
    return pd.DataFrame(
        {name: _make_column(column, dtypes[name]) for name, column in zip(dtypes, columns, strict=True)}
    )


def _make_column(values: Sequence[Any], dtype: str) -> pd.Series:
    """Makes a column; NumPy and Arrow read Python values in half of the time that pandas takes."""
    if dtype == "str":
        return pd.Series(pa.chunked_array([pa.array(values, pa.large_string())]), dtype=dtype)
    return pd.Series(np.array(values, dtype))


def name_columns(kind: str, names: Sequence[str]) -> list[str]:
    """Returns the columns of one kind, such as ``prob`` or ``target``: one for each label."""
    return [f"{kind}_{name}" for name in names]


PROB_COLUMNS = tuple(name_columns("prob", LABELS))
TARGET_COLUMNS = tuple(name_columns("target", LABELS))
PLACE_COLUMNS = {"stack": 0, "position": np.nan}
"""Columns of a predictions table that say where a slice lies in its series, as in the index, and their values
where a table of another program or an earlier version lacks them."""

WEIGHTS_COLUMN = "weights_sha256"
"""SHA-256 of the weights that made a prediction, from ``ich.models.hash_weights``; empty if unknown."""

STUDY_TARGET = "study_target"
"""Kind of the columns with the targets of a slice's study, in the index with labels and in a predictions
table. They exist if studies were labeled, and hold NaN where unknown."""

SLAB_COLUMN = "slab"
"""Number of the slab of a predicted slice within its series, if thin slices were averaged. Slices of a slab
share their probabilities, so a slab counts once where slices are pooled."""


def say(count: int, unit: str, singular: str = "", plural: str = "") -> str:
    """Returns a count with its unit and verb: ``1 slice has``, ``2 slices have``."""
    noun, verb = (unit, singular) if count == 1 else (PLURALS.get(unit, f"{unit}s"), plural or singular)
    return f"{count:,} {noun} {verb}".rstrip()


def split_name(name: str) -> tuple[str, int]:
    """Splits the name of a slice into SOPInstanceUID and frame, which is 0 for a file of one slice."""
    uid, _, frame = name.partition("#")
    return (uid, int(frame)) if frame.isdecimal() else (name, 0)


def hash_slices(table: pd.DataFrame) -> str:
    """Returns the SHA-256 of a table's SOPInstanceUIDs, sorted, one per line. It names nobody."""
    lines = "".join(f"{uid}\n" for uid in sorted(table["SOPInstanceUID"]))
    return hashlib.sha256(lines.encode()).hexdigest()


def make_predictions(
    rows: pd.DataFrame, part: str, probs: np.ndarray, weights: str = "", names: Sequence[str] = LABELS
) -> pd.DataFrame:
    """Joins probabilities to their slices.

    Args:
        rows: Rows of the index (with the label columns, NaN where unknown), one per row of probabilities.
        part: ``train``, ``val`` or ``test``.
        probs: (N, L) probabilities.
        weights: SHA-256 of the model's weights; empty if unknown.
        names: The L labels.

    Returns:
        A predictions table, with ``PLACE_COLUMNS`` and ``WEIGHTS_COLUMN``, and the targets of studies if the
        rows have them.
    """
    table = rows.loc[:, list(UIDS)].reset_index(drop=True)
    table["part"] = part
    for column, unknown in PLACE_COLUMNS.items():
        table[column] = rows[column].to_numpy() if column in rows else unknown
    table[name_columns("prob", names)] = probs
    table[name_columns("target", names)] = rows.loc[:, list(names)].to_numpy(dtype=np.float64)
    for column in find_study_targets(rows):
        table[column] = rows[column].to_numpy(np.float64)
    table[WEIGHTS_COLUMN] = weights
    return table


def find_names(table: pd.DataFrame) -> tuple[str, ...]:
    """Finds the labels of a predictions table: the RSNA's in their order, others in that of the columns."""
    columns = [str(column) for column in table]
    names = tuple(
        dict.fromkeys(
            column.removeprefix(kind)
            for kind in ("prob_", "target_")
            for column in columns
            if column.startswith(kind)
        )
    )
    return LABELS if set(names) == set(LABELS) else names


def find_study_targets(table: pd.DataFrame) -> list[str]:
    """Finds the columns of ``STUDY_TARGET``; none if only slices were labeled."""
    return [str(column) for column in table if str(column).startswith(f"{STUDY_TARGET}_")]


def hides_slices(table: pd.DataFrame, prefix: str = "target_") -> bool:
    """Whether a study is positive for a label, and the targets of its slices are not all known.

    The known targets are then mostly those of negative studies, so figures of slices would mislead.

    Args:
        table: A predictions table, or an index with labels.
        prefix: Begins the columns with the targets of slices.
    """
    columns = find_study_targets(table)
    targets = [f"{prefix}{column.removeprefix(f'{STUDY_TARGET}_')}" for column in columns]
    positive = table[columns].to_numpy(np.float64) == 1
    return bool((positive & np.isnan(table[targets].to_numpy(np.float64))).any())


def find_label_set(table: pd.DataFrame) -> LabelSet:
    """Finds the labels of a predictions table. Labels other than the RSNA's weigh the same; none decides."""
    names = find_names(table)
    return RSNA_LABELS if names == LABELS else LabelSet(names, (1.0,) * len(names))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Reads a predictions table from a CSV file and checks it.

    Its labels are those with a column ``prob_<label>``.

    Returns:
        ``UIDS``, ``part``, ``PLACE_COLUMNS``, a probability and a target for each label, and
        ``WEIGHTS_COLUMN``. If slices were averaged, ``SLAB_COLUMN`` too, and if studies were labeled, their
        targets. Other columns are left out.

    Raises:
        UserError: If the file or a column is missing, a probability lies outside [0, 1], a place or a target
            is not a number, or the hash of the weights is not a SHA-256.
    """
    path = Path(path)
    text = dict.fromkeys((*UIDS, "part", WEIGHTS_COLUMN), "str")
    try:
        names = find_names(pd.read_csv(path, nrows=0))
        prob_columns, target_columns = name_columns("prob", names), name_columns("target", names)
        # A patient may be called NA: only the numbers have missing values.
        study_columns = name_columns(STUDY_TARGET, names)
        numbers = (*prob_columns, *target_columns, *study_columns, *PLACE_COLUMNS, SLAB_COLUMN)
        missing_values = {column: [""] for column in numbers}
        table = restore_texts(pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing_values))
        for column, unknown in PLACE_COLUMNS.items():
            table[column] = table[column].astype(type(unknown)) if column in table else unknown
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a predictions table: {error}") from error
    needed = (*UIDS, "part", *(prob_columns or PROB_COLUMNS))
    require_columns(table, needed, path)
    _require_numbers(table, numbers, path)
    require_probs(table, prob_columns, path)
    if WEIGHTS_COLUMN not in table:
        table[WEIGHTS_COLUMN] = ""
    if not all(name == "" or re.fullmatch(DIGEST, name) for name in table[WEIGHTS_COLUMN].unique()):
        raise UserError(f"{path}: {WEIGHTS_COLUMN} holds values that are not SHA-256; remove the column")
    is_averaged = SLAB_COLUMN in table and bool(table[SLAB_COLUMN].notna().any())
    places = [*PLACE_COLUMNS, *([SLAB_COLUMN] if is_averaged else [])]
    targets = [*target_columns, *(study_columns if find_study_targets(table) else [])]
    return table.reindex(columns=[*UIDS, "part", *places, *prob_columns, *targets, WEIGHTS_COLUMN])


def _require_numbers(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    for column in columns:
        if column not in table or pd.api.types.is_numeric_dtype(table[column]):
            continue
        values = table[column].dropna()
        wrong = values[pd.to_numeric(values, errors="coerce").isna()]
        if len(wrong):
            hint = "0, 1 or nothing" if "target_" in column else "a number with a decimal point"
            raise UserError(f"{path} holds {str(wrong.iloc[0])!r} in {column}: expected {hint}")


_FORMULA = r"^('*[=+\-@\t\r\n])"
_ESCAPED = r"^'('*[=+\-@\t\r\n])"


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Writes a table as Parquet or CSV, by the ending of its name, completely or not at all.

    In a CSV no text is a formula, and numbers stay as they are. ``restore_texts`` undoes it.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        # Arrow refuses a path that is not UTF-8.
        with replacing(path) as partial, partial.open("wb") as file:
            table.to_parquet(file, index=False)
        return
    with writing_csv(path) as write:
        write(table)


@contextmanager
def writing_csv(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Gives a function that writes the next rows of a CSV, which then holds the same as from ``write_table``.

    The file is complete at the end, or stays as it was. All parts have the same columns and types.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:

        def write(part: pd.DataFrame) -> None:
            part, texts, header = _replace(part, _FORMULA, r"'\1"), _list_texts(part), file.tell() == 0
            if len(texts) == part.shape[1] > 0 and not part.isna().to_numpy().any():
                # The same bytes as from pandas, some twenty times as fast; file.tell flushed earlier rows.
                options = pa_csv.WriteOptions(include_header=header, quoting_style="all_valid")
                pa_csv.write_csv(pa.Table.from_pandas(part, preserve_index=False), file.buffer, options)
                return
            part.to_csv(
                file,
                index=False,
                header=header,
                quoting=csv.QUOTE_NONNUMERIC if texts else csv.QUOTE_MINIMAL,
            )

        yield write


def restore_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Restores the texts of a table that was read from a CSV, as they were given to ``write_table``."""
    return _replace(table, _ESCAPED, r"\1")


def _replace(table: pd.DataFrame, pattern: str, by: str) -> pd.DataFrame:
    texts = {column: table[column].str.replace(pattern, by, regex=True) for column in _list_texts(table)}
    return table.assign(**texts)


def _list_texts(table: pd.DataFrame) -> list[str]:
    return [str(column) for column in table if pd.api.types.is_string_dtype(table[column])]


def read_index(path: str | Path) -> pd.DataFrame:
    """Reads an index from a Parquet file.

    Raises:
        UserError: If the file is not an index of this version.
    """
    try:
        with Path(path).open("rb") as file:  # Arrow refuses a path that is not UTF-8
            table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an index: {error}. Remove it to make a new one") from error
    require_columns(table, tuple(INDEX_DTYPES), path)
    return table


def require_probs(table: pd.DataFrame, columns: Sequence[str], source: str | Path) -> None:
    """Raises ``UserError`` if columns of a table do not hold probabilities."""
    probs = table[list(columns)].to_numpy(np.float64)
    if not ((probs >= 0) & (probs <= 1)).all():
        raise UserError(
            f"{source} holds probabilities that are missing or outside [0, 1]; a sigmoid makes them of logits"
        )


def require_columns(table: pd.DataFrame, columns: Sequence[str], path: str | Path) -> None:
    """Raises ``UserError`` naming the columns that the table at ``path`` lacks."""
    missing = [column for column in columns if column not in table]
    if missing:
        found = ", ".join(map(str, table.columns[:8]))
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; it has {found}")
