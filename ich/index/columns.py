"""Names of the columns of label files: the known ones, and what a file calls them instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from ich.remote import AnyPath
from ich.schema import UserError

LABEL_KEYS = ("SOPInstanceUID", "ID")
"""Columns that may name the slice in a wide label file; the first one present counts."""

STUDY_KEYS = ("StudyInstanceUID", "PatientID")
"""Columns that may name the study or the patient in a file of study labels; the first one present counts."""

KNOWN = (*LABEL_KEYS, "Label")
"""Known columns of a file of slices beside the labels."""

NO_COLUMNS: Mapping[str, str] = {}
"""All columns have their known names."""

_MOST = 20  # names in a message


def fold(name: str) -> str:
    """Returns a name without what does not count: its case, and blanks around it."""
    return name.strip().lower()


def show_columns(names: Iterable[Hashable]) -> str:
    """Lists the columns of a file for a message."""
    shown = list(map(ascii, names))
    more = f" and {len(shown) - _MOST} more" if len(shown) > _MOST else ""
    return ", ".join(shown[:_MOST]) + more


def check_columns(columns: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Refuses own names of columns that cannot be meant, before any file is read.

    Args:
        columns: The file's name of some known columns.
        labels: The labels.

    Raises:
        UserError: If a column is not known, has no name, or shares its name with another.
    """
    known = list(dict.fromkeys((*labels, *KNOWN, *STUDY_KEYS)))
    for name, column in columns.items():
        shown = f"columns={{{name}: {column}}}"
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{shown}: {name} is neither a label nor a key; nearest is {near}, of {', '.join(known)}. "
                "The known name comes first, and then that of the file"
            )
        if not isinstance(column, str) or not column.strip():
            raise UserError(f"{shown}: expected the name of a column in quotes")
    for (first, column), (second, other) in combinations(columns.items(), 2):
        if fold(column) == fold(other):
            raise UserError(
                f"columns={{{first}: {column}, {second}: {other}}}: one column cannot be both; leave one out"
            )


def find_names(
    names: Sequence[str], labels: Sequence[str], columns: Mapping[str, str], path: AnyPath
) -> dict[str, str]:
    """Finds the known name of each column that has one, in any case and with blanks.

    Args:
        names: The columns of a file.
        labels: Known names beside ``KNOWN``.
        columns: The file's name of some known columns.
        path: The file.

    Returns:
        Known names by the names in the file.

    Raises:
        UserError: If several columns have the same known name, or there is no such column.
    """
    known = {fold(name): name for name in (*KNOWN, *labels)}
    known |= {fold(column): name for name, column in columns.items()}
    found = [(name, known[fold(name)]) for name in names if fold(name) in known]
    for _, meant in found:
        if len(same := [name for name, other in found if other == meant]) > 1:
            raise UserError(
                f"{path} has {len(same)} columns for {meant}: {', '.join(map(repr, same))}; keep one. Its "
                f"columns are {show_columns(names)}"
            )
    for name in columns.keys() - {meant for _, meant in found}:
        raise UserError(
            f"columns={{{name}: {columns[name]}}}: {path} has no such column; it has {show_columns(names)}"
        )
    return dict(found)


def choose_key(keys: Sequence[str], present: Collection[Hashable], columns: Mapping[str, str]) -> str | None:
    """Chooses the key of a label file: the first one present, but one that the user has named comes first."""
    return next((key for key in sorted(keys, key=lambda key: key not in columns) if key in present), None)


def share_columns(
    columns: Mapping[str, str], files: Sequence[tuple[AnyPath, Sequence[str]]]
) -> list[dict[str, str]]:
    """Gives each label file those of the own names that it has.

    Args:
        columns: The files' name of some known columns.
        files: Each file with its columns.

    Raises:
        UserError: If no file has one of them.
    """
    held = [set(map(fold, names)) for _, names in files]
    for name, column in columns.items():
        if not any(fold(column) in names for names in held):
            lists = "; ".join(f"{path} has {show_columns(names)}" for path, names in files)
            raise UserError(f"columns={{{name}: {column}}}: there is no such column: {lists}")
    return [{name: own for name, own in columns.items() if fold(own) in names} for names in held]
