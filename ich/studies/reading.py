"""Reads every file of the inputs once: its study, whether it is a slice, and a hash of its content."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from ich.dicom import list_headers, read_frame_texts
from ich.dicom.attributes import Attributes, read_attributes
from ich.dicom.groups import ENHANCED
from ich.dicom.header import Header
from ich.files import find_on_disk, hash_file
from ich.progress import map_in_threads
from ich.schema import ReadError
from ich.schema.codes import Refusal
from ich.tables import HEADER_DTYPES, STAMP, make_table

_KINDS = {name: "str" for name in Attributes._fields if name not in HEADER_DTYPES}

FILE_DTYPES = HEADER_DTYPES | _KINDS | {"code": "str", "detail": "str"}
"""Columns of a table of files: those of the index, those of ``ich.dicom.attributes.Attributes``, and why a
file is not a readable slice: a code of ``Refusal`` and a detail, both empty for a slice. If a file is not a
slice, numbers of the index are NaN, or 0 for integers; ``pixel_offset`` is -1."""

_BLANKS = {"str": "", "float64": math.nan, "int32": 0, "int64": -1}
_BLOCKS, _BLOCK = 4, 4096  # of a file, and bytes of one: what a disk reads at once


class Files(NamedTuple):
    """The files that were read.

    Attributes:
        table: One row per file in the order of the paths, and one per frame of a multi-frame file:
            ``FILE_DTYPES``, with ``path`` as given.
        numbers: For each row, the place of its file among the paths.
        digests: For each row's file, SHA-256 of its size and some of its blocks; empty if it cannot be read.
    """

    table: pd.DataFrame
    numbers: list[int]
    digests: list[str]


def read_files(paths: Sequence[str], progress: bool) -> Files:
    """Reads the headers of files of any kind.

    Args:
        paths: Absolute paths, as ``ich.files.escape_path`` shows them.
        progress: Show a bar on a terminal.
    """
    rows, numbers, digests = list[tuple[Any, ...]](), list[int](), list[str]()
    found = map_in_threads(_read_file, paths, "Reading headers", progress)
    for number, (of_file, digest) in enumerate(found):
        rows += of_file
        numbers += [number] * len(of_file)
        digests += [digest] * len(of_file)
    return Files(make_table(rows, FILE_DTYPES), numbers, digests)


def _read_file(path: str) -> tuple[list[tuple[Any, ...]], str]:
    """Returns a row of ``FILE_DTYPES`` per slice of a file, or one if it is not a slice, and its digest."""
    headers: list[Header] = []
    texts: list[dict[str, str]] = []
    attributes: Attributes | None = None
    code = detail = digest = ""
    size = changed = -1
    try:
        status = os.stat(find_on_disk(path))  # noqa: PTH116 - a Path costs as much as the read
        size, changed = status.st_size, status.st_mtime_ns
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
        rows.append((path, size, changed, *header, *kinds, code, detail))
    return rows, digest


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
