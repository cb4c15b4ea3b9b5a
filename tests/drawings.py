"""Phantoms that several tests look at, each drawn once for all workers of a run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pydicom
import pytest

from ich.index import build_index, read_labels
from ich.phantom import write_phantom


def draw_once(
    factory: pytest.TempPathFactory, *, patients: int, seed: int, size: int = 64, conformant: bool = False
) -> Path:
    """Returns a phantom of small slices that no test may change.

    Args:
        factory: Of the run's folders.
        patients: Number of patients.
        seed: Of the phantom.
        size: Rows and columns.
        conformant: Write complete headers.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of a worker lies in that of the run
    root = folder / f"phantom_{patients}_{seed}_{size}_{'conformant' if conformant else 'sparse'}"
    with root.with_suffix(".lock").open("w") as lock:  # so that the others wait instead of drawing it again
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_phantom(root, patients=patients, seed=seed, size=size, conformant=conformant)
    return root


def copy_study(phantom: Path, out: Path) -> Path:
    """Copies the slices of one study of a conformant phantom, named in their order from below."""
    headers = [pydicom.dcmread(path) for path in (phantom / "stage_2_train").iterdir()]
    study = min(str(ds.StudyInstanceUID) for ds in headers)
    slices = [ds for ds in headers if ds.StudyInstanceUID == study]
    out.mkdir()
    for number, ds in enumerate(sorted(slices, key=lambda ds: ds.ImagePositionPatient[2])):
        ds.save_as(out / f"{number:03d}.dcm")
    return out


def label_studies(root: Path, path: Path) -> Path:
    """Writes the labels of the studies of a phantom: the maximum over their slices."""
    slices = build_index(root).table.set_index("SOPInstanceUID")[["StudyInstanceUID"]]
    labeled = slices.join(read_labels(root / "stage_2_train.csv"))
    labeled.groupby("StudyInstanceUID").max().astype(int).to_csv(path)
    return path
