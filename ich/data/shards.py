"""Shards: slices in a few large files, in the format of ``ich.data.chunks``, and their index.

The HU of a slice are read at their place in a chunk, which the index names. So the order of slices, an exact
resume and all figures are those of DICOM files. The order of litdata's ``StreamingDataset`` would be another
one, with a resume of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.data.chunks import name_chunk
from ich.data.fetching import Fetcher
from ich.image.resize import resize_hu
from ich.remote import AnyPath, RemotePath, Span
from ich.schema import ReadError, UserError
from ich.schema.codes import Refusal
from ich.tables import INDEX_DTYPES, require_columns

STATE, TABLE, LABELS_FILE, CHUNKS = "shards.json", "index.parquet", "labels.csv", "index.json"
"""Files beside the chunks: what was asked for, the index, the labels, and litdata's list of chunks."""

VERSION = 1  # raised when the HU of a slice or the files change

PLACE_DTYPES = {"chunk": "int32", "chunk_offset": "int64", "chunk_code": "str"}
"""Columns beside those of the index: number of the chunk, bytes from its start to the HU of the slice, and
why a slice is missing. Of a missing slice the first two are -1."""


class State(NamedTuple):
    """What a folder of shards holds.

    Attributes:
        version: ``VERSION``.
        slices: Number of slices.
        size: Side of a slice, pixels; 0 if slices have their own rows and columns.
        labels: The labels.
        pseudonyms: Whether pseudonyms replace PatientIDs.
        chunk_bytes: Bytes of a chunk, at most.
        digest: SHA-256 of what is written: files, labels and these settings.
        complete: Whether all chunks are there.
    """

    version: int
    slices: int
    size: int
    labels: tuple[str, ...]
    pseudonyms: bool
    chunk_bytes: int
    digest: str
    complete: bool


def read_state(folder: AnyPath) -> State | None:
    """Reads what a folder of shards holds; None if it is none.

    Raises:
        UserError: If it is of another version, or damaged.
    """
    path = folder / STATE
    try:
        state = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise UserError(f"{folder} holds shards of another version of ich: write them again with ich shard")
    try:
        return State(**state)._replace(labels=tuple(state["labels"]))
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): write the shards again with ich shard") from error


def read_shards(folder: AnyPath) -> tuple[State, pd.DataFrame]:
    """Reads the index of shards.

    Args:
        folder: Folder of the shards.

    Returns:
        What the folder holds; and the index, one row per slice, with the columns of ``PLACE_DTYPES``.

    Raises:
        UserError: If the folder holds no shards, or not all of them.
    """
    state = _require_state(folder)
    path = folder / TABLE
    try:
        with path.open("rb") as file:
            table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an index of shards: {error}") from error
    require_columns(table, (*INDEX_DTYPES, *PLACE_DTYPES), str(path))
    return state, table


def _require_state(folder: AnyPath) -> State:
    state = read_state(folder)
    if state is None:
        raise UserError(f"data.root={folder} holds no shards; write them with ich shard ROOT {folder}")
    if not state.complete:
        raise UserError(
            f"data.root={folder} does not hold all shards yet: call the same ich shard again, which continues"
        )
    return state


class ShardReader:
    """Reads slices of a table from shards. Each thread needs one of its own.

    Args:
        root: Folder of the shards, on the disk or at an address.
        table: Rows of the index of shards.
        size: Side of the slices that are read, pixels.

    Attributes:
        decoded: Always 0.
        is_remote: Whether the shards are at an address.

    Raises:
        UserError: If the shards hold slices of another size.
    """

    decoded = 0

    def __init__(self, root: AnyPath, table: pd.DataFrame, size: int) -> None:
        state = _require_state(root)
        if state.size not in (0, size):
            raise UserError(
                f"data.root={root} holds shards of {state.size} px and input.size={size}; choose input.size="
                f"{state.size}, or write shards without --size"
            )
        self.root, self.is_remote = root, isinstance(root, RemotePath)
        shapes = table[["Rows", "Columns"]].to_numpy(np.int32)
        self._shapes = np.full_like(shapes, state.size) if state.size else shapes  # (rows, 2)
        self._chunk = table["chunk"].to_numpy(np.int32)
        self._offset = table["chunk_offset"].to_numpy(np.int64)
        self._code, self._path = table["chunk_code"], table["path"]  # of missing slices only
        self._begin()

    def _begin(self) -> None:
        """Makes what belongs to one thread."""
        self._fetcher = Fetcher(self.root) if isinstance(self.root, RemotePath) else None
        largest = int(self._shapes.prod(axis=1, dtype=np.int64).max(initial=0))
        self._memory = np.empty(largest, dtype="<i2")

    def for_thread(self) -> ShardReader:
        """Returns a reader with its own memory."""
        twin = object.__new__(ShardReader)
        twin.__dict__ |= self.__dict__
        twin._begin()
        return twin

    def expect(self, rows: Sequence[int]) -> None:
        """Fetches slices that are read next, if the shards are at an address."""
        if self._fetcher is not None:
            self._fetcher.expect([self._locate(row) for row in rows if self._chunk[row] >= 0])

    def read(self, row: int, out: NDArray[np.int16]) -> None:
        """Reads a slice and resizes it into ``out``, (size, size) HU, contiguous.

        Raises:
            ReadError: If it could not be read when the shards were written, or its chunk cannot be read.
        """
        if self._chunk[row] < 0:
            path = str(self._path.iloc[row])
            raise ReadError(self._code.iloc[row], path, "it could not be read when the shards were written")
        resize_hu(self._read(row), len(out), out)

    def _read(self, row: int) -> NDArray[np.int16]:
        """Returns (Rows, Columns) HU, valid until the next call."""
        span, shape = self._locate(row), self._shapes[row]
        pixels = self._memory[: shape[0] * shape[1]]
        if self._fetcher is not None:
            if (part := self._fetcher.take(span)) is None:
                part = self._read_alone(self._fetcher.root, span)
            pixels[:] = np.frombuffer(part, "<i2")
            return pixels.reshape(shape)
        try:
            file = os.open(os.path.join(self.root, span.name), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH118
            try:
                count = os.preadv(file, [pixels.data], span.start)
            finally:
                os.close(file)
        except OSError as error:
            raise self._lack(span, error.strerror) from error
        if count < pixels.nbytes:
            raise self._lack(span)
        return pixels.reshape(shape)

    def _read_alone(self, root: RemotePath, span: Span) -> bytes:
        """Reads what could not be fetched together with others; the error says why."""
        try:
            part = (root / span.name).read_bytes(span.start, span.stop)
        except OSError as error:
            raise self._lack(span, error.strerror) from error
        if len(part) < span.stop - span.start:
            raise self._lack(span)
        return part

    def _locate(self, row: int) -> Span:
        start, (rows, columns) = int(self._offset[row]), self._shapes[row].tolist()
        return Span(name_chunk(int(self._chunk[row])), start, start + 2 * rows * columns)

    def _lack(self, span: Span, why: str | None = None) -> ReadError:
        what = f"bytes {span.start} to {span.stop} cannot be read" + (f": {why}" if why else "")
        return ReadError(Refusal.UNREADABLE, str(self.root / span.name), what)
