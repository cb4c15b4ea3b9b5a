"""A drawn head, and slices as training reads them, for the tests of lesions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ich.data import HeadCTDataModule
from ich.image.lesions import Lesions
from ich.image.lesions.bank import BankMetadata, LesionBank, Novelty
from ich.image.lesions.patches import SIZE
from ich.schema import InputSpec

SMALL = InputSpec(size=64, neighbors=1)

MM = 1.8
y, x = (np.indices((128, 128)) - 63.5) * MM
BRAIN = np.hypot(x / 66, y / 82) < 1


def draw_slice() -> np.ndarray:
    """A head: brain of 132 by 164 mm in a ring of bone, with sulci, two ventricles and noise of 3 HU."""
    hu = np.full((128, 128), -1000.0)
    hu[np.hypot(x / 82, y / 98) < 1] = 30  # scalp
    hu[np.hypot(x / 75, y / 91) < 1] = 900  # skull
    hu[BRAIN] = 34
    around = (np.arctan2(y, x) * 16) % np.pi < 0.5
    hu[around & BRAIN & (np.hypot(x / 54, y / 70) > 1)] = 8  # sulci
    hu[(np.abs(np.abs(x) - 10) < 6) & (np.abs(y) < 30)] = 8  # ventricles
    return np.rint(hu + np.random.default_rng(0).normal(0, 3, hu.shape)).astype(np.int16)


def make_bank() -> LesionBank:
    """A lens of 12 mm at the table, one for each subtype of a file, at the side of the head."""
    rows, columns = np.indices((SIZE, SIZE)).astype(np.float32) - (SIZE - 1) / 2
    share = (rows + SIZE / 2 < 5 - np.square(columns / 4)).astype(np.float32)
    images = np.stack([share, 0.75 * share])[None].repeat(6, axis=0)
    metadata = BankMetadata("ich lesions 1", "", "CC-BY-4.0", 3, 9, {"epidural": Novelty(8, 2, 0.2, 0.3)})
    return LesionBank(metadata, {"epidural": images}, {"epidural": np.full(6, 1.5, np.float32)})


def make(root: Path, lesions: Lesions | None, spec: InputSpec = SMALL) -> HeadCTDataModule:
    """A data module after ``setup``."""
    datamodule = HeadCTDataModule(str(root), spec, lesions=lesions, num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def read(datamodule: HeadCTDataModule, rows: np.ndarray, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HU and targets of these rows, as the training reads them in an epoch."""
    dataset = datamodule.train_dataloader().dataset
    batch = dataset.__getitems__([(epoch, int(row), 0) for row in rows])
    return batch["hu"].numpy().copy(), batch["target"].numpy().copy()
