"""Lists the files below a folder, on the disk or at an address, and reads the headers of slices."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.progress import (
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ich.dicom import list_headers
from ich.files import escape_path
from ich.index.cache import Row, Rows
from ich.index.names import refuse_by_name
from ich.machine import count_cores
from ich.progress import make_bar
from ich.remote import AnyPath, RemoteError, RemotePath
from ich.schema import ReadError, UserError
from ich.schema.codes import Refusal
from ich.tables import HEADER_DTYPES, STAMP, make_table


class FolderState(NamedTuple):
    """A folder as it was before its files were listed.

    Attributes:
        path: Below the root.
        inode: Its inode.
        changed: Time of change of its inode, ns.
    """

    path: str
    inode: int
    changed: int


_File = tuple[str, int, int]  # path, bytes and time of change in ns; -1 if these are unknown

_CHUNK = 200  # files
_AHEAD = 8  # chunks for each process that are begun before the first is taken
_MOMENT = 1.0  # seconds of listing without a progress bar
_QUIET = 4000  # files that are read without a progress bar, in a few seconds
_REMOTE_THREADS = 32  # that wait for a server
_PATIENCE = 20.0  # seconds of reading that justify several processes; each of them imports pandas and pydicom
OWN_FOLDER = ".ich"
"""Subfolder with this program's data about a folder; its files are not listed."""


def require_folder(root: Path) -> None:
    """Raises ``UserError`` if the folder of a data set is not there."""
    if not root.is_dir():
        what = "is not a folder; unpack an archive first" if root.exists() else "does not exist"
        raise UserError(f"data.root={root} {what}; give the folder of the DICOM files")


def list_files(
    root: AnyPath,
    progress: bool,
    *,
    hidden: bool = False,
    kept_in: Path | None = None,
    states: list[FolderState] | None = None,
) -> tuple[pd.DataFrame, list[Row]]:
    """Lists all files below a folder, with any name.

    Args:
        root: The folder.
        progress: Whether to count them on a terminal if it takes longer than a moment.
        hidden: Whether to search hidden folders; otherwise such a folder appears in the list like a file.
        kept_in: A folder of this program; its files are not listed.
        states: Takes the state of each folder that is searched, if it is on the disk.

    Returns:
        The columns of ``STAMP``, with paths as ``escape_path`` shows them and -1 for an unknown size or time;
        and rows of ``REFUSED_DTYPES`` for folders that cannot be searched.

    Raises:
        UserError: If ``root`` is not a folder, or its address cannot be reached.
    """
    if isinstance(root, RemotePath):
        return _list_remote(root)
    require_folder(root)
    closed: list[Row] = []
    paths, sizes, times = list[str](), list[int](), list[int]()
    columns = (SpinnerColumn(), TextColumn("Listing files: {task.completed:.0f}"), TimeElapsedColumn())
    with make_bar(columns, progress) as bar:
        task, start = bar.add_task("", total=None, visible=False), time.monotonic()
        for path, size, changed in _walk(root, closed, hidden, kept_in, states):
            paths.append(path)
            sizes.append(size)
            times.append(changed)
            if len(paths) % 1000 == 0:
                bar.update(task, completed=len(paths), visible=time.monotonic() - start > _MOMENT)
    texts = pd.Series(paths, dtype="str")
    return pd.DataFrame(dict(zip(STAMP, (texts, sizes, times), strict=True))), closed


def _list_remote(root: RemotePath) -> tuple[pd.DataFrame, list[Row]]:
    try:
        found = [each for each in root.list_files() if not _is_own(each.name)]
    except RemoteError as error:
        raise UserError(f"data.root={error}") from error
    if [each.name for each in found] == [""]:
        raise UserError(f"data.root={root} is not a folder")
    hidden = sorted({_name_hidden(each.name) for each in found} - {""})
    closed = [_close(folder, "is a hidden folder, which is not searched") for folder in hidden]
    rows = [each for each in found if not _name_hidden(each.name)]
    return make_table(rows, {name: HEADER_DTYPES[name] for name in STAMP}), closed


def _is_own(name: str) -> bool:
    return OWN_FOLDER in name.split("/")[:-1]


def _name_hidden(name: str) -> str:
    """Returns the uppermost hidden folder that a file is in; empty if it is in none."""
    folders = name.split("/")[:-1]
    places = [place for place, folder in enumerate(folders) if folder.startswith(".")]
    return "/".join(folders[: places[0] + 1]) if places else ""


def _walk(
    root: Path,
    closed: list[Row],
    hidden: bool,
    kept_in: Path | None,
    states: list[FolderState] | None,
) -> Iterator[_File]:
    folders, seen = deque([""]), set[tuple[int, int]]()
    own = kept_in.resolve() if kept_in is not None else None
    while folders:
        folder = folders.popleft()
        try:
            for name, entry in _list_entries(root, folder, seen, own, states):
                if _is_ambiguous(root, name):
                    detail = "another file has the name that this one is shown as: rename one"
                    closed.append(_close(name, detail))
                elif entry.is_dir() and (hidden or not entry.name.startswith(".")):
                    (folders.append if entry.is_symlink() else folders.appendleft)(name)
                else:
                    yield (escape_path(name), *_stamp(entry))
        except OSError as error:
            closed.append(_close(folder or ".", f"{type(error).__name__}: {error.strerror}"))


def _list_entries(
    root: Path,
    folder: str,
    seen: set[tuple[int, int]],
    own: Path | None,
    states: list[FolderState] | None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields what is in a folder, by its path below ``root``; nothing the second time, as through a link."""
    status = (root / folder).stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    if states is not None:
        states.append(FolderState(folder, status.st_ino, status.st_ctime_ns))
    prefix = f"{folder}/" if folder else ""
    with os.scandir(root / folder) as entries:
        for entry in entries:
            name = entry.name
            if name != OWN_FOLDER and not (own and own.name == name and own.samefile(entry)):
                yield prefix + name, entry


def _close(name: str, detail: str) -> Row:
    return escape_path(name), Refusal.UNREADABLE, detail, -1, -1


def _is_ambiguous(root: Path, name: str) -> bool:
    """Whether a name that is not UTF-8 is displayed like the name of another file."""
    return not name.isascii() and (text := escape_path(name)) != name and os.path.lexists(root / text)


def _stamp(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # such as a link to nothing: reading it will say so
        return -1, -1
    return status.st_size, status.st_mtime_ns


def read_headers(root: AnyPath, files: pd.DataFrame, workers: int | None, progress: bool) -> Iterator[Rows]:
    """Reads headers in this process, or in several if it would take long; from an address in many threads.

    Args:
        root: The folder.
        files: Files to read: the columns of ``STAMP``.
        workers: 1 for this process only, a number of processes, or None for an automatic choice.
        progress: Whether to show a bar on a terminal if there are many.

    Yields:
        Slices and refused files, a few hundred at a time.

    Raises:
        UserError: If a process dies.
    """
    count, chunks = len(files), _split(files)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with make_bar(columns, progress and (count > _QUIET or isinstance(root, RemotePath))) as bar:
        task = bar.add_task("Reading headers", total=count)
        if isinstance(root, RemotePath):
            for rows in _read_in_threads(root, chunks):
                yield rows
                bar.advance(task, sum(map(len, rows)))
            return
        start, read = time.monotonic(), 0
        while workers == 1 or (not workers and _expect(time.monotonic() - start, read, count) < _PATIENCE):
            if (chunk := next(chunks, None)) is None:
                return
            yield _read_chunk(root, chunk)
            bar.advance(task, len(chunk))
            read += len(chunk)
        for rows in _read_in_processes(root, chunks, workers):
            yield rows
            bar.advance(task, sum(map(len, rows)))


def _split(files: pd.DataFrame) -> Iterator[list[_File]]:
    """Yields files in order of their paths, a few hundred at a time: a million as tuples take much memory."""
    ordered = files[STAMP].sort_values("path", ignore_index=True)
    for start in range(0, len(ordered), _CHUNK):
        yield list(ordered.iloc[start : start + _CHUNK].itertuples(index=False, name=None))


def _expect(seconds: float, read: int, count: int) -> float:
    """Seconds that the remaining files will take."""
    return seconds / read * (count - read) if read else 0.0


def _read_in_threads(root: RemotePath, chunks: Iterable[list[_File]]) -> Iterator[Rows]:
    with ThreadPoolExecutor(_REMOTE_THREADS, thread_name_prefix="headers") as pool:
        for chunk in chunks:
            slices, refused = list[Row](), list[Row]()
            for one in pool.map(lambda file: _read_chunk(root, [file]), chunk):
                slices += one[0]
                refused += one[1]
            yield slices, refused


def _read_in_processes(root: Path, chunks: Iterator[list[_File]], workers: int | None) -> Iterator[Rows]:
    # Spawned, because a fork would copy the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    count = workers or count_cores()
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        begun = deque[Future[Rows]]()
        try:
            for chunk in chunks:
                begun.append(pool.submit(_read_chunk, root, chunk))
                if len(begun) > _AHEAD * count:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that reads headers has ended. In a script, start the work under if __name__ == "
                "'__main__':. If memory is short, use one process (workers=1)"
            ) from error


def _read_chunk(root: AnyPath, files: list[_File]) -> Rows:
    folder = escape_path(os.fspath(root))
    slices: list[Row] = []
    refused: list[Row] = []
    for path, size, changed in files:
        known = size if size >= 0 else None
        if refusal := refuse_by_name(f"{folder}/{path}"):
            refused.append((path, *refusal, size, changed))
            continue
        try:
            # A header's fields are the further columns of HEADER_DTYPES, in their order.
            slices += [(path, size, changed, *header) for header in list_headers(f"{folder}/{path}", known)]
        except ReadError as error:
            refused.append((path, str(error.code), error.detail, size, changed))
    return slices, refused
