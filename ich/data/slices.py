"""Slices with their neighbors: read, resized and augmented in HU, batch by batch."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ich.data.buffers import Buffers
from ich.data.fetching import Fetcher
from ich.data.groups import Groups
from ich.data.on_device import RawBatch
from ich.data.order import Item
from ich.data.training import Training
from ich.dicom import read_hu
from ich.dicom.direct import Layout, Place, convert_hu, make_frames, read_hu_at
from ich.dicom.orientation import orient_pair
from ich.dicom.rescale import Rescale, Shifted
from ich.image import average_hu, find_neighbors, prepare_planes
from ich.image.lesions import Lesions
from ich.image.resize import keeps_shift, resize_hu
from ich.remote import AnyPath, RemotePath, Span
from ich.schema import AIR_HU, LABELS, InputSpec, ReadError
from ich.tables import SLAB_COLUMN

_LAYOUT = [
    "orientation",
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "padding_low",
    "padding_high",
]
"""Columns of the index that make a ``Layout``."""


class Unread(NamedTuple):
    """A slice that could not be read, on its way to the data module."""

    row: int
    error: ReadError


class SliceArrays(NamedTuple):
    """What reading needs from the table, as arrays. Unlike Python objects they do not grow with use."""

    path: NDArray[np.bytes_]  # (rows,) relative to the root
    frame: NDArray[np.int32]  # (rows,) of the file, from 1; 0 where it holds one slice
    file_size: NDArray[np.int64]  # (rows,) bytes
    mtime_ns: NDArray[np.int64]  # (rows,)
    pixel_offset: NDArray[np.int64]  # (rows,) bytes; -1 where pixels need decoding
    layout: NDArray[np.int32]  # (rows,) its number in ``layouts``
    layouts: tuple[Layout, ...]  # a few for a data set
    stack: NDArray[np.int32]  # (rows,) number of the stack; slices of one stack are consecutive rows
    slab: NDArray[np.int32]  # (rows,) number of the slab, from 0 by first row; its slices are averaged
    target: NDArray[np.float32]  # (rows, L), NaN where unknown
    window: NDArray[np.float32]  # (rows, 2) center and width of the header, HU
    side: NDArray[np.float32]  # (rows,) of the slice padded to a square, mm; NaN where unknown
    position: NDArray[np.float32]  # (rows,) mm along the slice normal; NaN where unknown


def to_arrays(table: pd.DataFrame, names: Sequence[str] = ()) -> SliceArrays:
    """Takes the columns for reading from the index, with the requested label columns.

    If the table has ``SLAB_COLUMN``, slices of a stack with the same number there are averaged.
    """
    stack = _number_runs(table[["StudyInstanceUID", "SeriesInstanceUID", "stack"]])
    rows = np.arange(len(table), dtype=np.int32)
    return SliceArrays(
        path=np.array(table["path"].str.encode("utf-8").to_list(), dtype=bytes),
        frame=table["frame"].to_numpy(np.int32),
        file_size=table["file_size"].to_numpy(np.int64),
        mtime_ns=table["mtime_ns"].to_numpy(np.int64),
        pixel_offset=table["pixel_offset"].to_numpy(np.int64),
        layout=_number(table, _LAYOUT),
        layouts=tuple(map(_to_layout, table[_LAYOUT].drop_duplicates().itertuples(index=False))),
        stack=stack,
        slab=_number(table.assign(stack=stack), ["stack", SLAB_COLUMN]) if SLAB_COLUMN in table else rows,
        target=table[list(names)].to_numpy(dtype=np.float32),
        window=table[["WindowCenter", "WindowWidth"]].to_numpy(dtype=np.float32),
        side=(table["row_spacing"] * table[["Rows", "Columns"]].max(axis=1)).to_numpy(np.float32),
        position=table["position"].to_numpy(np.float32),
    )


def _number(table: pd.DataFrame, columns: list[str]) -> NDArray[np.int32]:
    """Numbers the rows from 0: rows with the same values in these columns get the same number."""
    return table.groupby(columns, sort=False).ngroup().to_numpy().astype(np.int32)


def _number_runs(table: pd.DataFrame) -> NDArray[np.int32]:
    """Numbers the rows from 0: consecutive rows with the same values get the same number."""
    changes = (table != table.shift()).any(axis=1).to_numpy()
    return np.cumsum(changes, dtype=np.int32) - np.int32(1)


def _to_layout(row: Any) -> Layout:
    padding = (row.padding_low, row.padding_high) if row.padding_low <= row.padding_high else None
    signed = row.PixelRepresentation == 1
    rescale = Rescale(row.BitsStored, signed, row.RescaleSlope, row.RescaleIntercept, padding)
    rows, columns = orient_pair((row.Rows, row.Columns), row.orientation)
    return Layout(rows, columns, rescale, row.orientation)


class Reader(Protocol):
    """Reads slices of a table as HU of one size, from wherever they are stored.

    Attributes:
        decoded: Slices that were read by decoding so far.
        is_remote: Whether to call ``expect``, which saves time.
    """

    decoded: int
    is_remote: bool

    def read(self, row: int, out: NDArray[np.int16]) -> None:
        """Reads a slice into ``out``, (size, size) HU, contiguous.

        Raises:
            ReadError: If it cannot be read.
            UserError: If no further slice can be read.
        """

    def expect(self, rows: Sequence[int]) -> None:
        """Is told which slices are read next, so that a server is asked for all of them at once."""

    def for_thread(self) -> Self:
        """Returns a reader for another thread."""


class SliceReader:
    """Reads slices from their DICOM files.

    An uncompressed slice is read at the place that the index names. Any other slice is decoded, and so is one
    whose file on the disk has changed. Both ways give the same HU. A reader reuses its memory, so each thread
    needs one of its own.

    Args:
        root: Folder of the data set, on the disk or at an address.
        arrays: The table's columns.

    Attributes:
        decoded: Slices that were read by decoding so far.
        is_remote: Whether the files are at an address.
    """

    def __init__(self, root: AnyPath, arrays: SliceArrays) -> None:
        self.root = root
        self.arrays = arrays
        self.decoded = 0
        self.is_remote = isinstance(root, RemotePath)
        self._fetcher = Fetcher(root) if isinstance(root, RemotePath) else None
        self._prefix = os.fsencode(root) + b"/"
        self._frames = make_frames(arrays.layouts)

    def for_thread(self) -> SliceReader:
        """Returns a reader with its own memory."""
        return SliceReader(self.root, self.arrays)

    def expect(self, rows: Sequence[int]) -> None:
        """Fetches uncompressed pixels that are read next, if the files are at an address."""
        if self._fetcher is not None:
            self._fetcher.expect([self._locate(row) for row in rows if self.arrays.pixel_offset[row] >= 0])

    def read(self, row: int, out: NDArray[np.int16]) -> None:
        """Reads a slice and resizes it into ``out``, (size, size) HU, contiguous.

        Raises:
            ReadError: If it cannot be read.
        """
        (values, shift), size = self._read(row), len(out)
        if shift and not keeps_shift(values, size):
            np.add(values, np.int16(shift), out=values)
            shift = 0
        resize_hu(values, size, out, air=AIR_HU - shift)
        if shift:
            np.add(out, np.int16(shift), out=out)

    def read_whole(self, row: int) -> NDArray[np.int16]:
        """Reads a slice as it is: (Rows, Columns) HU, valid until the next call.

        Raises:
            ReadError: If it cannot be read.
        """
        values, shift = self._read(row)
        return np.add(values, np.int16(shift), out=values) if shift else values

    def _read(self, row: int) -> Shifted:
        """Returns (Rows, Columns) HU minus a constant, valid until the next call."""
        arrays = self.arrays
        path = self._prefix + arrays.path[row]
        if (offset := int(arrays.pixel_offset[row])) >= 0:
            frame = self._frames[arrays.layout[row]]
            if self._fetcher is None:
                place = Place(offset, int(arrays.file_size[row]), int(arrays.mtime_ns[row]))
                shifted = read_hu_at(path, place, frame)
            else:
                pixels = self._fetcher.take(self._locate(row))
                shifted = None if pixels is None else convert_hu(pixels, frame)
            if shifted is not None:
                return shifted
        hu = read_hu(os.fsdecode(path), int(arrays.frame[row]))
        self.decoded += 1
        return Shifted(hu, 0)

    def _locate(self, row: int) -> Span:
        arrays, start = self.arrays, int(self.arrays.pixel_offset[row])
        size = arrays.layouts[arrays.layout[row]].size
        return Span(arrays.path[row].decode("utf-8"), start, start + size)


class SliceDataset(Dataset[dict[str, Any]]):
    """Reads batches of slices with their neighbors, as resized HU. Training also changes them.

    An item is ``(epoch, row, repeat)``. Changes depend on these and the seed only, so the number of workers
    does not matter.

    Args:
        reader: Reads the slices of the table.
        arrays: The table's columns.
        spec: Size, neighbors and brain of the input.
        training: Changes the batches of the training set; None for other sets.
        groups: Studies or series that the items stand for; None if they stand for slices.
        pinned: Put batches into page-locked memory, from which a GPU copies while it computes.

    Attributes:
        read: Number of slices read so far. Neighbors count each time that they are read.
    """

    def __init__(
        self,
        reader: Reader,
        arrays: SliceArrays,
        spec: InputSpec,
        training: Training | None = None,
        groups: Groups | None = None,
        pinned: bool = False,
    ) -> None:
        self.arrays = arrays
        self.spec = spec
        self.training = training
        self.groups = groups
        self.reader = reader
        self.read = 0
        self.buffers = Buffers(pinned)

    def for_thread(self) -> SliceDataset:
        """Returns a copy for another thread. It shares only what never changes: the table's columns."""
        twin = copy.copy(self)
        twin.reader = self.reader.for_thread()
        twin.training = None if self.training is None else self.training.for_thread()
        twin.buffers = Buffers(self.buffers.pinned)
        return twin

    def __getitem__(self, item: Item) -> dict[str, Any]:
        """Returns a batch of one."""
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Reads a batch. ``DataLoader`` calls this.

        Returns:
            ``unread`` holds the slices that could not be read. ``read`` and ``decoded`` count files, with
            neighbors. If any slice could be read, the keys of a ``Batch`` in HU follow, and what
            ``Training`` adds.
        """
        if self.groups is not None:
            items = [each for item in items for each in self.groups.list_slices(item)]
        size, read, decoded = self.spec.size, self.read, self.reader.decoded
        hu = self.buffers.take((len(items), self.spec.depth, size, size))  # (N, D, S, S) int16
        slots = hu.numpy()
        kept: list[Item] = []
        unread: list[Unread] = []
        if self.reader.is_remote:
            self.reader.expect([row for item in items for rows in self._list_rows(item[1]) for row in rows])
        for item in items:
            row = item[1]
            try:
                self._read(slots[len(kept), : self.spec.slices], row)
                kept.append(item)
            except ReadError as error:
                # The traceback would keep the memory of the batch.
                unread.append(Unread(row, error.with_traceback(None)))
        counts = {"read": self.read - read, "decoded": self.reader.decoded - decoded}
        batch = self._make_batch(hu[: len(kept)], kept) if kept else {}
        return RawBatch(unread=unread, **counts, **batch)

    def _make_batch(self, hu: Tensor, items: Sequence[Item]) -> dict[str, Any]:
        """Adds what the table says about slices that were read, (N, D, S, S) HU; training changes them."""
        rows = [row for _, row, _ in items]
        target = self.arrays.target[rows]
        if self.training is not None and (lesions := self.training.spec.lesions) is not None:
            for planes, known, item in zip(hu.numpy(), target, items, strict=True):
                self._paint(lesions, self.training.spec.seed, planes[: self.spec.slices], known, item)
        if not self.spec.shows_slices:
            for planes in hu.numpy():
                planes[:] = prepare_planes(planes[: self.spec.slices], self.spec)
        batch = {
            "hu": hu,
            "target": torch.from_numpy(target),
            "row": torch.tensor(rows),
        } | ({} if self.groups is None else self.groups.describe(rows))
        if "dicom" in self.spec.windows:
            batch["window"] = torch.from_numpy(self.arrays.window[rows])
        return batch if self.training is None else self.training.change(batch, items)

    def _paint(
        self, lesions: Lesions, seed: int, hu: NDArray[np.int16], target: NDArray[np.float32], item: Item
    ) -> None:
        """Paints into a slice and its neighbors, (P, S, S), and sets its targets, (L,)."""
        slabs, position = self._list_rows(item[1]), self.arrays.position
        negative = [(self.arrays.target[rows] == 0).all(axis=1).any() for rows in slabs]  # one row has labels
        names = lesions(
            hu,
            (seed, *item),
            mm=float(self.arrays.side[item[1]]) / self.spec.size,
            z=np.array([position[rows].mean() for rows in slabs]) if len(slabs) > 1 else np.zeros(1),
            healthy=all(negative),
        )
        for name in (*names, "any") if names else ():
            target[LABELS.index(name)] = 1

    def _read(self, out: NDArray[np.int16], row: int) -> None:
        """Reads a slice and its neighbors into ``out``, (P, S, S); each may be the mean of a slab."""
        for slot, rows in zip(out, self._list_rows(row), strict=True):
            if len(rows) == 1:
                self._read_slice(slot, rows[0])
                continue
            thin = np.empty((len(rows), *slot.shape), np.int16)
            for part, each in zip(thin, rows, strict=True):
                self._read_slice(part, each)
            slot[:] = average_hu(thin)

    def _read_slice(self, out: NDArray[np.int16], row: int) -> None:
        try:
            self.reader.read(row, out)
        except ReadError as error:
            error.row = row
            raise
        self.read += 1

    def _list_rows(self, row: int) -> list[list[int]]:
        """Rows of the slice's slab and of its neighbors, which are slabs of the same stack."""
        stack, slab = self.arrays.stack, self.arrays.slab
        first, end = (int(np.searchsorted(stack, stack[row], side)) for side in ("left", "right"))
        numbers = slab[first:end]
        kept = range(int(numbers[0]), int(numbers.max()) + 1)
        if len(kept) == len(numbers):
            return [[each] for each in find_neighbors(range(first, end), row, self.spec.neighbors)]
        found = find_neighbors(kept, int(slab[row]), self.spec.neighbors)
        return [(first + np.flatnonzero(numbers == number)).tolist() for number in found]
