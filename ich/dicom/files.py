"""Opens a DICOM file within bounds, and turns all failures into one error.

A file on the disk is passed on as its descriptor, which is fastest. A file at an address, such as
``s3://bucket/file``, is passed on as a file that fetches its parts.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from ich.dicom.refusal import RefusedError
from ich.dicom.stream import Stream
from ich.files import find_on_disk
from ich.remote import RemotePath, is_address
from ich.schema import ReadError, UserError
from ich.schema.codes import Refusal
from ich.schema.errors import describe_error

MAX_BYTES = 1 << 31  # of a file: 4096 frames of 512 x 512 pixels
MAX_INFLATED = 36 << 20  # of a deflated data set: the largest slice and 4 MiB of header
_PIECE = 1 << 20  # bytes that are inflated at a time
_WHOLE = 1 << 22  # bytes that are fetched at once where pixels are needed: all of a usual slice
File = int | io.BufferedReader
"""A descriptor of a file on the disk, or a file at an address."""

_Result = TypeVar("_Result")


def read_file(
    path: str,
    use: Callable[[File, int], _Result],
    most: float = MAX_BYTES,
    *,
    size: int | None = None,
    whole: bool = False,
) -> _Result:
    """Passes a file and its size to ``use``; any failure becomes a ``ReadError``.

    Args:
        path: The file; as ``ich.files.escape_path`` shows it, where it stands in a table.
        use: Function that reads the file.
        most: Maximum size of a file, bytes.
        size: Size of a file at an address, bytes, which saves a request; None if unknown.
        whole: Fetch a file at an address with one request, because its pixels are needed.

    Raises:
        ReadError: If the file cannot be read, or ``use`` fails; its code is a ``Refusal``.
    """
    try:
        if is_address(path):
            return _read_remote(RemotePath(path), use, most, size, whole)
        on_disk = find_on_disk(path)
        size = _check_file(os.stat(on_disk), most)  # noqa: PTH116 - a Path costs as much as the read
        # Most headers take one read, to which a buffered file would add a tenth of the time.
        file = os.open(on_disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return use(file, size)
        finally:
            os.close(file)
    except RefusedError as refused:
        raise ReadError(refused.code, path, str(refused)) from None
    except EOFError as error:
        raise ReadError(Refusal.TRUNCATED, path, str(error)) from error
    except OSError as error:
        raise ReadError(Refusal.UNREADABLE, path, error.strerror or str(error)) from error
    except (UserError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # pydicom and the codecs raise any exception; one in Rust panics, which is not an Exception. One bad
        # file of 750,000 must only be refused.
        raise ReadError(Refusal.CORRUPT, path, describe_error(error)) from error


def _check_file(status: os.stat_result, most: float) -> int:
    """Returns the size; refuses, before opening, a file that blocks, is empty or too large for a slice."""
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(Refusal.NOT_FILE, "is not a regular file")
    return _check_size(status.st_size, most)


def _check_size(size: int, most: float) -> int:
    if size == 0:
        raise RefusedError(Refusal.EMPTY, "has no bytes")
    if size > most:
        raise RefusedError(Refusal.TOO_LARGE, f"has {size} bytes, at most {most} are read")
    return size


def _read_remote(
    path: RemotePath, use: Callable[[File, int], _Result], most: float, size: int | None, whole: bool
) -> _Result:
    """Reads a file at an address: its start or all of it with one request, and the rest as it is needed."""
    if size is not None:
        _check_size(size, most)
    if whole:
        content = path.read_bytes(0, _WHOLE)
        if len(content) < _WHOLE:
            fetched = io.BufferedReader(cast("Any", io.BytesIO(content)))
            return use(fetched, _check_size(len(content), most))
    with path.open(size=size) as file:
        size = _check_size(file.seek(0, os.SEEK_END), most)
        file.seek(0)
        return use(file, size)


def inflate(file: BinaryIO) -> Stream:
    """Inflates the data set after the file meta information (PS3.5 A.5), up to a bound."""
    inflater, inflated, left = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO(), MAX_INFLATED
    while not inflater.eof:
        # What is left of a piece is handed over again, so that memory is a piece's and what came of it.
        if not (piece := inflater.unconsumed_tail or file.read(_PIECE)):
            raise EOFError("ends within its deflated data set")
        left -= inflated.write(inflater.decompress(piece, _PIECE))
        if left < 0:
            raise RefusedError(Refusal.TOO_LARGE, f"inflates to more than {MAX_INFLATED} bytes")
    inflated.seek(0)
    return Stream(inflated, MAX_INFLATED - left)
