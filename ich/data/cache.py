"""Resized slices in one file, for disks that are slow to open many."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress

from ich.data.loader import SliceLoader
from ich.data.order import EpochSampler
from ich.data.slices import Reader, SliceArrays, SliceDataset
from ich.files import for_owner_only, replacing
from ich.progress import make_bar
from ich.remote import AnyPath
from ich.schema import InputSpec, ReadError, UserError
from ich.schema.codes import Refusal
from ich.tables import STAMP, write_table

log = logging.getLogger(__name__)

PIXELS, SLICES, STATE, LOCK = "hu.npy", "slices.parquet", "cache.json", ".lock"
"""Files of a cache: (slices, size, size) int16 HU; what identifies each slice's file; the rest."""

_VERSION = 3  # raised when the HU of a slice or the files change
_BATCH = 64  # slices that are read at a time
_INTERVAL = 10.0  # seconds of reading that may be lost if the process is killed


class Manifest(NamedTuple):
    """What a cache holds."""

    size: int  # pixels
    done: int  # slices that are written
    unread: dict[int, str]  # code by row, of slices that could not be read
    key: str  # in hexadecimal, of the hash that stands for a path: no two caches have the same hashes
    slices: pd.DataFrame  # hash of the path, file_size, mtime_ns


def build_cache(
    folder: Path, reader: Reader, table: pd.DataFrame, arrays: SliceArrays, size: int, workers: int
) -> None:
    """Writes the resized slices of a data set, unless they exist. It continues where it was stopped.

    Each slice is kept as it is; thin ones are averaged when they are read from the cache.

    Only its owner can read the folder, because it holds images of patients. It names neither patients nor
    files: a slice is a row, and its file is a keyed hash of the path. While another run writes, this waits.

    Args:
        folder: The cache's folder.
        reader: Reads the slices.
        table: Index of the slices.
        arrays: The table's columns.
        size: Side of a resized slice in pixels.
        workers: Threads that read.

    Raises:
        ReadError: If the disk fails on a file, which says nothing about the slice in it.
        UserError: If the folder holds something else, other slices or another size, cannot be written to, or
            if the disk is too small.
    """
    try:
        if (manifest := _read_manifest(folder)) is not None and manifest.done == len(manifest.slices):
            _locate_slices(folder, manifest, table, size)
            return
        with for_owner_only(), _lock(folder):
            manifest = _read_manifest(folder) or _begin(folder, table, size)
            _locate_slices(folder, manifest, table, size)
            if not np.array_equal(manifest.slices["path"], _hash_paths(table, manifest.key)):
                raise UserError(
                    f"data.cache={folder} was begun for {len(manifest.slices)} other slices and is not "
                    "complete; remove it to make a new one"
                )
            single = arrays._replace(slab=np.arange(len(table), dtype=np.int32))
            dataset = SliceDataset(reader, single, InputSpec(size))
            _fill(folder, manifest, dataset, workers)
    except OSError as error:
        raise UserError(
            f"data.cache={folder} cannot be used: {error.strerror or error}; name another folder"
        ) from error


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Makes the folder if needed, and keeps other runs out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()}
    if LOCK not in names and any(not name.startswith(".") for name in names):
        raise UserError(f"data.cache={folder} holds files that are not a cache; name a new folder")
    folder.chmod(0o700)  # it may have been there, open to others
    with (folder / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another run is writing the cache; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin(folder: Path, table: pd.DataFrame, size: int) -> Manifest:
    """Makes the files of a cache that holds no slices yet."""
    needed, free = 2 * len(table) * size * size, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"data.cache={folder} needs {needed / 1e9:.1f} GB for {len(table)} slices of {size} px, and "
            f"{free / 1e9:.1f} GB are free; make room, or name another disk"
        )
    key = secrets.token_hex(16)
    slices = table[STAMP].assign(path=_hash_paths(table, key)).reset_index(drop=True)
    write_table(slices, folder / SLICES)
    np.lib.format.open_memmap(folder / PIXELS, "w+", np.dtype("<i2"), (len(table), size, size)).flush()
    manifest = Manifest(size, 0, {}, key, slices)
    _write_manifest(folder, manifest)
    return manifest


def _fill(folder: Path, manifest: Manifest, dataset: SliceDataset, workers: int) -> None:
    """Writes the slices that are missing."""
    count, done, unread = len(manifest.slices), manifest.done, dict(manifest.unread)
    offset = _find_pixels(folder, manifest)
    rows = np.arange(done, count)
    loader = SliceLoader(dataset, batch_size=_BATCH, sampler=EpochSampler(rows), num_workers=workers)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with (
        make_bar(columns, shown=True) as bar,
        (folder / PIXELS).open("r+b") as file,
    ):

        def save() -> None:
            file.flush()
            os.fsync(file.fileno())  # before the manifest says that they are there
            _write_manifest(folder, manifest._replace(done=done, unread=unread))

        task = bar.add_task("Writing the cache", total=count, completed=done)
        saved = time.monotonic()
        try:
            for batch in loader:
                unread |= _write_batch(file, offset, batch)
                done = min(done + _BATCH, count)
                bar.update(task, completed=done)
                if time.monotonic() - saved >= _INTERVAL:
                    save()
                    saved = time.monotonic()
        finally:
            save()


def _write_batch(file: BinaryIO, offset: int, batch: dict[str, Any]) -> dict[int, str]:
    """Writes the slices of a batch to their places.

    Returns:
        The codes of the slices that could not be read, by row.

    Raises:
        ReadError: If the disk fails on a file.
    """
    refused = dict(batch["unread"])
    for error in refused.values():
        if error.code == Refusal.UNREADABLE:
            raise error
    for row, hu in zip(batch.get("row", ()), batch.get("hu", ()), strict=True):
        file.seek(offset + int(row) * hu.nbytes)
        file.write(hu.numpy().data)
    return {row: str(error.code) for row, error in refused.items()}


def _locate_slices(folder: Path, manifest: Manifest, table: pd.DataFrame, size: int) -> NDArray[np.int64]:
    """Finds the slices of a table in a cache.

    Args:
        folder: The cache's folder.
        manifest: Content of the cache.
        table: Index of the slices.
        size: The side in pixels that they must have.

    Returns:
        (rows,) the place of each slice in the cache.

    Raises:
        UserError: If the cache does not hold these slices as they are now.
    """
    if manifest.size != size:
        raise UserError(
            f"data.cache={folder} holds slices of {manifest.size} px and input.size={size}; name another "
            "folder"
        )
    paths = pd.Index(_hash_paths(table, manifest.key))
    place: NDArray[np.int64] = pd.Index(manifest.slices["path"]).get_indexer(paths)
    lacking = place < 0
    if lacking.all():
        raise UserError(f"data.cache={folder} belongs to another data set; name another folder")
    found = manifest.slices.iloc[place]
    changed = ~lacking & (found[STAMP[1:]].to_numpy() != table[STAMP[1:]].to_numpy()).any(axis=1)
    for wrong, what in (
        (changed, "files have changed since it was made"),
        (lacking, "it was made from a part of the data (data.limit_slices), or files were added since"),
    ):
        if wrong.any():
            lacks = f"does not hold the current state of {int(wrong.sum())} of {len(table)} slices"
            remedy = f"{what}. Remove it to make a new one, or name another folder"
            example = table["path"].iloc[int(np.argmax(wrong))]
            raise UserError(
                f"data.cache={folder} {lacks}, for example {example}: {remedy}",
                kept=f"data.cache {lacks}: {remedy}",
            )
    return place


def _hash_paths(table: pd.DataFrame, key: str) -> NDArray[np.int64]:
    """Returns (rows,) 64 bits of BLAKE2b of path and frame.

    Of data sets with a million paths, one in 40 million has two paths with the same hash.
    """
    keyed = partial(hashlib.blake2b, digest_size=8, key=bytes.fromhex(key))
    names = (
        os.fsencode(f"{path}#{frame}" if frame else path)
        for path, frame in zip(table["path"], table["frame"], strict=True)
    )
    return np.frombuffer(b"".join(keyed(name).digest() for name in names), np.int64)


def _find_pixels(folder: Path, manifest: Manifest) -> int:
    """Returns where the slices begin in their file, in bytes."""
    path, shape = folder / PIXELS, (len(manifest.slices), manifest.size, manifest.size)
    try:
        pixels = np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is missing or cut off; remove the cache to make a new one") from error
    fits = pixels.shape == shape and pixels.dtype == np.dtype("<i2") and pixels.flags.c_contiguous
    if not fits:
        raise UserError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}, expected int16 of {shape}; remove the "
            "cache to make a new one"
        )
    return int(pixels.offset)


class CacheReader:
    """Reads slices of a table from a cache.

    Args:
        folder: The cache's folder.
        root: Folder of the data set. It is only named in errors.
        table: Index of the slices.
        size: Side of the cached slices, in pixels.

    Attributes:
        decoded: Always 0.
        is_remote: Always False.

    Raises:
        UserError: If the cache is not complete, or holds other slices or another size.
    """

    decoded = 0
    is_remote = False

    def __init__(self, folder: Path, root: AnyPath, table: pd.DataFrame, size: int) -> None:
        manifest = _read_manifest(folder)
        if manifest is None or manifest.done < len(manifest.slices):
            raise UserError(f"data.cache={folder} is not complete; call prepare_data() first")
        self._place = _locate_slices(folder, manifest, table, size)  # (rows,)
        self._unread, self._root, self._paths = manifest.unread, root, table["path"]
        self._pixels = os.fsencode(folder / PIXELS)
        self._offset = _find_pixels(folder, manifest)

    def for_thread(self) -> CacheReader:
        """Returns itself, as nothing in it changes."""
        return self

    def expect(self, rows: Sequence[int]) -> None:
        """Does nothing, as a cache is on a disk."""

    def read(self, row: int, out: NDArray[np.int16]) -> None:
        """Reads a slice into ``out``, (size, size) HU, contiguous.

        Raises:
            ReadError: If it could not be read when the cache was made.
            UserError: If the cache is missing or cut off.
        """
        place = int(self._place[row])
        if place in self._unread:
            path = self._root / self._paths.iloc[row]
            raise ReadError(self._unread[place], str(path), "it could not be read when the cache was made")
        try:
            file = os.open(self._pixels, os.O_RDONLY | os.O_CLOEXEC)
            try:
                count = os.preadv(file, [out.data], self._offset + place * out.nbytes)
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(f"{os.fsdecode(self._pixels)} cannot be read: {error.strerror}") from error
        if count < out.nbytes:
            raise UserError(
                f"{os.fsdecode(self._pixels)} has become shorter; remove the cache to make a new one"
            )


def _read_manifest(folder: Path) -> Manifest | None:
    """Returns what a folder says about its cache, or None if there is none."""
    path = folder / STATE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        state = json.loads(text)
        if state["version"] != _VERSION:
            raise UserError(
                f"data.cache={folder} belongs to another version of ich; remove it to make a new one"
            )
        with (folder / SLICES).open("rb") as file:
            slices = pd.read_parquet(file, columns=STAMP)
        manifest = _parse_state(state, slices)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"data.cache={folder} is damaged ({error}); remove it to make a new one") from error
    return manifest


def _parse_state(state: dict[str, Any], slices: pd.DataFrame) -> Manifest:
    """Raises ``ValueError``, ``TypeError`` or ``LookupError`` if this is not the state of a cache."""
    size, done = state["size"], state["done"]
    unread = {int(row): str(code) for row, code in state["unread"]}
    bytes.fromhex(state["key"])
    if type(size) is not int or type(done) is not int or not 0 <= done <= len(slices):
        raise ValueError(f"{STATE} says size {size!r} and done {done!r} of {len(slices)}")
    if not slices["path"].is_unique or not all(0 <= row < done for row in unread):
        raise ValueError(f"{SLICES} and {STATE} do not fit together")
    return Manifest(size, done, unread, state["key"], slices)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    state = {
        "version": _VERSION,
        "size": manifest.size,
        "done": manifest.done,
        "unread": [[row, code] for row, code in manifest.unread.items()],
        "key": manifest.key,
    }
    with replacing(folder / STATE) as partial:
        partial.write_text(json.dumps(state), encoding="utf-8")
