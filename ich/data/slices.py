"""One slice with its neighbours: read, resized, augmented, still HU; and slices to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from ich.augment import Augment
from ich.dicom import read_hu
from ich.schema import AIR_HU, LABELS, InputSpec, ReadError


class Unread(NamedTuple):
    """A slice that could not be read, on its way from a worker to the data module."""

    row: int
    error: ReadError


class SliceArrays(NamedTuple):
    """What reading needs of the table, as arrays: a forked worker shares their memory."""

    path: NDArray[np.bytes_]  # (rows,) relative to the root
    series: NDArray[np.int32]  # (rows,) a number a series; its slices lie side by side
    target: NDArray[np.float32]  # (rows, 6), NaN where unknown
    window: NDArray[np.float32]  # (rows, 2) center and width of the header, HU


class SliceDataset(Dataset[dict[str, Any] | Unread]):
    """Reads slices with their neighbours as HU, resized and, in training, augmented.

    An item is asked for as ``(epoch, row, repeat)``, so that augmentation is a function of these and the
    seed, whatever the number of workers.

    Args:
        root: Folder of the data set.
        arrays: The table's columns.
        spec: Size and neighbours of the input.
        augment: Applied to HU, or None.
        seed: Of the augmentation.
    """

    def __init__(
        self, root: Path, arrays: SliceArrays, spec: InputSpec, augment: Augment | None, seed: int
    ) -> None:
        self.root = root
        self.arrays = arrays
        self.spec = spec
        self.augment = augment
        self.seed = seed

    def __getitem__(self, item: tuple[int, int, int]) -> dict[str, Any] | Unread:
        epoch, row, repeat = item
        try:
            hu = np.stack([self._read(r) for r in self._neighbourhood(row)])  # (D, S, S) int16
        except ReadError as error:
            return Unread(row, error)
        if self.augment is not None:
            hu = self.augment(hu, (self.seed, epoch, row, repeat))
        sample = {"hu": hu, "target": self.arrays.target[row], "row": row}
        if "dicom" in self.spec.windows:
            sample["window"] = self.arrays.window[row]
        return sample

    def _neighbourhood(self, row: int) -> list[int]:
        """Rows of the slice and its neighbours; at the end of a series its last slice repeats."""
        series = self.arrays.series
        rows = [row]
        for _ in range(self.spec.neighbours):
            first, last = rows[0], rows[-1]
            before = first - 1 if first > 0 and series[first - 1] == series[row] else first
            after = last + 1 if last + 1 < len(series) and series[last + 1] == series[row] else last
            rows = [before, *rows, after]
        return rows

    def _read(self, row: int) -> NDArray[np.int16]:
        return resize_hu(read_hu(self.root / self.arrays.path[row].decode()), self.spec.size)


def resize_hu(hu: NDArray[np.int16], size: int) -> NDArray[np.int16]:
    """Resizes a slice to (size, size), padding the shorter side with air so that shapes are kept.

    Args:
        hu: (Rows, Columns) HU.
        size: In pixels.

    Returns:
        (size, size) HU.
    """
    rows, columns = hu.shape
    if rows != columns:
        side = max(rows, columns)
        top, left = (side - rows) // 2, (side - columns) // 2
        square = np.full((side, side), AIR_HU, dtype=np.int16)
        square[top : top + rows, left : left + columns] = hu
        hu = square
    if hu.shape[0] == size:
        return hu
    shrinks = size < hu.shape[0]
    return np.asarray(
        cv2.resize(hu, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR),
        dtype=np.int16,
    )


def collate(samples: Sequence[dict[str, Any] | Unread]) -> dict[str, Any]:
    """Stacks the slices that were read; those that were not stand under ``unread``."""
    read = [sample for sample in samples if not isinstance(sample, Unread)]
    batch: dict[str, Any] = default_collate(read) if read else {}
    batch["unread"] = [sample for sample in samples if isinstance(sample, Unread)]
    return batch


def to_arrays(table: pd.DataFrame) -> SliceArrays:
    """Takes from the index with the label columns what reading needs."""
    series = table["StudyInstanceUID"] + "/" + table["SeriesInstanceUID"]
    return SliceArrays(
        path=np.char.encode(table["path"].to_numpy(dtype=str), "utf-8"),
        series=pd.factorize(series)[0].astype(np.int32),
        target=table[list(LABELS)].to_numpy(dtype=np.float32),
        window=table[["WindowCenter", "WindowWidth"]].to_numpy(dtype=np.float32),
    )
