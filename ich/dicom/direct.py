"""Reading the pixels of an uncompressed slice at the place where its header was seen to end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ich.dicom.orientation import orient
from ich.dicom.rescale import Rescale, Shifted, Stored, clear_unused_bits, to_shifted


class Layout(NamedTuple):
    """How the pixels of a slice lie in its file, and what they mean."""

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
        """Of a stored value: 16 bits, little-endian."""
        return np.dtype("<i2" if self.rescale.signed else "<u2")


class Place(NamedTuple):
    """Where the pixels of a slice lie, and by what it shows that they still do."""

    offset: int  # bytes from the start of the file
    file_size: int  # bytes
    mtime_ns: int


class Frame(NamedTuple):
    """Memory for the pixels of a layout, as bytes and as what they stand for."""

    layout: Layout
    pixels: memoryview
    stored: Stored  # (rows, columns), the same memory


def make_frames(layouts: Sequence[Layout]) -> list[Frame]:
    """Makes a frame for each layout, all in one memory: a slice is read and used before the next is."""
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
        place: Where the pixels lie.
        frame: Memory for pixels of this layout; overwritten.

    Returns:
        (Rows, Columns) HU, as ``ich.dicom.read_hu`` gives them, less a constant and mostly in the memory of
        ``frame``. None where the file has another size or time than it had, or is gone: its header has to be
        read again.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        count = os.preadv(file, [frame.pixels], place.offset)
        # Afterwards: what was written over meanwhile has another time by now.
        status = os.fstat(file)
        is_same = (status.st_size, status.st_mtime_ns) == (place.file_size, place.mtime_ns)
        if count != frame.pixels.nbytes or not is_same:
            return None
    except OSError:
        return None
    finally:
        os.close(file)
    rescale = frame.layout.rescale
    clear_unused_bits(frame.stored, rescale.bits_stored)
    values, shift = to_shifted(frame.stored, rescale)
    return Shifted(orient(values, frame.layout.orientation), shift)
