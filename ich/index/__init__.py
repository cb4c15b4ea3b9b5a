"""Turns a folder of DICOM slices into a table, reads the labels of a CSV file, and joins the two.

``files`` finds the files and reads their headers. ``pseudonyms`` hides their patients. ``cache`` keeps the
index, ``updating`` updates it, and ``folders`` shows that it is current. ``labels`` reads label files of
slices and studies, by ``csv_files`` and ``columns``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ich.files import escape_path, find_cache
from ich.index.cache import (
    Index,
    Row,
    Unfinished,
    make_index,
    read_cache,
    write_cache,
)
from ich.index.files import OWN_FOLDER, list_files, read_headers
from ich.index.folders import FolderWatch
from ich.index.labels import count_repeats as count_repeats
from ich.index.labels import find_labels as find_labels
from ich.index.labels import list_labels as list_labels
from ich.index.labels import read_labels as read_labels
from ich.index.labels import read_study_labels as read_study_labels
from ich.index.pseudonyms import find_pseudonym_key, hide_patients
from ich.index.updating import merge, take_current, take_kept
from ich.remote import AnyPath, RemotePath, parse_path
from ich.schema import UserError
from ich.tables import STAMP

__all__ = ["build_index", "read_labels", "read_study_labels"]


def build_index(
    root: str | AnyPath,
    *,
    index_dir: str | Path | None = None,
    pseudonyms: bool = False,
    trust_folders: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Index:
    """Reads the headers of all slices below a folder, in any layout.

    The result is kept as ``index.parquet`` and ``refused.csv``. They name patients, so only their owner can
    read them. The next call reads only files that are new or have another size or time of change. After an
    interruption it reads the remaining files. A file whose suffix belongs to another kind of file is read if
    it begins as DICOM does, and is otherwise listed as refused. Hidden folders are not searched, but listed
    too.

    Args:
        root: The folder, or an address of fsspec.
        index_dir: Folder of the index; by default ``locate_index(root)``.
        pseudonyms: Keep a keyed hash in place of PatientID. An index with pseudonyms always keeps them.
        trust_folders: Take the kept index without a list of the files if no folder has changed since, which
            takes an eighth of the time. Files that were overwritten in place are not noticed, nor are changes
            behind links to files. For local disks.
        workers: Number of processes that read; by default one per core if reading takes long, and else this
            process only. They import the main script, which must therefore start its work under ``if __name__
            == "__main__":``.
        progress: Whether to show a bar on a terminal if reading takes longer than a moment.

    Returns:
        The slices in order of patient, study, series and position, and the refused files.

    Raises:
        UserError: If the folder is missing or holds no readable slice, the index cannot be written, or the
            folders of an address are to be trusted.
    """
    root = parse_path(root) if isinstance(root, str) else root
    folder = locate_index(root) if index_dir is None else Path(index_dir)
    watch = FolderWatch(root, folder, progress) if trust_folders else None
    if watch is not None and (trusted := watch.read_index(pseudonyms=pseudonyms)) is not None:
        return trusted
    files, closed = list_files(root, progress, kept_in=folder) if watch is None else watch.list_files()
    nothing = f"data.root={root} holds no DICOM file; expected for instance {root}/stage_2_train/ID_*.dcm"
    if files.empty and not closed:
        raise UserError(nothing)
    key = find_pseudonym_key(folder, make=pseudonyms)
    hidden = key is not None
    cached = read_cache(folder, pseudonyms=hidden)
    kept, changed = take_kept(cached, files)
    unfinished = Unfinished(folder, pseudonyms=hidden)
    if changed.empty and not closed and all(len(k) == len(c) for k, c in zip(kept, cached, strict=True)):
        unfinished.remove()  # of a run that was interrupted while another came to the end
        if watch is not None:
            watch.keep(cached)
        return cached
    earlier, changed = take_current(unfinished.read(), changed)
    rows = read_headers(root, changed, workers, progress)
    parts = [kept, earlier, make_index([], closed)]
    del cached, kept, earlier  # large tables, of which a second copy takes much memory
    parts += unfinished.collect(rows if key is None else hide_patients(rows, key))
    index = merge(parts)
    if index.unread.empty and index.table.empty:
        raise UserError(nothing)
    if index.table.empty:
        raise UserError(f"data.root={root} holds no readable CT slice; {_tell(index)}")
    stamps = write_cache(index, folder, pseudonyms=hidden)
    unfinished.remove()
    if watch is not None:
        watch.keep_update(index, stamps)
    return index


def index_paths(paths: Sequence[Path]) -> tuple[Path, Index]:
    """Reads the headers of files, and of files below folders, without keeping an index.

    Args:
        paths: DICOM files and folders; a file that is given twice counts once.

    Returns:
        The folder that holds all of them, and their index.

    Raises:
        UserError: If a path does not exist, or none of the files is a readable slice.
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    tables, closed = list[pd.DataFrame](), list[Row]()
    for path in paths:
        below = escape_path(path.absolute().relative_to(root))
        if path.is_dir():
            files, unread = list_files(path, progress=True)
            tables.append(files.assign(path=f"{below}/" + files["path"]))
            closed += [(f"{below}/{name}", *rest) for name, *rest in unread]
        elif path.exists():
            status = path.stat()
            tables.append(pd.DataFrame([(below, status.st_size, status.st_mtime_ns)], columns=STAMP))
        else:
            raise UserError(f"{path} does not exist")
    files = pd.concat(tables, ignore_index=True).drop_duplicates("path")
    rows = (make_index(*chunk) for chunk in read_headers(root, files, None, progress=True))
    index = merge([*rows, make_index([], closed)])
    if index.table.empty:
        raise UserError(f"{', '.join(map(str, paths[:3]))}: no readable CT slice; {_tell(index)}")
    return root, index


def _tell(index: Index) -> str:
    """Describes the refused files for a message."""
    if (unread := index.unread).empty:
        return "no file may be DICOM"
    codes = ", ".join(f"{code} {count}" for code, count in unread["code"].value_counts().items())
    first = unread.iloc[0]
    return f"refused: {codes}; for example, {first['path']}: {first['detail']}"


def locate_index(root: AnyPath) -> Path:
    """Returns the default folder for the index of ``root``.

    It is ``.ich`` in ``root``. If that cannot be written to, or is at an address, it is a folder in the
    user's cache (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    name = root.address if isinstance(root, RemotePath) else root.resolve()
    if isinstance(root, Path):
        beside = root / OWN_FOLDER
        wanted = os.R_OK | os.W_OK | os.X_OK
        if os.access(beside, wanted) or (not os.access(beside, os.F_OK) and os.access(root, wanted)):
            return beside
    return find_cache() / hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
