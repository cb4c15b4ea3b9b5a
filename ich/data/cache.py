"""Resized slices in one file, for disks that are slow to open many."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ich.data.loader import SliceLoader
from ich.data.order import EpochSampler
from ich.data.slices import SliceArrays, SliceDataset, SliceReader
from ich.files import for_owner_alone, replacing
from ich.schema import InputSpec, ReadError, UserError
from ich.tables import write_table

PIXELS, SLICES, STATE = "hu.npy", "slices.parquet", "cache.json"
"""Files of a cache: (slices, size, size) int16 HU; what tells each slice's file from others; the rest."""

_VERSION = 2  # raised when the HU of a slice or the files change
_BATCH = 64  # slices that are read at a time
_SAVED = 4096  # slices after which a stopped build can go on


class State(NamedTuple):
    """What ``cache.json`` holds."""

    version: int
    size: int  # pixels
    done: int  # slices that are written
    unread: list[list[Any]]  # row and code of each slice that could not be read
    key: str  # in hexadecimal, of the hash that stands for a path: no two caches have the same hashes


def build_cache(
    folder: Path, root: Path, arrays: SliceArrays, size: int, workers: int, progress: bool = True
) -> None:
    """Writes the slices of a data set, resized, unless they are there; what was stopped goes on.

    The folder is readable by its owner alone, as it holds images of patients. It names neither them nor
    files: a slice is its row, and its file a hash of the path.

    Args:
        folder: Of the cache.
        root: Folder of the data set.
        arrays: The table's columns.
        size: In pixels.
        workers: Threads that read.
        progress: Show a bar on a terminal.

    Raises:
        UserError: If the folder holds something else, is of other slices or another size, or the disk is
            too small.
    """
    with for_owner_alone():
        _build(folder, root, arrays, size, workers, progress)


def _build(folder: Path, root: Path, arrays: SliceArrays, size: int, workers: int, progress: bool) -> None:
    state = _read_state(folder)
    if state is None:
        state = _begin(folder, arrays, size)
    _locate(folder, state, arrays, size)
    written = _read_slices(folder)
    if state.done == len(written):
        return
    if not np.array_equal(written["path"], _hash_paths(arrays.path, state.key)):
        raise UserError(
            f"data.cache={folder} was begun for {len(written)} other slices and is not complete; remove it "
            "to have it made anew"
        )
    try:
        _fill(
            folder, state, SliceDataset(SliceReader(root, arrays), arrays, InputSpec(size)), workers, progress
        )
    except OSError as error:
        raise UserError(f"data.cache={folder} cannot be written to: {error.strerror or error}") from error


def _begin(folder: Path, arrays: SliceArrays, size: int) -> State:
    """Makes the files of a cache, without slices."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"data.cache={folder} holds something that is no cache; name a new folder")
    count = len(arrays.path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        needed, free = 2 * count * size * size, shutil.disk_usage(folder).free
        if needed > free:
            raise UserError(
                f"data.cache={folder} needs {needed / 1e9:.1f} GB for {count} slices of {size} px, and "
                f"{free / 1e9:.1f} GB are free; make room, or name another disk"
            )
        state = State(_VERSION, size, 0, [], secrets.token_hex(16))
        paths = _hash_paths(arrays.path, state.key)
        slices = pd.DataFrame({"path": paths, "file_size": arrays.file_size, "mtime_ns": arrays.mtime_ns})
        write_table(slices, folder / SLICES)
        np.lib.format.open_memmap(folder / PIXELS, "w+", np.int16, (count, size, size)).flush()
        _write_state(folder, state)
    except OSError as error:
        raise UserError(
            f"data.cache={folder} cannot be written to: {error.strerror or error}; name another folder"
        ) from error
    return state


def _fill(folder: Path, state: State, dataset: SliceDataset, workers: int, progress: bool) -> None:
    offset, count = _find_pixels(folder)
    rows = np.arange(state.done, count)
    loader = SliceLoader(dataset, batch_size=_BATCH, sampler=EpochSampler(rows), num_workers=workers)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    shown = progress and sys.stderr.isatty()
    with (
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar,
        (folder / PIXELS).open("r+b", buffering=0) as file,
    ):
        task = bar.add_task("Writing the cache", total=count, completed=state.done)
        saved = state.done
        for batch in loader:
            for row, hu in zip(batch.get("row", ()), batch.get("hu", ()), strict=True):
                os.pwrite(file.fileno(), hu.numpy(), offset + int(row) * hu.nbytes)
            unread = [[row, str(error.code)] for row, error in batch["unread"]]
            done = min(state.done + _BATCH, count)
            state = state._replace(done=done, unread=state.unread + unread)
            bar.update(task, completed=done)
            if done - saved >= _SAVED or done == count:
                os.fsync(file.fileno())  # before the state says that they are there
                _write_state(folder, state)
                saved = done


def _find_pixels(folder: Path) -> tuple[int, int]:
    """Where the slices begin in their file, and how many there are."""
    pixels = np.lib.format.open_memmap(folder / PIXELS, "r")
    return int(pixels.offset), len(pixels)


class CacheReader:
    """Reads slices of a table from a cache.

    Args:
        folder: Of the cache.
        root: Folder of the data set, which is not looked into.
        arrays: The table's columns.
        size: Of the slices in pixels.

    Attributes:
        decoded: 0, as none is.

    Raises:
        UserError: If the cache is not complete, or is of other slices or another size.
    """

    decoded = 0

    def __init__(self, folder: Path, root: Path, arrays: SliceArrays, size: int) -> None:
        state = _read_state(folder)
        if state is None or state.done < len(_read_slices(folder)):
            raise UserError(
                f"data.cache={folder} is not complete; call HeadCTDataModule.prepare_data() first"
            )
        self._place = _locate(folder, state, arrays, size)  # (rows,) of the table in the cache
        self._unread: dict[int, str] = dict(state.unread)
        self._root, self._paths = root, arrays.path
        self._file = os.fsencode(folder / PIXELS)
        self._offset, _ = _find_pixels(folder)

    def for_thread(self) -> CacheReader:
        """Returns itself: nothing in it changes."""
        return self

    def read(self, row: int, out: NDArray[np.int16]) -> None:
        """Reads a slice into ``out``, (size, size) HU, contiguous.

        Raises:
            ReadError: If it could not be read when the cache was made.
            UserError: If the cache is gone or shorter than it was.
        """
        place = int(self._place[row])
        if place in self._unread:
            path = self._root / os.fsdecode(self._paths[row])
            raise ReadError(self._unread[place], path, "it could not be read when the cache was made")
        try:
            file = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                count = os.preadv(file, [out.data], self._offset + place * out.nbytes)
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(f"{os.fsdecode(self._file)} cannot be read: {error.strerror}") from error
        if count < out.nbytes:
            raise UserError(f"{os.fsdecode(self._file)} is cut off; remove the cache to have it made anew")


def _locate(folder: Path, state: State, arrays: SliceArrays, size: int) -> NDArray[np.int64]:
    """Finds the table's rows in a cache, and refuses one that is not of these slices as they are now."""
    if state.version != _VERSION:
        raise UserError(f"data.cache={folder} is of another version of ich; remove it to have it made anew")
    if state.size != size:
        raise UserError(
            f"data.cache={folder} holds slices of {state.size} px and input.size={size}; name another folder"
        )
    slices = _read_slices(folder)
    bytes_of_slices = 2 * len(slices) * size * size
    if not (folder / PIXELS).is_file() or (folder / PIXELS).stat().st_size < bytes_of_slices:
        raise UserError(f"{folder / PIXELS} is missing or cut off; remove the cache to have it made anew")
    paths = pd.Index(_hash_paths(arrays.path, state.key))
    place: NDArray[np.int64] = pd.Index(slices["path"]).get_indexer(paths).astype(np.int64)
    found = slices.iloc[place]
    fits = (place >= 0) & (found["file_size"].to_numpy() == arrays.file_size)
    fits &= found["mtime_ns"].to_numpy() == arrays.mtime_ns
    if not fits.all():
        lacks = f"lacks {int((~fits).sum())} of {len(fits)} slices as they are now"
        changed = "files were added or changed since it was made. Remove it to have it made anew"
        example = os.fsdecode(arrays.path[int(np.argmin(fits))])
        raise UserError(
            f"data.cache={folder} {lacks}, {example} for one: {changed}",
            kept=f"data.cache {lacks}: {changed}",
        )
    return place


def _hash_paths(paths: NDArray[np.bytes_], key: str) -> NDArray[np.int64]:
    """(rows,) 64 bits of BLAKE2b; two of a million paths fall together once in 40 million data sets."""
    keyed = partial(hashlib.blake2b, digest_size=8, key=bytes.fromhex(key))
    return np.frombuffer(b"".join(keyed(path).digest() for path in paths), np.int64)


def _read_slices(folder: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(folder / SLICES)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SLICES} cannot be read: {error}; remove the cache") from error


def _read_state(folder: Path) -> State | None:
    """What a folder says of its cache; None where there is none."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove the cache to have it made anew") from error


def _write_state(folder: Path, state: State) -> None:
    with replacing(folder / STATE) as partial:
        partial.write_text(json.dumps(state._asdict()), encoding="utf-8")
