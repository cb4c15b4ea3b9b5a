"""Heat maps and probabilities of slices in LPS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.dicom import read_hu
from ich.explain import explain_finely
from ich.explain.grids import Grid, find_grid
from ich.explain.inside import end_inside, find_inside
from ich.image.brain import Box, find_shown, restore_box, show_brain
from ich.image.resize import restore_size
from ich.image.window import window_batch
from ich.models import SliceNet
from ich.schema import ReadError
from ich.tables import SLAB_COLUMN
from ich.tables.slabs import number_slabs

_BATCH = 16  # slices that the network sees at a time


class Heat(NamedTuple):
    """The heat maps of a slice.

    Attributes:
        row: The slice's row in its table.
        probs: (L,) float32, one for each label of the network.
        heat: (Rows, Columns) float32 in LPS by label, from ``explain_finely``. It is 0 where evidence
            cannot lie, as ``ich.explain.inside`` says, and 1 at its peak.
        strays: By label, whether most of the evidence lay where it cannot, so that the map says little.
    """

    row: int
    probs: NDArray[np.float32]
    heat: dict[str, NDArray[np.float32]]
    strays: dict[str, bool]


def find_first_grid(net: SliceNet, root: Path, table: pd.DataFrame) -> Grid | None:
    """Finds the grid on the table's first slices, so that it is the same in a later call.

    Raises:
        UserError: If the network cannot be explained; this is found before the slices are listed.
    """
    batches = _read_batches(net, root, table, range(len(table)))
    return next((find_grid(net, batch.x) for batch in batches if batch.x is not None), None)


def score_slices(
    net: SliceNet, root: Path, table: pd.DataFrame, rows: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float32]] | ReadError]:
    """Yields the row and the probabilities of slices, or why one cannot be read; see ``explain_slices``."""
    for x, read, _, unread in _read_batches(net, root, table, rows):
        yield from unread
        if x is not None:
            yield from zip(read, _compute_probs(net, x), strict=True)


def explain_slices(
    net: SliceNet,
    root: Path,
    table: pd.DataFrame,
    rows: Sequence[int],
    labels: Sequence[str],
    grid: Grid | None = None,
) -> Iterator[Heat | ReadError]:
    """Yields the maps of slices, or why one cannot be read.

    Args:
        net: In evaluation mode; it is moved to a GPU if there is one.
        root: Folder of the DICOM files.
        table: Their index, with the slices' neighbors in it. With ``SLAB_COLUMN`` it says which slices are
            averaged; without it, those that are much thinner than the model's.
        rows: Rows of the table.
        labels: Some of the network's labels.
        grid: The network's grid; found on the first slices if None.

    Raises:
        UserError: If the network cannot be explained.
    """
    sizes, names = table[["Rows", "Columns"]].to_numpy(), net.metadata.labels.names
    for x, read, boxes, unread in _read_batches(net, root, table, rows):
        yield from unread
        if x is None:
            continue
        grid = grid or find_grid(net, x)
        probs = _compute_probs(net, x)
        maps = {
            label: explain_finely(net, x, label, names=names, grid=grid).cpu().numpy() for label in labels
        }
        for number, (row, box) in enumerate(zip(read, boxes, strict=True)):
            try:
                hu = read_hu(root / table["path"].iloc[row], table["frame"].iloc[row])
            except ReadError as error:  # its file has changed since the network saw it
                yield error
                continue
            heat, strays = {}, {}
            for label, each in maps.items():
                whole = restore_size(restore_box(each[number], box), *sizes[row].tolist())
                heat[label], strays[label] = end_inside(whole, find_inside(hu, label))
            yield Heat(row, probs[number], heat, strays)


class _Batch(NamedTuple):
    """Slices in the form that the network needs."""

    x: Tensor | None  # (N, C, S, S); None where none can be read
    rows: list[int]  # (N,) of the table
    boxes: list[Box]  # (N,) the part of each slice that the network sees
    unread: list[ReadError]


def _read_batches(net: SliceNet, root: Path, table: pd.DataFrame, rows: Sequence[int]) -> Iterator[_Batch]:
    """Yields slices with their neighbors, windowed, on the network's device.

    Thin slices are averaged as ``SLAB_COLUMN`` of the table says, or else as in prediction.
    """
    if SLAB_COLUMN not in table:
        table = table.assign(**{SLAB_COLUMN: number_slabs(table, net.metadata.thickness)})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(device)
    arrays = to_arrays(table)
    dataset = SliceDataset(SliceReader(root, arrays), arrays, replace(net.input, brain=None))
    for start in range(0, len(rows), _BATCH):
        items = [(0, row, 0) for row in rows[start : start + _BATCH]]
        batch: dict[str, Any] = dataset.__getitems__(items)
        unread = [error for _, error in batch["unread"]]
        if "hu" not in batch:
            yield _Batch(None, [], [], unread)
            continue
        header = batch["window"].to(device) if "window" in batch else None
        planes = batch["hu"].numpy()
        hu = np.stack([show_brain(each, net.input.brain) for each in planes])
        boxes = [find_shown(each, net.input.brain) for each in planes]
        x = window_batch(net.window, torch.from_numpy(hu).to(device), header)
        yield _Batch(x, batch["row"].tolist(), boxes, unread)


def _compute_probs(net: SliceNet, x: Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        probs: NDArray[np.float32] = net.to_probs(net(x)).cpu().numpy()
    return probs
