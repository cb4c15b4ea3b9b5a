"""Reading the pixels of an uncompressed slice at the place where its header was seen to end."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ich.dicom.rescale import Rescale, Stored, clear_unused_bits, to_hu


class Layout(NamedTuple):
    """How the pixels of a slice lie in its file, and what they mean."""

    rows: int
    columns: int
    rescale: Rescale

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


def read_hu_at(
    path: str | os.PathLike[str] | bytes, place: Place, layout: Layout, buffer: NDArray[np.uint8]
) -> NDArray[np.int16] | None:
    """Reads the pixels of a slice with one ``pread``.

    Args:
        path: The file.
        place: Where the pixels lie.
        layout: How they lie there.
        buffer: At least rows * columns * 2 bytes, written over.

    Returns:
        (rows, columns) HU, as ``ich.dicom.read_hu`` gives them, in the memory of ``buffer``. None where the
        file has another size or time than it had, or is gone: its header has to be read again.
    """
    wanted = layout.size
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        before = os.fstat(file)
        if (before.st_size, before.st_mtime_ns) != (place.file_size, place.mtime_ns):
            return None
        if os.preadv(file, [buffer[:wanted].data], place.offset) != wanted:
            return None
    except OSError:
        return None
    finally:
        os.close(file)
    stored: Stored = buffer[:wanted].view(layout.dtype).reshape(layout.rows, layout.columns)
    clear_unused_bits(stored, layout.rescale.bits_stored)
    return to_hu(stored, layout.rescale)
