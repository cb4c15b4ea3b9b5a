"""Writes shards: slices in HU with their labels, in a few large files, on a disk or at an address."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from threading import local
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress

from ich.data.chunks import (
    BEFORE_HU,
    describe_chunks,
    find_bounds,
    measure_items,
    name_chunk,
    pack_chunk,
    pack_item,
)
from ich.data.shards import CHUNKS, LABELS_FILE, STATE, TABLE, VERSION, State, read_state
from ich.data.slices import SliceReader, to_arrays
from ich.files import for_owner_only, replacing
from ich.index import build_index, find_labels, list_labels, locate_index, read_labels
from ich.index.columns import NO_COLUMNS, check_columns
from ich.index.joining import join_labels
from ich.index.pseudonyms import find_pseudonym_key
from ich.machine import count_cores
from ich.progress import make_bar
from ich.remote import AnyPath, RemotePath
from ich.schema import ReadError, UserError
from ich.schema.codes import Refusal
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.tables import STAMP

log = logging.getLogger(__name__)

CHUNK_BYTES = 64_000_000
"""Bytes of a chunk, about: litdata's own default, a second of a fast network."""

MOST_WORKERS = 8
"""Threads that write, at most, by default; there is one per core. Each holds two chunks in memory."""

_AHEAD = 64  # slices that are fetched together from an address


class Slices(NamedTuple):
    """What shards are made of.

    Attributes:
        root: Folder of the DICOM files, on the disk or at an address.
        table: Its index, one row per slice, with the label columns.
        labels: The label columns.
        size: Side of the slices in the shards, pixels; 0 keeps rows and columns.
        pseudonyms: Whether pseudonyms replace PatientIDs in the index.
    """

    root: AnyPath
    table: pd.DataFrame
    labels: tuple[str, ...]
    size: int = 0
    pseudonyms: bool = False


def collect_slices(
    root: AnyPath,
    *,
    labels: AnyPath | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    label_set: LabelSet = RSNA_LABELS,
    index_dir: Path | None = None,
    pseudonyms: bool = False,
    size: int = 0,
) -> Slices:
    """Collects the slices of a folder with their labels.

    Args:
        root: Folder of the DICOM files, on the disk or at an address.
        labels: Label file; by default the only one in ``root``. Without any, no label is known.
        columns: What it calls some of the labels and keys.
        label_set: The labels in it.
        index_dir: Folder of the index.
        pseudonyms: Keep a keyed hash in place of PatientID, from now on.
        size: Side of the slices in the shards, pixels; 0 keeps rows and columns.

    Raises:
        UserError: If slices or labels cannot be read, or do not belong together.
    """
    check_columns(columns, label_set.names)
    index = build_index(root, index_dir=index_dir, pseudonyms=pseudonyms)
    if labels is None and (columns or list_labels(root, label_set)):
        labels = find_labels(root, label_set, columns)
    table = index.table.assign(**dict.fromkeys(label_set.names, np.float32(np.nan)))
    if labels is not None:
        table, counts = join_labels(index.table, read_labels(labels, label_set, columns))
        if counts.warning:
            log.warning("%s", counts.warning)
    hidden = pseudonyms or find_pseudonym_key(index_dir or locate_index(root), make=False) is not None
    return Slices(root, table.reset_index(drop=True), label_set.names, size, hidden)


class Shard(NamedTuple):
    """A chunk that is written.

    Attributes:
        number: Its number.
        offset: (N,) where the HU of each of its rows begin, bytes; -1 for a missing slice.
        codes: Why slices are missing, by row.
        size: Bytes.
        is_new: Whether this call has written it.
    """

    number: int
    offset: NDArray[np.int64]
    codes: dict[int, str]
    size: int
    is_new: bool


def write_shards(
    slices: Slices, destination: AnyPath, *, chunk_bytes: int = CHUNK_BYTES, workers: int | None = None
) -> list[Shard]:
    """Writes slices in HU, with their labels, as shards. It continues where an earlier call was stopped.

    A chunk is written completely or not at all. Slices that cannot be read are left out. They keep their row
    in the index, so a training counts them as it counts those of files.

    Args:
        slices: The slices.
        destination: A new folder, or one that an earlier call with the same slices and settings began. On a
            disk only its owner can read it, because it holds images of patients.
        chunk_bytes: Bytes of a chunk, about.
        workers: Threads that read and write; by default one per core, at most ``MOST_WORKERS``.

    Returns:
        The chunks.

    Raises:
        ReadError: If the disk or the server fails on a file, which says nothing about the slice in it.
        UserError: If the destination holds something else, or cannot be written to.
    """
    plan = _Plan(slices, chunk_bytes)
    state = _make_state(slices, chunk_bytes)
    workers = min(MOST_WORKERS, count_cores()) if workers is None else workers
    try:
        with for_owner_only():
            found = _begin(destination, state)
            shards = [plan.describe(number) for number in range(plan.count) if plan.is_whole(number, found)]
            left = sorted({*range(plan.count)} - {shard.number for shard in shards})
            _check_room(destination, sum(plan.measure(number) for number in left))
            if left:  # not complete until the end, also if an earlier call was
                _write(destination, STATE, _to_json(state))
            shards += _write_chunks(plan, destination, left, workers)
            shards.sort(key=lambda shard: shard.number)
            _finish(plan, destination, state, shards)
    except ReadError:
        raise
    except OSError as error:
        raise UserError(f"{destination} cannot be written to: {error.strerror or error}") from error
    return shards


class _Plan:
    """Which rows are in which chunk, and where in it."""

    def __init__(self, slices: Slices, chunk_bytes: int) -> None:
        self.slices, self.chunk_bytes = slices, chunk_bytes
        table, size = slices.table, slices.size
        shapes = table[["Rows", "Columns"]].to_numpy(np.int64)
        self.shapes = np.full_like(shapes, size) if size else shapes
        self.lengths = measure_items(self.shapes, len(slices.labels), table["SOPInstanceUID"].to_list())
        number = (np.cumsum(self.lengths) - self.lengths) // chunk_bytes
        self.bounds = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(table))  # of the rows

    @property
    def count(self) -> int:
        """Number of chunks."""
        return len(self.bounds) - 1

    def rows(self, number: int) -> range:
        """Returns the rows of a chunk."""
        return range(int(self.bounds[number]), int(self.bounds[number + 1]))

    def measure(self, number: int) -> int:
        """Returns the bytes of a chunk without missing slices."""
        return int(find_bounds(self._lengths(number))[-1])

    def is_whole(self, number: int, found: dict[str, int]) -> bool:
        """Whether a chunk is among files, by name and size; one with missing slices is written again."""
        return found.get(name_chunk(number)) == self.measure(number)

    def describe(self, number: int, codes: dict[int, str] | None = None) -> Shard:
        """Describes a chunk, an earlier one without ``codes``, or a new one with those of missing slices."""
        rows = self.rows(number)
        present = np.array([row not in (codes or {}) for row in rows])
        bounds = find_bounds(self._lengths(number)[present])
        offset = np.full(len(rows), -1, np.int64)
        offset[present] = bounds[:-1] + BEFORE_HU
        return Shard(number, offset, codes or {}, int(bounds[-1]), codes is not None)

    def _lengths(self, number: int) -> NDArray[np.int64]:
        return self.lengths[self.bounds[number] : self.bounds[number + 1]]


def _make_state(slices: Slices, chunk_bytes: int) -> State:
    table, labels = slices.table, slices.labels
    digest = hashlib.sha256()
    for column in ("SOPInstanceUID", "PatientID", "frame", *STAMP):
        digest.update("\n".join(map(str, table[column])).encode())
    digest.update(table[list(labels)].to_numpy("<f4").tobytes())
    return State(
        version=VERSION,
        slices=len(table),
        size=slices.size,
        labels=labels,
        pseudonyms=slices.pseudonyms,
        chunk_bytes=chunk_bytes,
        digest=digest.hexdigest(),
        complete=False,
    )


def _begin(destination: AnyPath, state: State) -> dict[str, int]:
    """Makes the destination, or checks that an earlier call with the same slices has made it.

    Returns:
        The size of each file in it, bytes.
    """
    found = _list_sizes(destination)
    earlier = read_state(destination) if STATE in found else None
    if earlier is None:
        if names := [name for name in found if not name.startswith(".")]:
            raise UserError(
                f"{destination} holds files that are not shards, such as {names[0]}; name a new folder"
            )
    elif differing := [
        name
        for name in State._fields
        if name != "complete" and getattr(earlier, name) != getattr(state, name)
    ]:
        raise UserError(
            f"{destination} holds shards of other slices or settings (they differ in "
            f"{', '.join(differing)}); name a new folder"
        )
    if isinstance(destination, Path):
        destination.chmod(0o700)  # it may have been there, open to others
    return found


def _list_sizes(destination: AnyPath) -> dict[str, int]:
    if isinstance(destination, RemotePath):
        return {entry.name: entry.size for entry in destination.list_files()}
    destination.mkdir(parents=True, exist_ok=True)
    return {path.name: path.stat().st_size for path in destination.iterdir()}


def _check_room(destination: AnyPath, needed: int) -> None:
    if isinstance(destination, Path) and needed > (free := shutil.disk_usage(destination).free):
        raise UserError(
            f"{destination} needs {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free; make room, "
            "name another disk or an address, or write smaller slices with --size"
        )


def _write_chunks(plan: _Plan, destination: AnyPath, numbers: list[int], workers: int) -> list[Shard]:
    """Writes chunks in threads, each of which has a reader of its own."""
    slices, own, shards = plan.slices, local(), list[Shard]()
    arrays, rows = to_arrays(slices.table, slices.labels), sum(len(plan.rows(n)) for n in numbers)

    def write(number: int) -> Shard:
        if not hasattr(own, "reader"):
            own.reader = SliceReader(slices.root, arrays)
        return _write_chunk(plan, own.reader, arrays.target, destination, number)

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with make_bar(columns, shown=True) as bar, ThreadPoolExecutor(max(1, workers)) as pool:
        total = len(slices.table)
        task = bar.add_task("Writing shards", total=total, completed=total - rows)
        left, running = iter(numbers), set[Future[Shard]]()
        try:
            while running := running | {pool.submit(write, n) for n in islice(left, workers - len(running))}:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    shards.append(future.result())
                    bar.advance(task, len(shards[-1].offset))
        except BaseException:  # also of Ctrl-C: no further chunk is begun
            pool.shutdown(cancel_futures=True)
            raise
    return shards


def _write_chunk(
    plan: _Plan, reader: SliceReader, target: NDArray[np.float32], destination: AnyPath, number: int
) -> Shard:
    items, codes = list[bytes](), dict[int, str]()
    uids = plan.slices.table["SOPInstanceUID"]
    for row in plan.rows(number):
        try:
            hu = _read(plan, reader, row, plan.rows(number))
        except ReadError as error:
            if error.code == Refusal.UNREADABLE:
                raise
            codes[row] = str(error.code)
            continue
        items.append(pack_item(hu, target[row], row, uids.iloc[row]))
    shard = plan.describe(number, codes)
    if items:
        _write(destination, name_chunk(number), pack_chunk(items))
    return shard


def _read(plan: _Plan, reader: SliceReader, row: int, rows: range) -> NDArray[np.int16]:
    """Reads a slice of a chunk; from an address, many that follow are fetched with it."""
    if reader.is_remote and (row - rows.start) % _AHEAD == 0:
        reader.expect(range(row, min(row + _AHEAD, rows.stop)))
    if not (size := plan.slices.size):
        return reader.read_whole(row)
    out = np.empty((size, size), np.int16)
    reader.read(row, out)
    return out


def _finish(plan: _Plan, destination: AnyPath, state: State, shards: list[Shard]) -> None:
    """Writes what makes a whole of the chunks; the state last."""
    table, labels = plan.slices.table, list(plan.slices.labels)
    offset = np.concatenate([shard.offset for shard in shards])
    number = np.concatenate([np.full(len(shard.offset), shard.number) for shard in shards])
    codes = {row: code for shard in shards for row, code in shard.codes.items()}
    places = table.drop(columns=labels).assign(
        chunk=np.where(offset >= 0, number, -1).astype(np.int32),
        chunk_offset=offset,
        chunk_code=pd.Series([codes.get(row, "") for row in range(len(table))], table.index, dtype="str"),
    )
    described = [
        (name_chunk(shard.number), int((shard.offset >= 0).sum()), shard.size)
        for shard in shards
        if (shard.offset >= 0).any()
    ]
    known = table[table[labels].notna().any(axis=1)]
    if len(known):
        wide = known[["SOPInstanceUID"]].join(known[labels].astype("Int8"))
        _write(destination, LABELS_FILE, wide.to_csv(index=False).encode())
    parquet = io.BytesIO()
    places.to_parquet(parquet, index=False)
    _write(destination, TABLE, parquet.getvalue())
    _write(destination, CHUNKS, json.dumps(describe_chunks(described, plan.chunk_bytes)).encode())
    _write(destination, STATE, _to_json(state._replace(complete=True)))


def _to_json(state: State) -> bytes:
    return json.dumps(state._asdict(), indent=2).encode()


def _write(folder: AnyPath, name: str, content: bytes) -> None:
    if isinstance(folder, RemotePath):
        (folder / name).write_bytes(content)
        return
    with replacing(folder / name) as partial:
        partial.write_bytes(content)
