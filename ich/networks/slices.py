"""Slices to compare networks on: those of files, or of the phantom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.image import prepare_series
from ich.index import index_paths
from ich.networks import BATCH
from ich.phantom import draw_patient
from ich.schema import WINDOWS, InputSpec

MAX_SLICES = 500
"""Maximum number of slices of files; of more, as many at even steps."""

_PATIENTS = 4  # of the phantom: more than sixty slices

Slices = tuple[NDArray[np.int16], NDArray[np.float32] | None]
"""(N, D, S, S) HU and, if the input has the header's window, (N, 2) centers and widths."""


def find_slices(paths: Sequence[Path], spec: InputSpec) -> Iterator[Slices]:
    """Yields batches of slices to compare networks on.

    Args:
        paths: DICOM files and folders; without any, slices of the phantom are drawn.
        spec: Input of the networks.
    """
    return _read_slices(paths, spec) if paths else _draw_slices(spec)


def _draw_slices(spec: InputSpec) -> Iterator[Slices]:
    """Yields the studies of a few patients of the phantom."""
    size = min(max(spec.size, 64), 1024)
    for patient in range(_PATIENTS):
        for study in draw_patient(0, patient, size):
            window = np.tile(np.array(WINDOWS["brain"], np.float32), (len(study.hu), 1))
            yield prepare_series(study.hu, spec), window if "dicom" in spec.windows else None


def _read_slices(paths: Sequence[Path], spec: InputSpec) -> Iterator[Slices]:
    """Returns batches of the slices of files, without unreadable ones."""
    root, (table, _) = index_paths(paths)
    rows = np.arange(len(table))
    if "dicom" in spec.windows:
        rows = rows[(table["WindowCenter"].notna() & (table["WindowWidth"] > 0)).to_numpy()]
    if len(rows) > MAX_SLICES:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_SLICES).astype(int)]
    arrays = to_arrays(table)
    dataset = SliceDataset(SliceReader(root, arrays), arrays, spec)
    items = [(0, int(row), 0) for row in rows]
    batches = (dataset.__getitems__(items[start : start + BATCH]) for start in range(0, len(items), BATCH))
    return ((b["hu"].numpy(), b["window"].numpy() if "window" in b else None) for b in batches if "hu" in b)
