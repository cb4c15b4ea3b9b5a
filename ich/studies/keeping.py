"""Headers that an earlier call read, kept in a file so that the next call need not read them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich import __version__
from ich.files import SETTLED, find_on_disk, for_owner_only
from ich.index.joining import find_places
from ich.schema import UserError
from ich.schema.codes import PASSING
from ich.studies.unpacking import File
from ich.tables import write_table

STATE = ["file_size", "mtime_ns", "ctime_ns"]
"""Columns that show whether a file has changed. Nobody can set the last one, the time of change of its inode
(``st_ctime_ns``), so a changed file is noticed even if a program restores its size and its time."""


def take_kept(
    kept: Path | None, files: Sequence[File], blank: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Takes the rows of unchanged files from those that ``write_kept`` wrote.

    Args:
        kept: The file; None for none.
        files: The files that are wanted.
        blank: A table without rows, which has the columns of the rows.

    Returns:
        Rows, and for each the place of its file among ``files``.
    """
    table = _read(kept, blank) if kept is not None else blank
    if table.empty or not files:
        return blank, np.empty(0, np.intp)
    state = pd.DataFrame([_find_state(file.path) for file in files], columns=STATE, dtype="int64")
    places = find_places(table["path"], pd.Series([file.path for file in files], dtype="str"))
    is_same = (state.to_numpy()[places] == table[STATE].to_numpy()).all(axis=1) & (places >= 0)
    return table[is_same], places[is_same].astype(np.intp)


def write_kept(
    kept: Path, table: pd.DataFrame, files: Sequence[File], numbers: NDArray[np.intp], began: int
) -> None:
    """Writes the rows of files that can be recognized later, readable by their owner only.

    Members of archives are unpacked anew each time, so they are left out. So are files that may become
    readable while they stay the same, and files that changed so shortly before they were read that a further
    change might have had the same time.

    Args:
        kept: The file.
        table: The rows.
        files: Files that were read.
        numbers: For each row, the place of its file.
        began: Time before reading began, ns.

    Raises:
        UserError: If it cannot be written.
    """
    on_disk = np.array([file.path == file.shown for file in files], bool)[numbers]
    is_known = ~table["code"].isin(PASSING) & ((table["code"] != "") | (table["digest"] != ""))
    lasting = table[on_disk & is_known & (table["ctime_ns"] < began - SETTLED)].reset_index(drop=True)
    lasting.attrs["version"] = __version__
    try:
        with for_owner_only():
            write_table(lasting, kept)
    except OSError as error:
        raise UserError(f"{kept} cannot be written: {error.strerror or error}; make room") from error


def _read(kept: Path, blank: pd.DataFrame) -> pd.DataFrame:
    """Reads kept rows; none if there are none, or if another version wrote them, or if they are damaged."""
    try:
        with kept.open("rb") as file:
            table = pd.read_parquet(file)
    except (OSError, ValueError):
        return blank
    fits = table.attrs.pop("version", None) == __version__ and table.dtypes.equals(blank.dtypes)
    return table if fits else blank


def _find_state(path: str) -> tuple[int, int, int]:
    try:
        return read_state(path)
    except OSError:
        return -1, -1, -1


def read_state(path: str) -> tuple[int, int, int]:
    """Returns the values of ``STATE``.

    Raises:
        OSError: If there is no such file.
    """
    status = os.stat(find_on_disk(path))  # noqa: PTH116 - a Path costs as much as the read
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
