"""The index of a folder on disk, and what is read of it before it is whole."""

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

from ich.schema import UserError
from ich.schema.codes import Refusal
from ich.tables import HEADER_DTYPES, INDEX_DTYPES, read_index, restore_texts, write_table

REFUSED_DTYPES = {"path": "str", "code": "str", "detail": "str", "file_size": "int64", "mtime_ns": "int64"}

_VERSION = 8  # raised when what a header yields changes
# What these say may change while the file does not: a codec is installed, a permission given.
_PASSING = [Refusal.UNREADABLE, Refusal.UNSUPPORTED_SYNTAX]
_PREFIX = "unfinished-"  # of the folders of what was read before an index is whole
_INTERVAL = 10.0  # seconds of reading that may be lost if the process is killed

Row = tuple[Any, ...]
Rows = tuple[list[Row], list[Row]]
"""Slices in the order of ``HEADER_DTYPES``, refused files in that of ``REFUSED_DTYPES``."""


class Index(NamedTuple):
    """The slices of a folder.

    Attributes:
        table: One row a slice that can be read: ``INDEX_DTYPES``.
        refused: One row a file that was refused: ``REFUSED_DTYPES``; -1 where it has no size or time.
    """

    table: pd.DataFrame
    refused: pd.DataFrame

    @property
    def unread(self) -> pd.DataFrame:
        """Of ``refused`` what may hold slices: not what is something else by its name."""
        return self.refused[self.refused["code"] != Refusal.OTHER_KIND]


def make_index(slices: list[Row], refused: list[Row]) -> Index:
    """Makes an index of rows, each in the order of its table's columns, with all slices in one stack."""
    table = _make_table(slices, HEADER_DTYPES).assign(stack=np.int32(0))
    return Index(table, _make_table(refused, REFUSED_DTYPES))


def _make_table(rows: list[Row], dtypes: dict[str, str]) -> pd.DataFrame:
    columns = zip(*rows, strict=True) if rows else [()] * len(dtypes)
    # Column by column, as rows of mixed types take pandas several times as long.
    return pd.DataFrame(
        {name: pd.Series(column, dtype=dtypes[name]) for name, column in zip(dtypes, columns, strict=True)}
    )


def read_cache(folder: Path, *, pseudonyms: bool) -> Index:
    """Reads the index that is kept in a folder.

    Args:
        folder: The index's folder.
        pseudonyms: Whether they have to stand in the place of PatientIDs.

    Returns:
        The index; an empty one if there is none, or a broken one, or one of which patients are not yet
        hidden.

    Raises:
        UserError: If patients are hidden whose key is gone.
    """
    try:
        table = read_index(folder / "index.parquet")
        refused = restore_texts(
            pd.read_csv(folder / "refused.csv", dtype=REFUSED_DTYPES, keep_default_na=False)
        )
        fits = table.attrs.pop("version", None) == _VERSION and list(refused) == list(REFUSED_DTYPES)
        hidden = table.attrs.pop("pseudonyms", False)
    except (UserError, OSError, ValueError):
        fits = False
    if fits and hidden and not pseudonyms:
        raise UserError(
            f"the index in {folder} holds pseudonyms, and their key is gone; remove the folder to have it "
            "made anew"
        )
    if not fits or hidden != pseudonyms:
        return make_index([], [])
    return Index(table[list(INDEX_DTYPES)], refused[~refused["code"].isin(_PASSING)])


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, closed to others, as mkdir's own parents would not be."""
    for made in (*reversed(folder.parents), folder):
        made.mkdir(mode=0o700, exist_ok=True)


def write_cache(index: Index, folder: Path, *, pseudonyms: bool) -> None:
    """Keeps an index in a folder, each file whole or not at all, readable by its owner alone.

    Args:
        index: To be kept.
        folder: Made where it does not exist.
        pseudonyms: Whether they stand in the place of PatientIDs.

    Raises:
        UserError: If it cannot be written.
    """
    table = index.table.copy(deep=False)
    table.attrs |= {"version": _VERSION, "pseudonyms": pseudonyms}
    try:
        make_folder(folder)
        # A folder of its own, closed to others: runs that start together do not meet in it.
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as closed:
            for name, content in (("refused.csv", index.refused), ("index.parquet", table)):
                write_table(content, Path(closed, name))
                Path(closed, name).chmod(0o600)
                Path(closed, name).replace(folder / name)
    except OSError as error:
        raise UserError(
            f"the index cannot be written to {folder}: {error.strerror or error}; "
            "make room, or name another folder with data.index_dir"
        ) from error


class Unfinished:
    """What is read before the index is whole, kept beside it so that an interruption does not lose it.

    It is kept as indexes of some files each, in folders whose names runs side by side do not share.

    Args:
        folder: The index's folder.
        pseudonyms: Whether they stand in the place of PatientIDs.
    """

    def __init__(self, folder: Path, *, pseudonyms: bool) -> None:
        self._folder = folder
        self._pseudonyms = pseudonyms
        self._parts = sorted(folder.glob(f"{_PREFIX}*"))

    def read(self) -> Index:
        """Reads what interrupted runs have left; a file may be in it more than once."""
        parts = (read_cache(part, pseudonyms=self._pseudonyms) for part in self._parts)
        tables, refusals = zip(make_index([], []), *parts, strict=True)
        return Index(pd.concat(tables, ignore_index=True), pd.concat(refusals, ignore_index=True))

    def collect(self, chunks: Iterable[Rows]) -> list[Index]:
        """Collects what is read, and keeps it every few seconds and when it is interrupted.

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
                if time.monotonic() - kept >= _INTERVAL:
                    collected.append(make_index(*rows))
                    self._write(collected[-1])
                    rows, kept = ([], []), time.monotonic()
        except BaseException:
            with suppress(UserError):
                self._write(make_index(*rows))
            raise
        return [*collected, make_index(*rows)]

    def remove(self) -> None:
        """Removes what was found and what was written, once the index holds it."""
        for part in self._parts:
            shutil.rmtree(part, ignore_errors=True)

    def _write(self, index: Index) -> None:
        self._parts.append(self._folder / f"{_PREFIX}{uuid.uuid4().hex}")
        write_cache(index, self._parts[-1], pseudonyms=self._pseudonyms)
