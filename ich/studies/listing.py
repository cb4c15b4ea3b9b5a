"""The files of every input: what may be DICOM, what is refused, and what a DICOMDIR says of them."""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ich.index.files import list_files
from ich.schema import ReadError, UserError
from ich.studies.archives import ARCHIVE_SUFFIX, is_archive, unpack
from ich.studies.media import DICOMDIR, Entry, fold_name, read_dicomdir
from ich.studies.refusal import InputRefusal, Refused


class File(NamedTuple):
    """A file to be read.

    Attributes:
        path: On the disk, absolute.
        shown: What it is called where it is refused: of a member, its archive and its name in it.
    """

    path: str
    shown: str


class Missing(NamedTuple):
    """An image that is not where a DICOMDIR says.

    Attributes:
        path: Where it was to be.
        instance: SOPInstanceUID; empty where the DICOMDIR does not say.
    """

    path: str
    instance: str


@dataclass
class Listing:
    """What the inputs hold.

    Attributes:
        files: Each once.
        refused: What cannot be listed, unpacked or found.
        strays: How many of these may have been slices, by folder.
        named: StudyInstanceUID that a DICOMDIR gives a file, by path.
        missing: Images that a DICOMDIR names and that are not where it says, by StudyInstanceUID.
    """

    files: list[File] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)
    named: dict[str, str] = field(default_factory=dict)
    missing: dict[str, list[Missing]] = field(default_factory=dict)


def list_inputs(inputs: Sequence[Path], scratch: Path, progress: bool) -> Listing:
    """Lists the files of every input, and unpacks archives.

    Raises:
        UserError: If an input does not exist, or an archive cannot be unpacked for want of space.
    """
    listing = Listing()
    for path in dict.fromkeys(Path(os.path.abspath(path)) for path in inputs):  # noqa: PTH100 - no links
        if path.is_dir():
            _list_folder(path, listing, scratch, progress)
        elif not os.path.lexists(path):
            raise UserError(f"{path} does not exist: name files, folders, zip archives or a DICOMDIR")
        elif fold_name(path.name) == DICOMDIR:
            _list_medium(path, listing, progress)
        elif is_archive(path):
            _list_archive(path, listing, scratch, progress)
        else:
            listing.files.append(File(str(path), str(path)))
    listing.files = list({file.path: file for file in listing.files}.values())
    return listing


def _list_folder(folder: Path, listing: Listing, scratch: Path, progress: bool) -> None:
    names = _list_names(folder, listing, progress)
    files = [name for name in names if not name.lower().endswith(ARCHIVE_SUFFIX)]
    for name in names:
        if name.lower().endswith(ARCHIVE_SUFFIX):
            _list_archive(folder / name, listing, scratch, progress)
    _add_files([(name, File(f"{folder}/{name}", f"{folder}/{name}")) for name in files], listing)


def _list_names(folder: Path, listing: Listing, progress: bool) -> list[str]:
    """Names below a folder; what cannot be looked into is refused, and may have been a slice."""
    table, closed = list_files(folder, progress, also=ARCHIVE_SUFFIX)
    for name, code, detail, *_ in closed:
        listing.refused.append((f"{folder}/{name}", str(code), detail))
        listing.strays[os.path.dirname(f"{folder}/{name}")] += 1  # noqa: PTH120 - a text
    return table["path"].to_list()


def _list_archive(path: Path, listing: Listing, scratch: Path, progress: bool) -> None:
    unpacked = unpack(path, scratch, progress)
    listing.refused += unpacked.refused
    listing.strays.update(unpacked.strays)
    _add_files([(name, File(*file)) for name, *file in unpacked.files], listing)


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
    folder = path.parent
    names = list_files(folder, progress)[0]["path"].to_list()
    files = {name: File(f"{folder}/{name}", f"{folder}/{name}") for name in names}
    listing.files += _check_medium(File(str(path), str(path)), files, listing)


def _check_medium(dicomdir: File, files: Mapping[str, File], listing: Listing) -> list[File]:
    """Finds the files that a DICOMDIR names among those of its folder; notes what is not there."""
    try:
        entries = read_dicomdir(Path(dicomdir.path))
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
