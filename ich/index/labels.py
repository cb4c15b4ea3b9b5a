"""Reads both forms of a label file into one row per label."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import warnings
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from ich.remote import AnyPath
from ich.schema import LABELS, UserError

LABEL_KEYS = ("SOPInstanceUID", "ID")
"""Columns that may name the slice in a wide label file; the first one present counts."""

STUDY_KEYS = ("StudyInstanceUID", "PatientID")
"""Columns that may name the study or the patient in a file of study labels; the first one present counts."""

_NAMES = (*LABEL_KEYS, "Label")
"""Known columns beside the labels."""

_DELIMITERS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_HEAD = 1 << 16  # bytes that hold the names of the columns
_SPARE = 16  # empty values at the end of a row
_TRUTHS = {"true": "1", "false": "0"}

_Long = tuple["pd.Series[str]", NDArray[np.int64], "pd.Series[str]"]


def read_csv(path: AnyPath, labels: Sequence[str] = LABELS) -> pd.DataFrame:
    """Reads a CSV file as text, with any encoding and any delimiter.

    The byte order mark gives the encoding. Without one it is UTF-8, or else Windows-1252. The delimiter is
    comma, semicolon, tab or bar, whichever gives the most columns with known names, or else the most columns.
    Names may be in any case and have blanks around them. A row may end in empty values.

    Args:
        path: The file.
        labels: Known names beside those of the columns that name a slice.

    Returns:
        The columns as text, empty where a row ends early.

    Raises:
        UserError: If it is not such a file, a row holds more values than there are columns, or two columns
            have the same known name.
    """
    try:
        content = _decode(path.read_bytes())
        names, delimiter = _read_header(content, labels)
        table = _parse_by_arrow(content, names, delimiter)
        if table is None:
            table = _parse_by_pandas(content, names, delimiter)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    return table.rename(columns=_find_known_names(names, labels, path))


def read_columns(path: AnyPath, labels: Sequence[str]) -> list[str]:
    """Reads the column names of a CSV file, as in ``read_csv``.

    Raises:
        UserError: If it is not such a file, or two columns have the same known name.
    """
    try:
        with path.open("rb") as file:
            names, _ = _read_header(_decode(file.read(_HEAD), final=False), labels)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    known = _find_known_names(names, labels, path)
    return [known.get(name, name) for name in names]


def _decode(content: bytes, final: bool = True) -> bytes:
    """Converts a text in any encoding to UTF-8; it may end within a character unless it is ``final``."""
    marked = [name for mark, name in _MARKS.items() if content.startswith(mark)]
    for encoding in marked or ["utf-8", "cp1252"]:
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(content, final)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return content if encoding == "utf-8" else text.encode()
    raise ValueError("it is not text in UTF-8, UTF-16 or Windows-1252")


def _read_header(content: bytes, labels: Sequence[str]) -> tuple[list[str], str]:
    """Reads the names of the columns, and their delimiter."""
    lines = content.split(b"\n", 1)[0].decode().splitlines() or [""]
    known = {_fold(name) for name in (*_NAMES, *labels)}

    def split(delimiter: str) -> list[str]:
        return next(csv.reader([lines[0]], delimiter=delimiter), [])

    def rate(delimiter: str) -> tuple[int, int]:
        names = split(delimiter)
        return len({_fold(name) for name in names} & known), len(names)

    delimiter = max(_DELIMITERS, key=rate)  # the first of those that are as good
    if not (names := split(delimiter)):
        raise ValueError("its first line is empty")
    counts = Counter[str]()
    for number, name in enumerate(names):
        counts[name] += 1
        if counts[name] > 1 and _fold(name) not in known:  # such as two without a name
            names[number] = f"{name}.{counts[name]}"
    return names, delimiter


def _parse_by_pandas(content: bytes, names: list[str], delimiter: str) -> pd.DataFrame:
    # With spare columns, pandas neither uses the first one as an index nor cuts off values.
    columns = list(map(str, range(len(names) + _SPARE)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
                io.BytesIO(content), sep=delimiter, dtype="str", keep_default_na=False, header=None,
                names=columns, index_col=False, skiprows=1,
            ).fillna("")  # fmt: skip
        except pd.errors.ParserWarning as error:
            raise ValueError(f"rows hold more than {len(columns)} values") from error
    for column in columns[len(names) :]:
        spare = table.pop(column).str.strip()
        if (wrong := np.flatnonzero(spare != "")).size:
            more = f"more than {len(names)} values, one of them {spare.iloc[wrong[0]]!r}"
            raise ValueError(f"row {wrong[0] + 2} holds {more}")
    return table.set_axis(names, axis=1)


def _parse_by_arrow(content: bytes, names: list[str], delimiter: str) -> pd.DataFrame | None:
    """Parses 4.5 million rows in a fifth of the time of pandas; None for quotes, or rows of uneven length."""
    if b'"' in content:  # Arrow accepts a quote that is never closed
        return None
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()))
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=options,
        )
    except pa.ArrowInvalid:
        return None
    return table.to_pandas() if table.column_names == names else None


def _find_known_names(names: Iterable[str], labels: Sequence[str], path: AnyPath) -> dict[str, str]:
    """Finds the known name of each column that has one in another case or with blanks.

    Raises:
        UserError: If several columns have the same.
    """
    known = {_fold(name): name for name in (*_NAMES, *labels)}
    found = [(name, known[_fold(name)]) for name in names if _fold(name) in known]
    for _, meant in found:
        if len(same := [name for name, other in found if other == meant]) > 1:
            raise UserError(
                f"{path} has {len(same)} columns for {meant}: {', '.join(map(repr, same))}; keep one"
            )
    return dict(found)


def _fold(name: str) -> str:
    return name.strip().lower()


def find_slice_column(columns: Collection[Hashable], labels: Sequence[str]) -> str | None:
    """Returns the column that names the slice, or None if a table with these columns holds no labels."""
    if "Label" in columns:
        return "ID" if "ID" in columns else None
    keys = [key for key in LABEL_KEYS if key in columns]
    return keys[0] if keys and any(label in columns for label in labels) else None


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
        near = difflib.get_close_matches(_fold(column), labels, n=1, cutoff=0.85)
        if near and near[0] not in table:
            raise UserError(f"{path} has the column {column!r}: {_suggest(column, labels)}")
    present = [number for number, label in enumerate(labels) if label in table]
    columns = np.tile(np.array(present), len(table))
    uids = table[key].repeat(len(present)).reset_index(drop=True)
    values = table[[labels[number] for number in present]].to_numpy().ravel()
    return uids, columns, pd.Series(values, dtype="str")


def _suggest(name: str, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(_fold(name), labels, n=1, cutoff=0.0)
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
    folded = pd.Series(texts, dtype="str").map(_fold)
    parsed = pd.to_numeric(folded.replace(_TRUTHS), errors="coerce").to_numpy(dtype=np.float32)
    wrong = (folded != "").to_numpy() & ~np.isin(parsed, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong[numbers]))
        raise UserError(
            f"{path} has the label {values.iloc[row]!r} for {labels[columns[row]]} of {uids.iloc[row]}: "
            "expected 0, 1, true, false or nothing"
        )
    return np.asarray(parsed[numbers])
