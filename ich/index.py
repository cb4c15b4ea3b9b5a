"""A folder of DICOM slices to a table, the labels of a CSV file, and the two joined."""

from __future__ import annotations

import difflib
import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ich.dicom import Refusal, read_header
from ich.schema import LABELS, SUBTYPES, ReadError, UserError
from ich.tables import INDEX_DTYPES, read_index, write_table

DUPLICATE_UID = "duplicate_uid"
"""Code of a file that was refused because another, earlier by path, has its SOPInstanceUID."""

REFUSED_DTYPES = {"path": "str", "code": "str", "detail": "str", "file_size": "int64", "mtime_ns": "int64"}

LABEL_KEYS = ("SOPInstanceUID", "ID")
"""Columns that may name the slice in a wide label file, the first that is there."""

_VERSION = 1  # of the cache: raised when what a header yields changes
_STAMP = ["path", "file_size", "mtime_ns"]
_HEADER = [column for column in INDEX_DTYPES if column not in _STAMP]
_ORDER = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "position", "InstanceNumber", "path"]
_CHUNK = 200  # files
_QUIET = 4000  # files that are read without a progress bar, in a few seconds
_PATIENCE = 20.0  # seconds of reading that are worth starting processes, each of which imports torch
# What these say may change while the file does not: a codec is installed, a permission given.
_PASSING = [Refusal.UNREADABLE, Refusal.UNSUPPORTED_SYNTAX]
# DICOM files bear any suffix or none, so what cannot be one is named here.
_OTHER_SUFFIXES = frozenset(
    f".{suffix}"
    for suffixes in (
        "csv doc docx htm html json log md pdf tsv txt xls xlsx xml yaml yml",
        "bmp gif jp2 jpeg jpg mha mhd nii nrrd png svg tif tiff webp",
        "7z bz2 gz h5 hdf5 npy npz parquet pkl tar tfrecord zip",
        "ckpt onnx pt pth py sh",
    )
    for suffix in suffixes.split()
)


_File = tuple[str, int, int]  # path, bytes, time of change in ns


class Index(NamedTuple):
    """The slices of a folder.

    Attributes:
        table: One row a slice that can be read: ``INDEX_DTYPES``.
        refused: One row a file that was refused: ``REFUSED_DTYPES``; -1 where it has no size or time.
    """

    table: pd.DataFrame
    refused: pd.DataFrame


class JoinCounts(NamedTuple):
    """What came of joining an index to labels.

    Attributes:
        slices: Rows of the index.
        unlabelled: Of these, slices of which no label is known.
        without_file: Slices that the labels name and the index lacks.
    """

    slices: int
    unlabelled: int
    without_file: int


def build_index(
    root: Path, *, index_dir: Path | None = None, workers: int | None = None, progress: bool = True
) -> Index:
    """Reads the headers of every slice below a folder, in any layout.

    The result is kept as ``index.parquet`` and ``refused.csv``, readable by their owner alone as they name
    patients. The next call reads what is new or has another size or time of change. Hidden files and
    folders, and files whose suffix says that they are something else, are passed over.

    Args:
        root: The folder.
        index_dir: Where the index is kept; by default ``locate_index(root)``.
        workers: Processes that read; by default one a core if reading takes long, and else this one. They
            import the main script, which therefore has to start its work under
            ``if __name__ == "__main__":``.
        progress: Show a bar on a terminal if reading takes longer than a moment.

    Returns:
        The slices in order of patient, study, series and position, and what was refused.

    Raises:
        UserError: If the folder is missing or holds no slice that can be read, or the index cannot be kept.
    """
    files, closed = _list_files(root)
    if not files and closed.empty:
        raise UserError(f"data.root={root} holds no DICOM file; expected e.g. {root}/stage_2_train/ID_*.dcm")
    folder = locate_index(root) if index_dir is None else index_dir
    cached = _read_cache(folder)
    kept = Index(*(table[_is_current(table, files)] for table in cached))
    if len(kept.table) < len(cached.table):  # a file that went may have been the first of a pair
        kept = kept._replace(refused=kept.refused[kept.refused["code"] != DUPLICATE_UID])
    known = {*kept.table["path"], *kept.refused["path"]}
    changed = sorted(files.keys() - known)
    if not changed and closed.empty and len(known) == sum(map(len, cached)):
        return cached
    fresh = _read_headers(root, [(path, *files[path]) for path in changed], workers, progress)
    index = _merge(kept, *fresh, Index(_no_slices(), closed))
    if index.table.empty:
        codes = ", ".join(f"{code} {count}" for code, count in index.refused["code"].value_counts().items())
        first = index.refused.iloc[0]
        raise UserError(
            f"data.root={root} holds no CT slice that can be read; refused: {codes}; "
            f"for one, {first['path']}: {first['detail']}"
        )
    _write_cache(index, folder)
    return index


def locate_index(root: Path) -> Path:
    """Returns the folder where the index of ``root`` is kept unless told otherwise.

    It is ``.ich`` in ``root``, or where that cannot be written to, a folder of the user's cache
    (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    beside = root / ".ich"
    wanted = os.R_OK | os.W_OK | os.X_OK
    if os.access(beside, wanted) or (not os.access(beside, os.F_OK) and os.access(root, wanted)):
        return beside
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ich" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def _list_files(root: Path) -> tuple[dict[str, tuple[int, int]], pd.DataFrame]:
    """Returns size and time of change by path, and as refused what cannot be looked at."""
    if not root.is_dir():
        raise UserError(f"data.root={root} {'is not a folder' if root.exists() else 'does not exist'}")
    files: dict[str, tuple[int, int]] = {}
    closed: list[tuple[str, str, str, int, int]] = []
    folders, seen = deque([""]), set()
    while folders:
        folder = folders.popleft()
        try:
            status = (root / folder).stat()
            if (status.st_dev, status.st_ino) in seen:  # reached through a link
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if not _is_text(entry.name):
                        closed.append((ascii(path), Refusal.UNREADABLE, "a name that is no text", -1, -1))
                    elif entry.is_dir():
                        (folders.append if entry.is_symlink() else folders.appendleft)(path)
                    elif Path(entry.name).suffix.lower() not in _OTHER_SUFFIXES:
                        files[path] = _stamp(entry)
        except OSError as error:
            detail = f"{type(error).__name__}: {error.strerror}"
            closed.append((folder or ".", Refusal.UNREADABLE, detail, -1, -1))
    return files, pd.DataFrame(closed, columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES)


def _is_text(name: str) -> bool:
    """Whether a name can stand in a table: bytes that are no text are surrogates in Python."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # such as a link to nothing: reading it will say so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _is_current(table: pd.DataFrame, files: dict[str, tuple[int, int]]) -> NDArray[np.bool_]:
    rows = zip(*(table[column].tolist() for column in _STAMP), strict=True)
    return np.array([files.get(path) == (size, time) for path, size, time in rows], dtype=bool)


def _read_cache(folder: Path) -> Index:
    try:
        table = read_index(folder / "index.parquet")
        refused = pd.read_csv(folder / "refused.csv", dtype=REFUSED_DTYPES, keep_default_na=False)
        fits = table.attrs.pop("version", None) == _VERSION and list(refused) == list(REFUSED_DTYPES)
    except (UserError, OSError, ValueError):  # none yet, or a broken one: it is made anew
        fits = False
    if not fits:
        return Index(_no_slices(), pd.DataFrame(columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES))
    return Index(table[list(INDEX_DTYPES)], refused[~refused["code"].isin(_PASSING)])


def _write_cache(index: Index, folder: Path) -> None:
    table = index.table.copy(deep=False)
    table.attrs["version"] = _VERSION
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def _read_headers(root: Path, files: list[_File], workers: int | None, progress: bool) -> Iterator[Index]:
    """Reads in this process, and what would take it long in several."""
    chunks = deque(files[i : i + _CHUNK] for i in range(0, len(files), _CHUNK))
    shown = progress and len(files) > _QUIET and sys.stderr.isatty()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bar:
        task = bar.add_task("Reading headers", total=len(files))
        start, pace = time.monotonic(), 0.0
        while chunks and (workers == 1 or (not workers and pace * len(chunks) < _PATIENCE)):
            chunk = chunks.popleft()
            yield _read_chunk(root, chunk)
            bar.advance(task, len(chunk))
            pace = (time.monotonic() - start) * _CHUNK / bar.tasks[task].completed
        for index in _read_in_processes(root, chunks, workers):
            bar.advance(task, sum(map(len, index)))
            yield index


def _read_in_processes(root: Path, chunks: deque[list[_File]], workers: int | None) -> Iterator[Index]:
    if not chunks:
        return
    # Spawned, as a fork would copy the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        try:
            yield from pool.map(partial(_read_chunk, root), chunks)
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads headers ended: in a script, start the work under "
                "if __name__ == '__main__':; where memory is short, use one process (workers=1)"
            ) from error


def _read_chunk(root: Path, files: list[_File]) -> Index:
    rows: list[tuple[Any, ...]] = []
    refused: list[tuple[Any, ...]] = []
    for path, size, changed in files:
        try:
            header = read_header(root / path)
            rows.append((path, size, changed, *(getattr(header, column) for column in _HEADER)))
        except ReadError as error:
            refused.append((path, str(error.code), error.detail, size, changed))
    return Index(
        pd.DataFrame(rows, columns=[*_STAMP, *_HEADER]).astype(INDEX_DTYPES)[list(INDEX_DTYPES)],
        pd.DataFrame(refused, columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES),
    )


def _no_slices() -> pd.DataFrame:
    return pd.DataFrame(columns=list(INDEX_DTYPES)).astype(INDEX_DTYPES)


def _merge(*indexes: Index) -> Index:
    """Joins and orders indexes; of files with one SOPInstanceUID the first by path stays."""
    table = pd.concat([index.table for index in indexes]).sort_values("path")
    doubled = table["SOPInstanceUID"].duplicated()
    first = table[~doubled].set_index("SOPInstanceUID")["path"]
    seconds = table.loc[doubled, _STAMP].assign(
        code=DUPLICATE_UID,
        detail="has the SOPInstanceUID of " + table.loc[doubled, "SOPInstanceUID"].map(first),
    )
    refused = pd.concat([*(index.refused for index in indexes), seconds[list(REFUSED_DTYPES)]])
    return Index(
        table[~doubled].sort_values(_ORDER, ignore_index=True),
        refused.sort_values("path", ignore_index=True).astype(REFUSED_DTYPES),
    )


def find_labels(root: Path) -> Path:
    """Finds the label file of a data set: ``stage_2_train.csv``, or the only CSV in ``root`` with labels.

    Raises:
        UserError: If there is none, or several.
    """
    if (root / "stage_2_train.csv").is_file():
        return root / "stage_2_train.csv"
    found = [path for path in sorted(root.glob("*.csv")) if _holds_labels(path)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(
            f"data.root={root} holds {f'several label files ({names})' if found else 'no label file'}; "
            "name the one with data.labels=FILE"
        )
    return found[0]


def _holds_labels(path: Path) -> bool:
    try:
        return _find_key(_read_csv(path, nrows=0)) is not None
    except UserError:
        return False


def read_labels(path: Path) -> pd.DataFrame:
    """Reads labels from a CSV file.

    It is long, as the RSNA's: ``ID`` (``ID_12345_subdural``) and ``Label``. Or it is wide: ``SOPInstanceUID``
    or ``ID``, and a column for each label that is known. Empty is unknown. Where no slice has ``any``, it
    follows from the subtypes, if the file has all five: 1 if one is 1, 0 if all are 0.

    Returns:
        A row a slice, indexed by ``SOPInstanceUID``: the columns of ``LABELS``, float32, NaN where unknown.

    Raises:
        UserError: If the file cannot be read or has other columns, an unknown subtype, labels other than
            0 and 1, or labels that contradict each other.
    """
    table = _read_csv(path)
    key = _find_key(table)
    if key is None:
        raise UserError(
            f"{path} has the columns {', '.join(map(ascii, table.columns[:8]))}; expected ID and Label, or "
            f"{' or '.join(LABEL_KEYS)} with some of {', '.join(LABELS)}"
        )
    if table.empty:
        raise UserError(f"{path} holds no label")
    uids, columns, values = _split_ids(table, path) if "Label" in table else _melt(table, key, path)
    labels = _parse_values(values, uids, columns, path)
    codes, names = pd.factorize(uids)
    wide = np.full((len(names), len(LABELS)), np.nan, dtype=np.float32)
    wide[codes, columns] = labels
    kept = wide[codes, columns]
    differs = (kept != labels) & ~(np.isnan(kept) & np.isnan(labels))
    _refuse(names[np.unique(codes[differs])], "two labels for one subtype", path)
    subtypes, either = wide[:, : len(SUBTYPES)], wide[:, -1]
    if np.isnan(either).all() and not np.isnan(subtypes).all(axis=0).any():
        either[(subtypes == 1).any(axis=1)] = 1
        either[(subtypes == 0).all(axis=1)] = 0
    wrong = (either == 0) & (subtypes == 1).any(axis=1) | (either == 1) & (subtypes == 0).all(axis=1)
    _refuse(names[wrong], "a label any that is not the largest of the subtypes", path)
    return pd.DataFrame(wide, index=pd.Index(names, name="SOPInstanceUID"), columns=list(LABELS))


def _read_csv(path: Path, nrows: int | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, compression=None, nrows=nrows)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error


def _find_key(table: pd.DataFrame) -> str | None:
    """Returns the column that names the slice, or None if the table holds no labels."""
    if "Label" in table:
        return "ID" if "ID" in table else None
    keys = [key for key in LABEL_KEYS if key in table]
    return keys[0] if keys and any(label in table for label in LABELS) else None


_Long = tuple["pd.Series[str]", NDArray[np.int64], "pd.Series[str]"]


def _split_ids(table: pd.DataFrame, path: Path) -> _Long:
    """Long form to slices, numbers of labels and values, label by label."""
    with_label = [table[table["ID"].str.endswith(f"_{label}")] for label in LABELS]
    counts = [len(rows) for rows in with_label]
    if sum(counts) < len(table):
        known = pd.concat(with_label).index
        name = str(table["ID"].drop(known).iloc[0])
        raise UserError(f"{path} holds the ID {name!r}: {_suggest(name.rpartition('_')[2])}")
    names = (
        rows["ID"].str.slice(stop=-len(label) - 1) for rows, label in zip(with_label, LABELS, strict=True)
    )
    return (
        pd.concat(names, ignore_index=True),
        np.repeat(np.arange(len(LABELS)), counts),
        pd.concat([rows["Label"] for rows in with_label], ignore_index=True),
    )


def _melt(table: pd.DataFrame, key: str, path: Path) -> _Long:
    """Wide form to slices, numbers of labels and values, a row each."""
    for column in table.columns.difference([*LABELS, key]):
        near = difflib.get_close_matches(column.strip().lower(), LABELS, n=1, cutoff=0.85)
        if near and near[0] not in table:
            raise UserError(f"{path} has the column {column!r}: {_suggest(column)}")
    present = [number for number, label in enumerate(LABELS) if label in table]
    columns = np.tile(np.array(present), len(table))
    uids = table[key].repeat(len(present)).reset_index(drop=True)
    values = table[[LABELS[number] for number in present]].to_numpy().ravel()
    return uids, columns, pd.Series(values, dtype="str")


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name.strip().lower(), LABELS, n=1, cutoff=0.0)
    return f"{name!r} is no label; nearest is {near[0]}, of {', '.join(LABELS)}"


def _parse_values(
    values: pd.Series[str], uids: pd.Series[str], columns: NDArray[np.int64], path: Path
) -> NDArray[np.float32]:
    numbers, texts = pd.factorize(values)
    parsed = pd.to_numeric(pd.Series(texts).str.strip(), errors="coerce").to_numpy(dtype=np.float32)
    wrong = np.array([bool(text.strip()) for text in texts]) & ~np.isin(parsed, (0, 1))
    if wrong.any():
        row = int(np.argmax(wrong[numbers]))
        raise UserError(
            f"{path} has the label {values.iloc[row]!r} for {LABELS[columns[row]]} of {uids.iloc[row]}: "
            "expected 0, 1 or nothing"
        )
    return np.asarray(parsed[numbers])


def _refuse(names: Any, what: str, path: Path) -> None:
    if len(names):
        examples = ", ".join(map(str, names[:5]))
        raise UserError(f"{path} gives {len(names)} slices {what}: {examples}; correct or remove them")


def join_labels(table: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, JoinCounts]:
    """Adds the label columns to an index; its rows and their order stay.

    Args:
        table: Index.
        labels: From ``read_labels``.

    Returns:
        The index with the columns of ``LABELS``, float32, NaN where unknown; and what was found.

    Raises:
        UserError: If no slice of the index is among the labels.
    """
    places = labels.index.get_indexer(pd.Index(table["SOPInstanceUID"]))
    found = places >= 0
    if not found.any():
        raise UserError(
            f"no slice has a label: the labels name {labels.index[0]}, for one, and none of the "
            f"SOPInstanceUIDs of {len(table)} files, {table['path'].iloc[0]} among them, is there; "
            "name another file with data.labels=FILE"
        )
    values = np.full((len(table), len(LABELS)), np.nan, dtype=np.float32)
    values[found] = labels[list(LABELS)].to_numpy(dtype=np.float32)[places[found]]
    joined = table.copy()
    joined[list(LABELS)] = values
    unlabelled = int(np.isnan(values).all(axis=1).sum())
    return joined, JoinCounts(len(table), unlabelled, len(labels) - int(found.sum()))
