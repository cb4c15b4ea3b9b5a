"""The files below a folder, and the headers of those that are slices."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ich.dicom import read_header
from ich.dicom.refusal import Refusal
from ich.schema import ReadError, UserError
from ich.tables import INDEX_DTYPES

REFUSED_DTYPES = {"path": "str", "code": "str", "detail": "str", "file_size": "int64", "mtime_ns": "int64"}

STAMP = ["path", "file_size", "mtime_ns"]
"""Columns that tell whether a file has changed."""

Stamps = dict[str, tuple[int, int]]  # bytes and time of change in ns, by path; -1 where not to be had
_File = tuple[str, int, int]
_Tables = tuple[pd.DataFrame, pd.DataFrame]  # slices, refused

_HEADER = [column for column in INDEX_DTYPES if column not in STAMP]
_CHUNK = 200  # files
_QUIET = 4000  # files that are read without a progress bar, in a few seconds
_PATIENCE = 20.0  # seconds of reading that are worth starting processes, each of which imports torch
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


def list_files(root: Path) -> tuple[Stamps, pd.DataFrame]:
    """Lists every file below a folder that may be DICOM.

    Returns:
        Size and time of change by path; and as refused what cannot be looked into.

    Raises:
        UserError: If ``root`` is no folder.
    """
    if not root.is_dir():
        raise UserError(f"data.root={root} {'is not a folder' if root.exists() else 'does not exist'}")
    files: Stamps = {}
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


def read_headers(root: Path, stamps: Stamps, workers: int | None, progress: bool) -> Iterator[_Tables]:
    """Reads headers in this process, and what would take it long in several.

    Args:
        root: The folder.
        stamps: The files to read.
        workers: 1 for this process alone, a number of processes, or None to have it decided.
        progress: Show a bar on a terminal if there are many.

    Yields:
        Slices (``INDEX_DTYPES``) and refused files (``REFUSED_DTYPES``), some hundred at a time.

    Raises:
        UserError: If a process dies.
    """
    files = [(path, *stamps[path]) for path in sorted(stamps)]
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
        for tables in _read_in_processes(root, chunks, workers):
            bar.advance(task, sum(map(len, tables)))
            yield tables


def _read_in_processes(root: Path, chunks: deque[list[_File]], workers: int | None) -> Iterator[_Tables]:
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


def _read_chunk(root: Path, files: list[_File]) -> _Tables:
    rows: list[tuple[Any, ...]] = []
    refused: list[tuple[Any, ...]] = []
    for path, size, changed in files:
        try:
            header = read_header(root / path)
            rows.append((path, size, changed, *(getattr(header, column) for column in _HEADER)))
        except ReadError as error:
            refused.append((path, str(error.code), error.detail, size, changed))
    return (
        pd.DataFrame(rows, columns=[*STAMP, *_HEADER]).astype(INDEX_DTYPES)[list(INDEX_DTYPES)],
        pd.DataFrame(refused, columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES),
    )
