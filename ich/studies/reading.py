"""Reads every file of the inputs once: its study, whether it is a slice, and a hash of its content."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import list_headers, read_frame_texts
from ich.dicom.attributes import Attributes, read_attributes
from ich.dicom.groups import ENHANCED
from ich.dicom.header import Header
from ich.files import find_on_disk, hash_file
from ich.progress import map_in_threads
from ich.schema import ReadError
from ich.schema.codes import Refusal
from ich.studies.keeping import read_state, take_kept, write_kept
from ich.studies.unpacking import File
from ich.tables import HEADER_DTYPES, STAMP, make_table

_KINDS = {name: "str" for name in Attributes._fields if name not in HEADER_DTYPES}

FILE_DTYPES = HEADER_DTYPES | _KINDS | {"code": "str", "detail": "str"}
"""Columns of a table of files: those of the index, those of ``ich.dicom.attributes.Attributes``, and why a
file is not a readable slice: a code of ``Refusal`` and a detail, both empty for a slice. If a file is not a
slice, numbers of the index are NaN, or 0 for integers; ``pixel_offset`` is -1."""

_DIGEST = "digest"
_DTYPES = FILE_DTYPES | {_DIGEST: "str", "ctime_ns": "int64"}
_BLANKS = {"str": "", "float64": math.nan, "int32": 0, "int64": -1}
_BLOCKS, _BLOCK = 4, 4096  # of a file, and bytes of one: what a disk reads at once
_TOGETHER = 4096  # files whose rows become a table together: as Python values they take several times as much

Row = tuple[Any, ...]


class Files(NamedTuple):
    """The files that were read.

    Attributes:
        table: One row per file in the order of the files, and one per frame of a multi-frame file:
            ``FILE_DTYPES``, with absolute paths, and ``digest``. That is the SHA-256 of the file's size and
            some of its blocks; empty if it cannot be read.
        numbers: For each row, the place of its file among the files.
    """

    table: pd.DataFrame
    numbers: NDArray[np.intp]


def read_files(files: Sequence[File], progress: bool, kept: Path | None = None) -> Files:
    """Reads the headers of files of any kind.

    Args:
        files: The files.
        progress: Show a bar on a terminal.
        kept: File with the headers of an earlier call, which are taken for unchanged files; written anew if
            others are read. None for none.

    Raises:
        UserError: If ``kept`` cannot be written.
    """
    began = time.time_ns()
    known, places = take_kept(kept, files, make_table([], _DTYPES))
    left = np.setdiff1d(np.arange(len(files)), places)
    tables, numbers = [known], [places]
    found = map_in_threads(_read_file, [files[place].path for place in left], "Reading headers", progress)
    for start in range(0, len(left), _TOGETHER):
        rows = list(islice(found, _TOGETHER))
        tables.append(make_table([row for of_file in rows for row in of_file], _DTYPES))
        numbers.append(np.repeat(left[start : start + _TOGETHER], [len(of_file) for of_file in rows]))
    joined = np.concatenate(numbers)
    order = np.argsort(joined, kind="stable")
    table, joined = pd.concat(tables).iloc[order].reset_index(drop=True), joined[order]
    if kept is not None and len(left):
        write_kept(kept, table, files, joined, began)
    return Files(table[[*FILE_DTYPES, _DIGEST]], joined)


def _read_file(path: str) -> list[Row]:
    """Returns a row of ``_DTYPES`` per slice of a file, or one if it is not a slice."""
    headers: list[Header] = []
    texts: list[dict[str, str]] = []
    attributes: Attributes | None = None
    code = detail = digest = ""
    size = modified = changed = -1
    try:
        size, modified, changed = read_state(path)
        headers = list_headers(path)
    except ReadError as error:
        code, detail = str(error.code), error.detail
    except OSError as error:
        code, detail = str(Refusal.UNREADABLE), error.strerror or str(error)
    try:
        attributes = read_attributes(path)
        digest = _digest(path, size)
        if headers and attributes.SOPClassUID in ENHANCED:
            texts = read_frame_texts(path)
    except (ReadError, OSError):
        pass  # that the header could not be read says why
    known = {} if attributes is None else attributes._asdict()
    rows = []
    for number, header in enumerate(headers or [_fill_header(known)]):
        said = known | (texts[number] if number < len(texts) else {})
        kinds = (said.get(name, "") for name in _KINDS)
        rows.append((path, size, modified, *header, *kinds, code, detail, digest, changed))
    return rows


def _fill_header(known: dict[str, Any]) -> list[Any]:
    """Fills the index columns of a file that is not a slice: known values, and blanks."""
    values: list[Any] = []
    for name, dtype in HEADER_DTYPES.items():
        if name in STAMP:
            continue
        value = known.get(name, _BLANKS[dtype])
        values.append(_parse_number(value) if dtype == "float64" and isinstance(value, str) else value)
    return values


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _digest(path: str, size: int) -> str:
    """Hashes the size, the first block and some blocks spread over the rest, including the last."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with open(find_on_disk(path), "rb", buffering=0) as file:  # noqa: PTH123 - a Path costs as much as the read
        if size <= (_BLOCKS + 1) * _BLOCK:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS + 1):
                file.seek((size - _BLOCK) * number // _BLOCKS)
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def hash_content(path: str) -> str:
    """Returns the SHA-256 of a whole file; empty if it can no longer be read."""
    try:
        return hash_file(find_on_disk(path))
    except OSError:
        return ""


def looks_like_text(path: str) -> bool:
    """Whether a file begins with text in UTF-8; a slice begins with at most 128 bytes of text."""
    try:
        with open(find_on_disk(path), "rb") as file:  # noqa: PTH123 - a text
            head = file.read(_BLOCK)
        text = head.decode(errors="strict" if len(head) < _BLOCK else "ignore")
    except (OSError, UnicodeDecodeError):
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
