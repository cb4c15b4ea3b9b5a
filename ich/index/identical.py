"""Finds slices of different patients with the same pixels.

Some data sets hold a study twice, under two PatientIDs, and a split by patient then leaks. Reading all pixels
of 750,000 slices takes hours. A hash of a few blocks of each file therefore finds candidates, and only these
are read completely.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_blocks, read_pixels
from ich.files import replacing
from ich.progress import map_in_threads
from ich.remote import AnyPath
from ich.schema import ReadError, UserError
from ich.tables import STAMP

_SLICE = [*STAMP, "frame"]

HASHES = "hashes.parquet"
"""File beside the index with the path, size and time of each slice's file, and the hash of its blocks."""


def find_identical(
    root: AnyPath, table: pd.DataFrame, folder: Path, progress: bool = True
) -> NDArray[np.int64]:
    """Finds slices with the same pixels as a slice of another patient.

    Candidates agree in some blocks of their files. A compressed copy of a slice, or a copy in another
    orientation, is therefore not found. Candidates count if all their stored pixels are the same in HU and
    not all one value, because slices that hold only air are alike in every patient. Slices without a
    PatientID are distinguished by their study.

    Args:
        root: Folder of the data set.
        table: Its index, whole or in part.
        folder: The index's folder; ``HASHES`` in it keeps the hashes of files that have not changed.
        progress: Show a bar on a terminal.

    Returns:
        (rows,) the same number for slices with the same pixels, and -1 for slices without a copy under
        another patient. A slice that cannot be read has no copy.

    Raises:
        UserError: If the hashes cannot be written.
    """
    owners = table["PatientID"].where(table["PatientID"].str.strip() != "", table["StudyInstanceUID"])
    candidates = _share(_read_hashes(root, table, folder, progress), owners.to_numpy())
    rows = np.flatnonzero(candidates)
    paths = _locate(root, table.iloc[rows])
    digests = np.full(len(table), "", dtype=object)
    digests[rows] = list(map_in_threads(_digest, paths, "Comparing pixels", progress))
    shared = _share(digests, owners.to_numpy())
    groups = np.full(len(table), -1, dtype=np.int64)
    groups[shared] = pd.factorize(digests[shared])[0]
    return groups


def _locate(root: AnyPath, table: pd.DataFrame) -> list[tuple[str, int]]:
    """Finds the file of each slice, and its frame."""
    return [(str(root / path), frame) for path, frame in zip(table["path"], table["frame"], strict=True)]


def _share(keys: NDArray[np.object_], owners: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Finds the rows whose key another owner has too; an empty key does not count."""
    pairs = pd.DataFrame({"key": keys, "owner": owners})
    counts = pairs.drop_duplicates().groupby("key")["owner"].size()
    shared = counts.index[(counts > 1) & (counts.index != "")]
    return pairs["key"].isin(shared).to_numpy()


def _read_hashes(root: AnyPath, table: pd.DataFrame, folder: Path, progress: bool) -> NDArray[np.object_]:
    """Reads the hash of each row's blocks, empty if its file cannot be read."""
    kept = _read_kept(folder)
    known = table[_SLICE].merge(kept, how="left", on=_SLICE)["hash"].to_numpy(dtype=object)
    rows = np.flatnonzero(pd.isna(known))
    paths = _locate(root, table.iloc[rows])
    done = 0
    try:
        for done, value in enumerate(map_in_threads(_hash, paths, "Reading blocks of pixels", progress), 1):
            known[rows[done - 1]] = value
    finally:
        if done:  # after an interruption, the hashes until then
            fresh = table[_SLICE].iloc[rows[:done]].assign(hash=known[rows[:done]])
            _keep(pd.concat([fresh[fresh["hash"] != ""], kept]).drop_duplicates(["path", "frame"]), folder)
    return known


def _hash(place: tuple[str, int]) -> str:
    """Hashes some blocks of a slice's file; empty if it cannot be read."""
    try:
        return hashlib.blake2b(read_blocks(*place), digest_size=8).hexdigest()
    except ReadError:
        return ""


def _digest(place: tuple[str, int]) -> str:
    """Hashes all stored pixels in HU; empty if they cannot be read or are all the same."""
    try:
        _, hu = read_pixels(*place)
    except ReadError:
        return ""
    if (hu == hu.flat[0]).all():
        return ""
    return hashlib.blake2b(hu.tobytes(), digest_size=16, salt=repr(hu.shape).encode()[:16]).hexdigest()


def _read_kept(folder: Path) -> pd.DataFrame:
    columns = [*_SLICE, "hash"]
    try:
        with (folder / HASHES).open("rb") as file:
            return pd.read_parquet(file)[columns]
    except (OSError, ValueError, KeyError):  # none, or a broken one
        types = {"path": "str", "file_size": "int64", "mtime_ns": "int64", "frame": "int32", "hash": "str"}
        return pd.DataFrame(columns=columns).astype(types)


def _keep(hashes: pd.DataFrame, folder: Path) -> None:
    try:
        with replacing(folder / HASHES) as partial:
            partial.touch(mode=0o600)  # it names files
            with partial.open("wb") as file:
                hashes.to_parquet(file, index=False)
    except OSError as error:
        raise UserError(
            f"the hashes of pixels cannot be written to {folder}: {error.strerror or error}; "
            "make room, or name another folder with data.index_dir"
        ) from error
