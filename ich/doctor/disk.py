"""Measures the disk of a folder for a few seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ich.dicom import read_header, read_hu
from ich.doctor.record import Disk
from ich.image.resize import resize_hu
from ich.schema import ReadError, UserError

SIZE = 256
"""Side in pixels to which slices are resized, in the measurement."""

_LISTED = 5000  # files among which slices are taken
_SLICES = 64
_SECONDS = 3.0  # for each of the steps
_OWN = 32 << 20  # bytes of the file that is written where there are no slices


def measure_disk(root: Path) -> Disk | None:
    """Measures how fast one thread reads CT slices in a folder, or else a file that it writes and removes.

    Args:
        root: The folder.

    Returns:
        The measurement; None if there are no slices, and no file can be written.

    Raises:
        UserError: If it is not a folder that can be listed.
    """
    try:
        paths = _list_some(root)
    except OSError as error:
        raise UserError(f"--root: {root} cannot be listed: {error.strerror}") from error
    slices = list(within(_SECONDS, filter(_is_slice, paths)))
    return _measure_slices(root, slices) if slices else _measure_own(root)


def within(seconds: float, items: Iterable[Path]) -> Iterator[Path]:
    """Yields items until the time is over, and at least one."""
    end = time.perf_counter() + seconds
    for item in items:
        yield item
        if time.perf_counter() > end:
            return


def _list_some(root: Path) -> list[Path]:
    """Lists some files of a folder, evenly spaced among the first in it."""
    os.scandir(root).close()  # os.walk passes over a folder that it cannot list
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    first = list(within(_SECONDS, islice(found, _LISTED)))
    return first[:: max(1, len(first) // _SLICES)][:_SLICES]


def _is_slice(path: Path) -> bool:
    try:
        read_header(path)
    except ReadError:
        return False
    return True


def _measure_slices(root: Path, slices: list[Path]) -> Disk:
    size, start, read = 0, time.perf_counter(), []
    for path in within(_SECONDS, slices):
        size += _read_afresh(path)
        read.append(path)
    seconds = time.perf_counter() - start
    decoded, spent = 0, 0.0
    _decode(read[0])  # compressed pixels are decoded in another process, which starts now
    for path in within(_SECONDS, read):
        start = time.perf_counter()
        decoded += _decode(path)
        spent += time.perf_counter() - start
    free = shutil.disk_usage(root).free
    return Disk("CT slices", len(read), size, seconds, decoded, spent if decoded else 0.0, free)


def _measure_own(root: Path) -> Disk | None:
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".ich-doctor-") as file:
            file.write(os.urandom(_OWN))
            file.flush()
            os.fsync(file.fileno())
            start = time.perf_counter()
            size = _read_afresh(Path(file.name))
            seconds = time.perf_counter() - start
    except OSError:
        return None
    return Disk("a file of its own", 1, size, seconds, 0, 0.0, shutil.disk_usage(root).free)


def _read_afresh(path: Path) -> int:
    """Reads a file from its disk, as far as the system forgets its pages when it is asked to."""
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return sum(map(len, iter(lambda: file.read(1 << 20), b"")))


def _decode(path: Path) -> bool:
    try:
        resize_hu(read_hu(path), SIZE)
    except ReadError:
        return False
    return True
