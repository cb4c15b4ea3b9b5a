"""Phantoms that several tests look at, each drawn once for all workers of a run."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ich.phantom import write_phantom


def draw_once(factory: pytest.TempPathFactory, *, patients: int, seed: int, conformant: bool = False) -> Path:
    """Returns a phantom of small slices that no test may change.

    Args:
        factory: Of the run's folders.
        patients: Number of patients.
        seed: Of the phantom.
        conformant: Write complete headers.
    """
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of a worker lies in that of the run
    root = folder / f"phantom_{patients}_{seed}_{'conformant' if conformant else 'sparse'}"
    with root.with_suffix(".lock").open("w") as lock:  # so that the others wait instead of drawing it again
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_phantom(root, patients=patients, seed=seed, size=64, conformant=conformant)
    return root
