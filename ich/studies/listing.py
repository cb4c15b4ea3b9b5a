"""Lists the files of all inputs: those that may be DICOM, refused files, and entries of a DICOMDIR."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ich.files import escape_path, find_on_disk
from ich.index.files import list_files
from ich.index.names import NameRefusal, is_archive, read_head, refuse_by_name
from ich.remote import AnyPath, RemotePath
from ich.schema import ReadError, UserError
from ich.schema.codes import InputRefusal, Refusal
from ich.studies.archives import unpack
from ich.studies.fetching import fetch_files
from ich.studies.media import DICOMDIR, Entry, fold_name, read_dicomdir
from ich.studies.unpacking import File, Refused, Unpacked


class Missing(NamedTuple):
    """An image that is missing at the place that a DICOMDIR gives.

    Attributes:
        path: Expected place.
        instance: SOPInstanceUID; empty if the DICOMDIR does not give it.
    """

    path: str
    instance: str


@dataclass
class Listing:
    """Files of the inputs.

    Attributes:
        files: Files, each once.
        refused: Files that cannot be listed, unpacked or found.
        strays: Number of these that may have been slices, by folder.
        named: StudyInstanceUID of files in a DICOMDIR, by path.
        missing: Images that a DICOMDIR names but that are missing at their place, by StudyInstanceUID.
    """

    files: list[File] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)
    named: dict[str, str] = field(default_factory=dict)
    missing: dict[str, list[Missing]] = field(default_factory=dict)


def list_inputs(
    inputs: Sequence[AnyPath], scratch: Path, progress: bool, skipped: Collection[str] = ()
) -> Listing:
    """Lists the files of all inputs, fetches those at addresses, and unpacks archives.

    Files of folders that are ``skipped`` are left out.

    Raises:
        UserError: If an input does not exist, an address cannot be read, or an archive cannot be unpacked
            because space is short.
    """
    listing = Listing()
    for address in dict.fromkeys(path for path in inputs if isinstance(path, RemotePath)):
        _add_unpacked(fetch_files(address, scratch, progress), listing)
    local = [path for path in inputs if not isinstance(path, RemotePath)]
    for path in dict.fromkeys(Path(os.path.abspath(path)) for path in local):  # noqa: PTH100 - no links
        if not os.path.lexists(path):
            raise UserError(f"{path} does not exist: give files, folders, archives or a DICOMDIR")
        if (text := escape_path(path)) != str(path) and os.path.lexists(text):
            raise UserError(f"{text} stands for two names, and one of them is not UTF-8: rename one")
        if path.is_dir():
            _list_folder(path, listing, scratch, progress, skipped)
        elif fold_name(path.name) == DICOMDIR:
            _list_medium(path, listing, progress)
        elif (refusal := refuse_by_name(text)) is None and not is_archive(read_head(text)):
            listing.files.append(make_file(text))
        else:
            _list_other(text, refusal or (Refusal.ARCHIVE, ""), listing, scratch, progress)
    listing.files = list({file.path: file for file in listing.files}.values())
    return listing


def make_file(path: str) -> File:
    """Makes the entry of a file on the disk."""
    folder, _, name = path.rpartition("/")
    return File(path, path, folder, name)


def _list_folder(
    folder: Path, listing: Listing, scratch: Path, progress: bool, skipped: Collection[str]
) -> None:
    table, closed = list_files(folder, progress, hidden=True)
    root = escape_path(folder)
    for name, code, detail, *_ in closed:  # may have been a slice
        listing.refused.append((f"{root}/{name}", str(code), detail))
        listing.strays[f"{root}/{name}".rpartition("/")[0]] += 1
    files = list[tuple[str, File]]()
    for name in table["path"]:
        if f"{root}/{name}" in skipped:
            continue
        if (refusal := refuse_by_name(path := f"{root}/{name}")) is None:
            files.append((name, make_file(path)))
        else:
            _list_other(path, refusal, listing, scratch, progress)
    _add_files(files, listing)


def _list_other(path: str, refusal: NameRefusal, listing: Listing, scratch: Path, progress: bool) -> None:
    """Lists files that are not DICOM by their name: the content of archives, and all others as refused."""
    code, detail = refusal
    if code is Refusal.ARCHIVE:
        _list_archive(path, listing, scratch, progress)
    else:
        listing.refused.append((path, str(code), detail))


def _list_archive(path: str, listing: Listing, scratch: Path, progress: bool) -> None:
    _add_unpacked(unpack(path, scratch, progress), listing)


def _add_unpacked(unpacked: Unpacked, listing: Listing) -> None:
    listing.refused += unpacked.refused
    listing.strays.update(unpacked.strays)
    _add_files(unpacked.files, listing)


def _add_files(files: list[tuple[str, File]], listing: Listing) -> None:
    """Adds files by their names below an input, and checks each DICOMDIR among them."""
    files = sorted(files)
    names = [name for name, _ in files]
    for name, file in files:
        prefix, slash, last = name.rpartition("/")
        if fold_name(last) != DICOMDIR:
            listing.files.append(file)
            continue
        below = prefix + slash
        start, stop = bisect_left(names, below), bisect_left(names, below + chr(sys.maxunicode))
        _check_medium(file, {name.removeprefix(below): f for name, f in files[start:stop]}, listing)


def _list_medium(path: Path, listing: Listing, progress: bool) -> None:
    """Adds the files that a DICOMDIR names."""
    folder, names = escape_path(path.parent), list_files(path.parent, progress)[0]["path"]
    files = {name: make_file(f"{folder}/{name}") for name in names}
    listing.files += _check_medium(make_file(escape_path(path)), files, listing)


def _check_medium(dicomdir: File, files: Mapping[str, File], listing: Listing) -> list[File]:
    """Finds the files that a DICOMDIR names among those of its folder; records missing ones."""
    try:
        entries = read_dicomdir(Path(find_on_disk(dicomdir.path)))
    except ReadError as error:
        listing.refused.append((dicomdir.shown, error.code, error.detail))
        return []
    by_name = {fold_name(name): file for name, file in files.items()}
    found: list[File] = []
    for entry in entries:
        file = by_name.get(entry.name)
        if entry.is_outside:
            detail = f"{entry.name!r} is not within its folder"
            listing.refused.append((dicomdir.shown, InputRefusal.OUTSIDE_MEDIUM, detail))
        if file is not None:
            found.append(file)
            listing.named[file.path] = entry.study
        elif entry.is_image:
            _note_missing(entry, dicomdir, listing)
    return found


def _note_missing(entry: Entry, dicomdir: File, listing: Listing) -> None:
    folder = dicomdir.shown.rpartition("/")[0]
    listing.missing.setdefault(entry.study, []).append(Missing(f"{folder}/{entry.name}", entry.instance))
