"""The index of a folder on disk, and its parts before it is complete."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ich.image import sort_slices
from ich.schema import UserError
from ich.schema.codes import PASSING, Refusal
from ich.tables import HEADER_DTYPES, INDEX_DTYPES, make_table, read_index, restore_texts, write_table
from ich.tables.stacks import number_stacks

INDEX_FILES = ("refused.csv", "index.parquet")
"""Files of an index."""

REFUSED_DTYPES = {"path": "str", "code": "str", "detail": "str", "file_size": "int64", "mtime_ns": "int64"}

_VERSION = 9  # raised when what a header yields changes, or the order of slices
_OTHER_ORDER = 8  # the same with slices in another order
_SERIES = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
_PREFIX = "unfinished-"  # of folders with the parts of an unfinished index
_INTERVAL = 10.0  # seconds of reading that may be lost if the process is killed
_MOST_ROWS = 50_000  # that are held as tuples, which take ten times the memory of a table

Stamps = list[list[int]]
"""Inode, size and time of each file of an index, which another index in the folder does not share."""

Row = tuple[Any, ...]
Rows = tuple[list[Row], list[Row]]
"""Slices in the order of ``HEADER_DTYPES``, and refused files in the order of ``REFUSED_DTYPES``."""


class Index(NamedTuple):
    """The slices of a folder.

    Attributes:
        table: One row per readable slice: ``INDEX_DTYPES``.
        refused: One row per refused file: ``REFUSED_DTYPES``; -1 if it has no size or time.
    """

    table: pd.DataFrame
    refused: pd.DataFrame

    @property
    def unread(self) -> pd.DataFrame:
        """Refused files that may hold slices; files of another kind by their name are left out."""
        return self.refused[self.refused["code"] != Refusal.OTHER_KIND]


def make_index(slices: list[Row], refused: list[Row]) -> Index:
    """Makes an index of rows, each in the order of its table's columns, with all slices in one stack."""
    table = make_table(slices, HEADER_DTYPES).assign(stack=np.int32(0))
    return Index(table, make_table(refused, REFUSED_DTYPES))


def order_index(table: pd.DataFrame) -> pd.DataFrame:
    """Finds the stack of each slice, and orders slices by patient, study, series, stack and position."""
    table = sort_slices(table, _SERIES)
    table["stack"] = number_stacks(table)
    return sort_slices(table, [*_SERIES, "stack"]) if table["stack"].any() else table


def read_cache(folder: Path, *, pseudonyms: bool) -> Index:
    """Reads the index in a folder.

    Args:
        folder: The index's folder.
        pseudonyms: Whether pseudonyms must replace PatientIDs.

    Returns:
        The index; an empty one if there is none, if it is broken, or if its patients are not yet hidden.

    Raises:
        UserError: If patients are hidden but the key is missing.
    """
    try:
        table = read_index(folder / "index.parquet")
        refused = restore_texts(
            pd.read_csv(folder / "refused.csv", dtype=REFUSED_DTYPES, keep_default_na=False)
        )
        version = table.attrs.pop("version", None)
        fits = version in (_VERSION, _OTHER_ORDER) and list(refused) == list(REFUSED_DTYPES)
        hidden = table.attrs.pop("pseudonyms", False)
    except (UserError, OSError, ValueError):
        fits = False
    if fits and hidden and not pseudonyms:
        raise UserError(
            f"the index in {folder} holds pseudonyms, but their key is missing; remove the folder to make a "
            "new index"
        )
    if not fits or hidden != pseudonyms:
        return make_index([], [])
    table = table[list(INDEX_DTYPES)]
    if version == _OTHER_ORDER:
        table = order_index(table)
    return Index(table, refused[~refused["code"].isin(PASSING)])


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, private to the owner, which mkdir does not do for parents."""
    for made in (*reversed(folder.parents), folder):
        made.mkdir(mode=0o700, exist_ok=True)


def find_stamps(folder: Path) -> Stamps:
    """Returns inode, size and time of the files of an index; no stamp for a file that is missing."""
    stamps: Stamps = []
    for name in INDEX_FILES:
        with suppress(OSError):
            status = (folder / name).stat()
            stamps.append([status.st_ino, status.st_size, status.st_mtime_ns])
    return stamps


def write_cache(index: Index, folder: Path, *, pseudonyms: bool) -> Stamps:
    """Writes an index to a folder, each file completely or not at all, readable by its owner only.

    Args:
        index: The index.
        folder: Folder; made if it does not exist.
        pseudonyms: Whether pseudonyms replace PatientIDs.

    Returns:
        The stamps of its files, from ``find_stamps``.

    Raises:
        UserError: If it cannot be written.
    """
    table = index.table.copy(deep=False)
    table.attrs |= {"version": _VERSION, "pseudonyms": pseudonyms}
    try:
        make_folder(folder)
        # A folder of its own, closed to others: runs that start together do not meet in it.
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as closed:
            for name, content in zip(INDEX_FILES, (index.refused, table), strict=True):
                write_table(content, Path(closed, name))
                Path(closed, name).chmod(0o600)
            stamps = find_stamps(Path(closed))
            for name in INDEX_FILES:
                Path(closed, name).replace(folder / name)
    except OSError as error:
        raise UserError(
            f"the index cannot be written to {folder}: {error.strerror or error}; "
            "make room, or name another folder with data.index_dir"
        ) from error
    return stamps


class Unfinished:
    """Parts of an unfinished index, kept beside it so that an interruption does not lose them.

    Each part is an index of some files. Parallel runs use folders with different names.

    Args:
        folder: The index's folder.
        pseudonyms: Whether pseudonyms replace PatientIDs.
    """

    def __init__(self, folder: Path, *, pseudonyms: bool) -> None:
        self._folder = folder
        self._pseudonyms = pseudonyms
        self._parts = sorted(folder.glob(f"{_PREFIX}*"))

    def read(self) -> Index:
        """Reads the parts of interrupted runs; a file may occur more than once."""
        parts = (read_cache(part, pseudonyms=self._pseudonyms) for part in self._parts)
        tables, refusals = zip(make_index([], []), *parts, strict=True)
        return Index(pd.concat(tables, ignore_index=True), pd.concat(refusals, ignore_index=True))

    def collect(self, chunks: Iterable[Rows]) -> list[Index]:
        """Collects rows, and writes them every few seconds, when there are many, and at an interruption.

        Raises:
            UserError: If it cannot be written.
        """
        collected: list[Index] = []
        rows: Rows = ([], [])
        kept = time.monotonic()
        try:
            for slices, refused in chunks:
                rows[0].extend(slices)
                rows[1].extend(refused)
                if time.monotonic() - kept >= _INTERVAL or len(rows[0]) >= _MOST_ROWS:
                    collected.append(make_index(*rows))
                    self._write(collected[-1])
                    rows, kept = ([], []), time.monotonic()
        except BaseException:  # also of Ctrl-C: what was read is kept
            with suppress(UserError):
                self._write(make_index(*rows))
            raise
        return [*collected, make_index(*rows)]

    def remove(self) -> None:
        """Removes all parts, once the index holds them."""
        for part in self._parts:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, index: Index) -> None:
        self._parts.append(self._folder / f"{_PREFIX}{uuid.uuid4().hex}")
        write_cache(index, self._parts[-1], pseudonyms=self._pseudonyms)
