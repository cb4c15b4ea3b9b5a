"""A study whose answer is known: a network that finds squares of blood, and what draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from ich.calibration import Decision, NotFitted, OperatingPoint
from ich.model_files.metadata import ModelArguments, ModelMetadata
from ich.networks import Output
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec
from ich.schema.results import StudyResult

BLOOD = 75  # HU


class FindsSquares:
    """Gives ``any`` 0.95 where a slice holds a square of ``BLOOD``, else 0.05."""

    def __init__(self) -> None:
        self.input = InputSpec(size=64)
        self.metadata = ModelMetadata(ModelArguments("squares", self.input, 0.0, 0.0, "sigmoid", True))
        self.sha256 = "c0ffee" + "0" * 58
        self.limit = 1.0
        self.name = "squares"

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        found = (hu[:, 0] == BLOOD).sum(axis=(1, 2)) > 20
        probs = np.full((len(hu), len(LABELS)), 0.05, np.float32)
        probs[found, -1] = 0.95
        return Output(probs, np.zeros(len(hu), np.float32))


def predict(folder: Path, pooling: str = "max") -> StudyResult:
    missing = dict.fromkeys(LABELS, NotFitted("too few cases"))
    points = missing | {"any": OperatingPoint(0.5, "sensitivity>=0.95", 1.0, 0.5)}
    decision = Decision(pooling, missing, points)
    (result,) = Predictor([FindsSquares()], decisions={"study": decision}).predict(folder)
    return result


def edit(folder: Path, number: int, change: Callable[[pydicom.Dataset], None]) -> None:
    path = folder / f"{number:03d}.dcm"
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


def set_pixels(ds: pydicom.Dataset, where: tuple[slice, slice], hu: int) -> None:
    pixels = ds.pixel_array.copy()
    pixels[where] = round((hu - float(ds.RescaleIntercept)) / float(ds.RescaleSlope))
    ds.PixelData = pixels.tobytes()


def bleed(folder: Path, *numbers: int) -> None:
    for number in numbers:
        edit(folder, number, lambda ds: set_pixels(ds, (slice(52, 68), slice(44, 60)), BLOOD))


def count(folder: Path) -> int:
    return len(list(folder.iterdir()))
