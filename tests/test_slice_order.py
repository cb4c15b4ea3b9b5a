"""Training, prediction and explanation see the slices of a series in one order, with the same neighbors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from numpy.typing import NDArray
from squares import FindsSquares

from ich.data import HeadCTDataModule
from ich.image import find_neighbors, sort_slices
from ich.index import build_index, index_paths
from ich.networks import Output
from ich.predict import Predictor
from ich.schema import InputSpec

SPEC = InputSpec(size=64, neighbors=2, learnable=True)  # HU stay HU in the batches of training


class KeepsSlices(FindsSquares):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.input = SPEC

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        self.seen = hu.copy()
        return super().run(hu, window)


def tie(number: int, ds: pydicom.Dataset) -> None:
    """Five slices at one position, four of them with one number and one without."""
    if 5 <= number < 10:
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], 7.0]
        ds.InstanceNumber = None if number == 7 else 3


def lose_positions(number: int, ds: pydicom.Dataset) -> None:
    """No slice has a position, the two lowest have no number, and others share one."""
    del ds.ImagePositionPatient
    ds.InstanceNumber = None if number < 2 else 8 if number in (8, 9) else number


def lose_some_positions(number: int, ds: pydicom.Dataset) -> None:
    """Some images have no position, so they are none of the slices."""
    if number % 8 == 2:
        del ds.ImagePositionPatient


@pytest.fixture(params=[tie, lose_positions, lose_some_positions])
def series(study: Path, request: pytest.FixtureRequest) -> Path:
    """A series that positions and numbers do not order; its files are named in no order."""
    names = np.random.default_rng(0).permutation(1000)
    change: Callable[[int, pydicom.Dataset], None] = request.param
    for number, path in enumerate(sorted(study.iterdir())):
        ds = pydicom.dcmread(path)
        change(number, ds)
        ds.save_as(study / f"{names[number]:04}.dcm")
        path.unlink()
    return study


def read_training(root: Path, labels: Path) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Yields the name of each slice and what training sees of it, (D, S, S) HU."""
    uids = build_index(root).table["SOPInstanceUID"]
    pd.DataFrame({"SOPInstanceUID": uids, "any": 0}).to_csv(labels, index=False)
    data = HeadCTDataModule(str(root), SPEC, labels=str(labels), split="slice", num_workers=0)
    data.prepare_data()
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            yield from zip(data.table["SOPInstanceUID"].iloc[batch["row"]], batch["hu"].numpy(), strict=True)


def test_training_and_prediction_see_the_same_neighbors(series: Path, tmp_path: Path) -> None:
    network = KeepsSlices()
    (result,) = Predictor([network]).predict(series)
    assert len(result.slices) == len(network.seen) >= 20
    assert not any(each.left_out for each in result.slices)
    order = [each.SOPInstanceUID for each in result.slices]
    training = dict(read_training(series, tmp_path / "labels.csv"))
    for uid, hu in zip(order, network.seen, strict=True):
        np.testing.assert_array_equal(training[uid], hu)
    _, (table, _) = index_paths([series])  # explanation, and export on files
    assert [uid for uid in table["SOPInstanceUID"] if uid in set(order)] == order


def test_order_does_not_depend_on_files_or_rows() -> None:
    nan = np.nan
    rows = [  # in order
        ("a", nan, nan, 0),
        ("b", nan, nan, 0),
        ("a", nan, 2, 0),
        ("e", -5.0, nan, 0),
        ("d", -5.0, 1, 0),
        ("a", -5.0, 3, 0),
        ("b#2", -5.0, 3, 2),
        ("b#10", -5.0, 3, 10),
        ("c", -5.0, 3, 0),
        ("a", 0.0, 1, 0),
    ]
    table = pd.DataFrame(rows, columns=["SOPInstanceUID", "position", "InstanceNumber", "frame"])
    for seed in range(5):
        shuffled = table.sample(frac=1, random_state=seed)
        shuffled["path"] = [f"{number}.dcm" for number in range(len(table))]
        pd.testing.assert_frame_equal(sort_slices(shuffled).drop(columns="path"), table)


def test_neighbors_end_where_the_stack_ends() -> None:
    assert find_neighbors(range(10, 13), 10, 2) == [10, 10, 10, 11, 12]
    assert find_neighbors(range(10, 13), 12, 1) == [11, 12, 12]
    assert find_neighbors(range(10, 11), 10, 1) == [10, 10, 10]
    assert find_neighbors([0, 3, 4], 1, 2) == [0, 0, 1, 3, 4]  # one that is itself no neighbor
