"""Reads the pixels of an uncompressed slice at their known place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ich.dicom.orientation import orient
from ich.dicom.rescale import Rescale, Shifted, Stored, clear_unused_bits, to_shifted


class Layout(NamedTuple):
    """Layout and meaning of the pixels of a slice in its file."""

    rows: int  # as stored
    columns: int
    rescale: Rescale
    orientation: int  # that brings them to LPS: a number of ``ich.dicom.orientation``

    @property
    def size(self) -> int:
        """Bytes of the pixels."""
        return 2 * self.rows * self.columns

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Type of a stored value: 16 bits, little-endian."""
        return np.dtype("<i2" if self.rescale.signed else "<u2")


class Place(NamedTuple):
    """Place of the pixels of a slice, with signs that it is still valid."""

    offset: int  # bytes from the start of the file
    file_size: int  # bytes
    mtime_ns: int


class Frame(NamedTuple):
    """Memory for the pixels of a layout, as bytes and as stored values."""

    layout: Layout
    pixels: memoryview
    stored: Stored  # (rows, columns), the same memory


def make_frames(layouts: Sequence[Layout]) -> list[Frame]:
    """Makes a frame for each layout in one memory, because a slice is used before the next is read."""
    memory = np.empty(max((layout.size for layout in layouts), default=0), np.uint8)
    frames = []
    for layout in layouts:
        pixels = memory[: layout.size]
        stored = pixels.view(layout.dtype).reshape(layout.rows, layout.columns)
        frames.append(Frame(layout, pixels.data, stored))
    return frames


def read_hu_at(path: str | os.PathLike[str] | bytes, place: Place, frame: Frame) -> Shifted | None:
    """Reads the pixels of a slice with one ``pread``.

    Args:
        path: The file.
        place: Place of the pixels in the file.
        frame: Memory for pixels of this layout; overwritten.

    Returns:
        (Rows, Columns) HU, as from ``ich.dicom.read_hu``, minus a constant and mostly in the memory of
        ``frame``. None if the file is missing or has another size or time: its header must then be read
        again.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        count = os.preadv(file, [frame.pixels], place.offset)
        # After the read, because a file that was overwritten meanwhile then has another time.
        status = os.fstat(file)
        is_same = (status.st_size, status.st_mtime_ns) == (place.file_size, place.mtime_ns)
        if count != frame.pixels.nbytes or not is_same:
            return None
    except OSError:
        return None
    finally:
        os.close(file)
    return _convert(frame)


def convert_hu(pixels: bytes, frame: Frame) -> Shifted:
    """Converts the pixels of a slice that were fetched from its place, as ``read_hu_at`` does.

    Args:
        pixels: The stored pixels.
        frame: Memory for pixels of this layout; overwritten.
    """
    frame.pixels[:] = pixels
    return _convert(frame)


def _convert(frame: Frame) -> Shifted:
    rescale = frame.layout.rescale
    clear_unused_bits(frame.stored, rescale.bits_stored)
    values, shift = to_shifted(frame.stored, rescale)
    return Shifted(orient(values, frame.layout.orientation), shift)
