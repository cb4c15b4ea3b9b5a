"""Times of the folders of a data set, which show without a list of all files that none came or went.

A folder's time changes whenever a file in it is made, removed or renamed. Nobody can set it: it is that of
its inode (``st_ctime``). It does not change when a program overwrites a file in place.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd

from ich.files import SETTLED, escape_path, find_on_disk
from ich.index.cache import Index, Row, Stamps, find_stamps, read_cache
from ich.index.files import FolderState, list_files
from ich.index.pseudonyms import find_pseudonym_key
from ich.remote import AnyPath, RemotePath
from ich.schema import UserError
from ich.schema.codes import PASSING
from ich.tables import write_table

FOLDERS = "folders.parquet"
"""File with the times of the folders, beside the index."""


class FolderWatch:
    """The folders of a data set, and their times beside its index.

    Args:
        root: Folder of the data set.
        folder: Folder of the index.
        progress: As for ``list_files``.

    Raises:
        UserError: If ``root`` is an address.
    """

    def __init__(self, root: AnyPath, folder: Path, progress: bool) -> None:
        if isinstance(root, RemotePath):
            raise UserError(
                f"data.trust_folders=true with data.root={root}: folders at an address have no times that "
                "show a change; leave it out"
            )
        self._root, self._folder, self._progress = root, folder, progress

    def read_index(self, *, pseudonyms: bool) -> Index | None:
        """Reads the index if the times of its folders show that no file came or went.

        Args:
            pseudonyms: Whether pseudonyms must replace PatientIDs.

        Returns:
            The index; None if it must be updated, or if the times of its folders are not known.

        Raises:
            UserError: As ``read_cache``.
        """
        stamps = find_stamps(self._folder)
        if not self._is_unchanged(stamps):
            return None
        hidden = find_pseudonym_key(self._folder, make=False) is not None
        if pseudonyms and not hidden:
            return None
        index = read_cache(self._folder, pseudonyms=hidden)
        # Another process may have replaced the index meanwhile.
        return index if len(index.table) and find_stamps(self._folder) == stamps else None

    def list_files(self) -> tuple[pd.DataFrame, list[Row]]:
        """Lists the files as ``list_files`` does, and remembers them and their folders."""
        self._stamps = find_stamps(self._folder)
        self._files, closed = self._list()
        return self._files, closed

    def keep(self, index: Index) -> None:
        """Keeps the times of the folders beside an index that was found to be current."""
        self._write(index, self._stamps)

    def keep_update(self, index: Index, stamps: Stamps) -> None:
        """Keeps the times of the folders beside a new index, if a second list has the same files.

        Args:
            index: The index of the files that were listed.
            stamps: The stamps of its files.
        """
        files, _ = self._list()
        if files.equals(self._files):
            self._write(index, stamps)

    def _list(self) -> tuple[pd.DataFrame, list[Row]]:
        self._began, self._states = time.time_ns(), list[FolderState]()
        return list_files(self._root, self._progress, kept_in=self._folder, states=self._states)

    def _is_unchanged(self, stamps: Stamps) -> bool:
        try:
            with (self._folder / FOLDERS).open("rb") as file:
                kept = pd.read_parquet(file)
            if kept.attrs.get("index") != stamps:
                return False
            columns = (kept[name].to_list() for name in FolderState._fields)
            root = os.fspath(self._root)
            for path, inode, changed in zip(*columns, strict=True):
                status = os.stat(find_on_disk(f"{root}/{path}"))  # noqa: PTH116 - there may be many
                if (status.st_ino, status.st_ctime_ns) != (inode, changed):
                    return False
        except (OSError, ValueError, LookupError):  # there is none, it is damaged, or a folder went
            return False
        return True

    def _write(self, index: Index, stamps: Stamps) -> None:
        # A file may have come after the list at the same time, or become readable while it stays the same.
        is_young = any(state.changed >= self._began - SETTLED for state in self._states)
        if is_young or index.refused["code"].isin(PASSING).any():
            return
        table = pd.DataFrame(self._states, columns=FolderState._fields)
        table["path"] = table["path"].map(escape_path).astype("str")
        table.attrs["index"] = stamps
        with suppress(OSError):  # the next start lists the files, and tries again
            write_table(table, self._folder / FOLDERS)
            (self._folder / FOLDERS).chmod(0o600)
