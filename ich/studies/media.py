"""The DICOMDIR of a medium (PS3.10 8, PS3.3 F): the files that it names, with their studies."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MediaStorageDirectoryStorage

from ich.schema import ReadError
from ich.schema.codes import InputRefusal
from ich.schema.errors import describe_error

DICOMDIR = "DICOMDIR"
"""Name of the file, as ``fold_name`` returns it."""

MAX_BYTES = 1 << 26  # of a DICOMDIR: some 100,000 images
_IN_USE = 0xFFFF  # PS3.3 F.3.2.2; 0 is a record that was deleted


class Entry(NamedTuple):
    """A file that a DICOMDIR names.

    Attributes:
        name: Name below the DICOMDIR's folder, folded by ``fold_name``.
        study: StudyInstanceUID of the study above it; empty if there is none.
        instance: SOPInstanceUID; empty if the record does not give it.
        is_image: Whether its record has the type IMAGE.
        is_outside: Whether the name leads out of the folder.
    """

    name: str
    study: str
    instance: str
    is_image: bool
    is_outside: bool


def fold_name(name: str) -> str:
    """Folds a path, so that it is the same on a medium and in a copy.

    File IDs are upper case (PS3.10 8.5). Systems may show them in lower case, with a version such as ``;1``
    (ISO 9660), or with a dot at the end.
    """
    return "/".join(re.sub(r"\.?(;\d+)?$", "", part).upper() for part in name.split("/"))


def read_dicomdir(path: Path) -> list[Entry]:
    """Reads the names of files in a DICOMDIR.

    Raises:
        ReadError: If it is not a DICOMDIR, is damaged, or is larger than any medium's.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of values that break the rules of their VR
            return list(_walk(_read(path)))
    except Exception as error:  # pydicom raises any exception
        detail = f"{describe_error(error)}; give its folder to read all files in it"
        raise ReadError(InputRefusal.BAD_DICOMDIR, path, detail) from error


def _read(path: Path) -> Dataset:
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"has {size} bytes, at most {MAX_BYTES} are read")
    ds = pydicom.dcmread(path)
    if ds.file_meta.MediaStorageSOPClassUID != MediaStorageDirectoryStorage:
        raise ValueError("is not a Media Storage Directory")
    return ds


def _walk(ds: Dataset) -> Iterator[Entry]:
    """Yields the entries of the records in use, from the first one (PS3.3 F.2.1)."""
    records = {record.seq_item_tell: record for record in ds.DirectoryRecordSequence}
    left = [(int(ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity), "", True)]
    while left:
        offset, study, in_use = left.pop()
        if offset == 0:
            continue
        record = records.pop(offset, None)  # so that a circle ends
        if record is None:
            raise ValueError(
                f"names a record at byte {offset}, where no record begins or one that was already read"
            )
        left.append((int(record.OffsetOfTheNextDirectoryRecord), study, in_use))
        in_use = in_use and _is_in_use(record)
        if record.DirectoryRecordType == "STUDY":
            study = str(record.get("StudyInstanceUID", ""))
        left.append((int(record.OffsetOfReferencedLowerLevelDirectoryEntity), study, in_use))
        if in_use and record.get("ReferencedFileID"):
            yield _make_entry(record, study)
    # A chain that was cut would leave out slices without a word.
    if lost := sum(map(_is_in_use, records.values())):
        raise ValueError(f"holds {lost} records that no other record refers to")


def _is_in_use(record: Dataset) -> bool:
    return int(record.get("RecordInUseFlag", _IN_USE)) != 0


def _make_entry(record: Dataset, study: str) -> Entry:
    value = record.ReferencedFileID
    parts = [value] if isinstance(value, str) else list(map(str, value))
    outside = any(part in ("", ".", "..") or "/" in part or ":" in part for part in parts)
    return Entry(
        name=fold_name("/".join(parts)),
        study=study,
        instance=str(record.get("ReferencedSOPInstanceUIDInFile", "")),
        is_image=record.DirectoryRecordType == "IMAGE",
        is_outside=outside,
    )
