"""One DICOM file: its header, and its stored pixels as Hounsfield units.

``elements`` walks the data set, and ``skimming`` reads simple ones faster. ``kind`` recognizes the kind of
slice, and ``header`` holds its values for the index. ``frames`` reads pixels with ``codecs``, compressed ones
in another process (``decoding``). ``rescale`` converts them to HU, and ``orientation`` to LPS. ``direct``
reads the pixels of an uncompressed slice at their place in the file. ``files`` opens files. ``attributes``
reads the series of any DICOM file. ``refusal`` says why a file is not a slice.
"""

from __future__ import annotations

import os
from functools import partial
from typing import NamedTuple

import numpy as np
from pydicom import uid

from ich.dicom.codecs import ENCAPSULATED, check_codec
from ich.dicom.dataset import DataSet, ask_pydicom, may_lack, open_stream, read_data_set, read_frames
from ich.dicom.elements import TAGS, Tag, Values
from ich.dicom.files import File, read_file
from ich.dicom.frames import ONLY, Pieces, Which, check_length, find_fragments, find_frame, read_stored
from ich.dicom.groups import Raw, has_groups, make_values
from ich.dicom.header import Header, make_header
from ich.dicom.kind import KIND_TAGS, Kind, find_kind
from ich.dicom.orientation import Geometry, orient, orient_geometry
from ich.dicom.refusal import RefusedError
from ich.dicom.rescale import Stored, to_hu
from ich.dicom.stream import Stream
from ich.schema.codes import Refusal

__all__ = ["list_headers", "read_geometry", "read_header", "read_hu", "read_pixels"]

_BLOCKS, _BLOCK = 4, 4096  # of the pixels, and bytes of one: what a disk reads at once

# Python texts, because a UID of pydicom takes several times as long to compare.
_PLAIN = frozenset(map(str.__str__, (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian)))


def read_header(path: str | os.PathLike[str], frame: int = 0) -> Header:
    """Reads the header of a CT slice, without pixels.

    Raises:
        ReadError: If the file is not a readable CT slice; its code is a ``Refusal``.
    """
    return read_file(os.fspath(path), partial(_read_slice, frame=frame)).header


def list_headers(path: str | os.PathLike[str], size: int | None = None) -> list[Header]:
    """Reads the header of each slice of a file, one per frame, without pixels.

    Args:
        path: A file.
        size: Size of a file at an address, bytes, which saves a request; None if unknown.

    Raises:
        ReadError: If the file is not CT, or one of its frames cannot be read; its code is a ``Refusal``.
    """
    return read_file(os.fspath(path), _read_headers, size=size)


def read_frame_texts(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Reads the functional groups of each frame beside its header, as in ``Attributes``.

    Raises:
        ReadError: If the file cannot be read; its code is a ``Refusal``.
    """
    frames = read_file(os.fspath(path), read_frames)
    tags = (Tag.SliceThickness, Tag.ImageOrientationPatient, Tag.RescaleType)
    return [{tag.name: Values("little", raw).whole(tag) for tag in tags} for raw in frames]


def read_geometry(path: str | os.PathLike[str], frame: int = 0) -> Geometry:
    """Reads where a CT slice lies, in LPS like the pixels from ``read_hu``.

    Raises:
        ReadError: If the file is not a readable CT slice; its code is a ``Refusal``.
    """
    header, _, (_, values, *_), _ = read_file(os.fspath(path), partial(_read_slice, frame=frame))
    stored = Geometry(
        values.numbers(Tag.ImageOrientationPatient, 6), values.numbers(Tag.ImagePositionPatient, 3)
    )
    shape, spacing = (header.Rows, header.Columns), (header.row_spacing, header.column_spacing)
    return orient_geometry(stored, shape, spacing, header.orientation)


def read_hu(path: str | os.PathLike[str], frame: int = 0) -> np.ndarray:
    """Reads the pixels of a CT slice as HU in LPS; see ``ich.dicom.orientation``.

    Pixels stay as they are stored if the file has no orientation, or if the slice is nearer to another plane
    than the axial one.

    The function applies the modality rescale of PS3.3 C.11.1.1.2 and rounds to the nearest HU. Padding
    becomes -1024 HU, the air outside the scan circle. Padding is defined by PS3.3 C.7.5.1.1.2, and includes
    all values below -1024 HU, such as untagged padding. MONOCHROME1 changes nothing. It concerns the display
    after the VOI transformation (PS3.3 C.7.6.3.1.2), and the rescale comes before that (PS3.3 C.11.1).

    A quirk of the RSNA set is corrected: 12-bit unsigned values with an intercept above -100 were shifted by
    1000 and wrapped at 4096.

    Args:
        path: A file.
        frame: Number of the slice among the frames of the file, from 1; 0 if the file holds one slice.

    Returns:
        (Rows, Columns) int16 array of HU from -1024 to 32767.

    Raises:
        ReadError: If the file is not a readable CT slice; its code is a ``Refusal``.
    """
    return read_file(os.fspath(path), partial(_decode, frame=frame), whole=True)


def read_pixels(path: str | os.PathLike[str], frame: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Reads the stored pixels of a CT slice, and their HU.

    Neither is converted to LPS.

    Returns:
        Stored values, (Rows, Columns) of 8 or 16 bits, and (Rows, Columns) int16 HU.

    Raises:
        ReadError: If the file is not a readable CT slice; its code is a ``Refusal``.
    """
    return read_file(os.fspath(path), partial(_decode_both, frame=frame), whole=True)


def read_blocks(path: str | os.PathLike[str], frame: int = 0) -> bytes:
    """Reads some blocks at fixed places of the stored pixels: a few KiB of a slice.

    Returns:
        The size of the pixels as a number of eight bytes, and ``_BLOCKS`` blocks spread over them, or all of
        them if there are fewer. For a compressed slice, the blocks come from its fragments in order.

    Raises:
        ReadError: If the file is not a readable CT slice; its code is a ``Refusal``.
    """
    return read_file(os.fspath(path), partial(_read_blocks, frame=frame))


def _read_blocks(file: File, size: int, frame: int) -> bytes:
    found = _read_slice(file, size, frame)
    stream = found.open(file, size)
    if found.data_set.syntax in ENCAPSULATED:
        pieces = find_fragments(stream, found.which)
    else:
        pieces = [(found.data_set.offset, found.kind.pixel_format.size)]
    pixels = Pieces(stream, pieces)
    starts = [max(0, pixels.size * (n + 1) // (_BLOCKS + 1) - _BLOCK // 2) for n in range(_BLOCKS)]
    blocks = (pixels.read(start, start + _BLOCK) for start in starts)
    return b"".join((pixels.size.to_bytes(8, "little"), *blocks))


class _Slice(NamedTuple):
    """A slice up to the value of its pixels."""

    header: Header
    kind: Kind
    data_set: DataSet  # as in a file with only this slice
    which: Which  # its frame in the file

    def open(self, file: File, size: int) -> Stream:
        """Opens its file, or what was inflated from it, at the value of its pixels."""
        stream = self.data_set.stream or open_stream(file, size)
        stream.file.seek(self.data_set.offset)
        return stream


def _decode(file: File, size: int, frame: int) -> np.ndarray:
    stored, kind = _decode_stored(file, size, frame)
    return orient(to_hu(stored, kind.rescale), kind.plane.orientation)


def _decode_both(file: File, size: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    stored, kind = _decode_stored(file, size, frame)
    return stored.copy(), to_hu(stored, kind.rescale)  # which may write over them


def _decode_stored(file: File, size: int, frame: int) -> tuple[Stored, Kind]:
    found = _read_slice(file, size, frame)
    _, kind, data_set, which = found
    stream = found.open(file, size)
    return read_stored(data_set.pixels, stream, data_set.syntax, kind.pixel_format, which), kind


def _read_slice(file: File, size: int, frame: int = 0) -> _Slice:
    data_set = read_data_set(file, size)
    if has_groups(data_set.values):
        frames, data_set = _read_groups(data_set, file, size)
        if frame == 0 and len(frames) > 1:
            raise RefusedError(Refusal.MULTI_FRAME, f"has {len(frames)} frames, and none of them is named")
        return _make_frame(data_set, frames, max(frame, 1), file, size)
    if frame > 1:
        raise ValueError(f"has no frame {frame}")
    return _make_only(data_set, file, size)


def _make_only(data_set: DataSet, file: File, size: int) -> _Slice:
    try:
        return _make_slice(data_set, file, size)
    except (RefusedError, ValueError):
        if not may_lack(data_set) or (again := ask_pydicom(file, size, TAGS)) is None:
            raise
        return _make_slice(again, file, size)


def _read_headers(file: File, size: int) -> list[Header]:
    data_set = read_data_set(file, size)
    if not has_groups(data_set.values):
        return [_make_only(data_set, file, size).header]
    frames, data_set = _read_groups(data_set, file, size)
    return [_make_frame(data_set, frames, n, file, size).header for n in range(1, len(frames) + 1)]


def _read_groups(data_set: DataSet, file: File, size: int) -> tuple[list[Raw], DataSet]:
    """Reads the groups of each frame. The file is opened again later, because another stream moved in it."""
    frames = read_frames(file, size)
    is_file = data_set.stream is not None and data_set.stream.size == size
    return frames, data_set._replace(stream=None) if is_file else data_set


def _make_frame(data_set: DataSet, frames: list[Raw], number: int, file: File, size: int) -> _Slice:
    count = data_set.values.text(Tag.NumberOfFrames) or "1"
    if not count.isdecimal() or int(count) != len(frames) or number > len(frames):
        raise ValueError(f"has functional groups of {len(frames)} frames, and NumberOfFrames is {count}")
    values = make_values(data_set.values, frames[number - 1], len(frames))
    return _make_slice(data_set._replace(values=values), file, size, Which(number, len(frames)))


def _make_slice(data_set: DataSet, file: File, size: int, which: Which = ONLY) -> _Slice:
    syntax, values, pixels, offset, whole, _ = data_set
    kind = find_kind(values.order, tuple(map(values.raw.get, KIND_TAGS)))
    if syntax in ENCAPSULATED:
        check_codec(syntax, 0)
    check_length(pixels, whole - offset, syntax, kind.pixel_format, which.frames)
    if which.frames > 1 and syntax not in ENCAPSULATED:
        offset += (which.number - 1) * kind.pixel_format.size
        pixels = pixels._replace(length=kind.pixel_format.size)
        data_set = data_set._replace(pixels=pixels, offset=offset)
    direct = syntax in _PLAIN and kind.pixel_format.bits_allocated == 16
    header = make_header(values, kind, syntax, offset if direct else -1)
    if which.frames > 1:
        name = f"{header.SOPInstanceUID}#{which.number}"
        header = header._replace(SOPInstanceUID=name, frame=which.number)
    found = _Slice(header, kind, data_set, which)
    if syntax in ENCAPSULATED:
        find_frame(found.open(file, size), syntax, kind.pixel_format, which)
    return found
