"""Reads the slices of a series: HU, in order of position, in all needed sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.files import find_on_disk
from ich.image import average_slabs, sort_slices
from ich.image.resize import resize_hu
from ich.schema import ReadError
from ich.schema.codes import Note, Refusal
from ich.schema.results import Remark
from ich.tables import STAMP
from ich.tables.slabs import find_middle, measure_step

Pixels = NDArray[np.int16]


@dataclass(frozen=True)
class Stack:
    """Slices of a series that could be read, in order.

    Attributes:
        hu: (N, S, S) HU by size S, padded to squares with air.
        window: (N, 2) center and width of the headers in HU; NaN where missing.
        slices: Their rows in the table of files.
        unread: Why the others could not be read.
    """

    hu: Mapping[int, Pixels]
    window: NDArray[np.float32]
    slices: pd.DataFrame
    unread: Sequence[ReadError]

    @property
    def positions(self) -> NDArray[np.float64]:
        """(N,) mm along the slice normal; NaN where unknown."""
        return self.slices["position"].to_numpy(np.float64)


def read_stack(root: Path, slices: pd.DataFrame, sizes: Collection[int], pool: Executor) -> Stack:
    """Reads the slices of a series.

    Args:
        root: Folder of the files.
        slices: Slices of the series, one row each: columns of the index.
        sizes: Sizes to resize them to.
        pool: Threads that read.
    """
    slices = sort_slices(slices)

    def read(path: str, size: int, changed: int, frame: int) -> tuple[Pixels, ...] | ReadError:
        try:
            hu = read_hu(root / path, frame)
            status = Path(find_on_disk(str(root / path))).stat()
        except ReadError as error:
            return error
        except OSError as error:
            return ReadError(Refusal.UNREADABLE, path, error.strerror or str(error))
        if (status.st_size, status.st_mtime_ns) != (size, changed):
            return ReadError(Refusal.UNREADABLE, path, "changed since its header was read")
        return tuple(resize_hu(hu, size) for size in sizes)

    found = list(pool.map(read, *(slices[name] for name in (*STAMP, "frame"))))
    unread = [each for each in found if isinstance(each, ReadError)]
    resized = [each for each in found if not isinstance(each, ReadError)]
    is_read = np.array([not isinstance(each, ReadError) for each in found], bool)
    kept = slices[is_read].reset_index(drop=True)
    return Stack(
        hu={size: stack_hu([each[number] for each in resized], size) for number, size in enumerate(sizes)},
        window=kept[["WindowCenter", "WindowWidth"]].to_numpy(np.float32),
        slices=kept,
        unread=unread,
    )


def average_stack(stack: Stack, slabs: Sequence[Sequence[int]]) -> Stack:
    """Averages the slices of each slab; the window and the row are those of its middle slice."""
    middles = [find_middle(slab) for slab in slabs]
    return replace(
        stack,
        hu={size: average_slabs(hu, slabs) for size, hu in stack.hu.items()},
        window=stack.window[middles],
        slices=stack.slices.iloc[middles].reset_index(drop=True),
    )


def describe_slabs(stack: Stack, slabs: Sequence[Sequence[int]]) -> list[Remark]:
    """Says that thin slices are averaged, if they are."""
    if len(slabs) == len(stack.slices):
        return []
    step = measure_step(stack.positions[[find_middle(slab) for slab in slabs]])
    detail = (
        f"{len(stack.slices)} slices, {measure_step(stack.positions):.3g} mm apart, give {len(slabs)} means, "
        f"{step:.3g} mm apart"
    )
    return [Remark(Note.THIN_SLICES, detail)]


def stack_hu(slices: Sequence[Pixels], size: int) -> Pixels:
    """Stacks N slices (S, S) to (N, S, S), also for N = 0."""
    return np.stack(slices) if slices else np.empty((0, size, size), np.int16)


def has_windows(window: NDArray[np.float32]) -> bool:
    """Whether every slice has a usable window: (N, 2) finite, with a width above 0."""
    return bool(np.isfinite(window).all() and (window[:, 1] > 0).all())
