"""Hounsfield units that are off: what ``input.align_hu`` takes back, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.dicom import read_hu
from ich.image import prepare_series
from ich.image.scale import MOST_SHIFT, align_hu, find_shift
from ich.index import build_index
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, load_slice_net
from ich.predict import Predictor
from ich.schema import InputSpec, UserError

SPEC = InputSpec(size=48, neighbors=1, align_hu=True)


@pytest.fixture(scope="module")
def head(phantom: Path) -> np.ndarray:
    """(N, S, S) HU of a study of the phantom, whose gray and white matter have known values."""
    table = build_index(phantom).table
    first = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    return np.stack([read_hu(phantom / path) for path in first["path"]])


@pytest.mark.parametrize(("slope", "offset"), [(1, -20), (1, 20), (0.9, -20), (1.1, 20), (1.1, 0)])
def test_scales_that_are_off_are_taken_back(head: np.ndarray, slope: float, offset: float) -> None:
    off = np.rint(head * slope + offset).astype(np.int16)
    tissue = (head > 0) & (head < 80)
    error = np.abs(align_hu(off).astype(float) - align_hu(head))[tissue].mean()
    assert error <= (1 if slope == 1 else 4)  # a shift cannot take back a slope in all tissues


def test_an_aligned_brain_has_its_usual_value(head: np.ndarray) -> None:
    assert find_shift(align_hu(head)) == 0
    assert abs(find_shift(head)) <= 10


@pytest.mark.parametrize("value", [-1024, 35 - MOST_SHIFT - 40, 400, 32767, -32768])
def test_a_slice_without_brain_is_left_as_it_is(value: int) -> None:
    planes = np.full((3, 32, 32), value, np.int16)
    assert (align_hu(planes) == planes).all()


def test_extreme_values_do_not_turn_around() -> None:
    planes = np.full((1, 32, 32), 15, np.int16)
    planes[0, 0] = 32767
    planes[0, 1] = -32768
    aligned = align_hu(planes)
    assert aligned[0, 5, 5] == 35
    assert aligned[0, 0].min() > 30000
    assert aligned[0, 1].max() < -30000


def test_training_and_prediction_see_the_same(phantom: Path) -> None:
    table = build_index(phantom).table
    stack = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]].reset_index(drop=True)
    arrays = to_arrays(stack)
    dataset = SliceDataset(SliceReader(phantom, arrays), arrays, SPEC)
    read = dataset.__getitems__([(0, row, 0) for row in range(len(stack))])["hu"].numpy()
    slices = [read_hu(phantom / path) for path in stack["path"]]
    assert (read == prepare_series(slices, SPEC)).all()
    assert (read != prepare_series(slices, InputSpec(size=48, neighbors=1))).any()


def test_a_study_whose_hu_are_off_gets_nearly_the_same_probabilities(phantom: Path, tmp_path: Path) -> None:
    table = build_index(phantom).table
    study = table[table["StudyInstanceUID"] == table["StudyInstanceUID"].iloc[0]]
    for offset in (0, 15):
        for path in study["path"]:
            written = pydicom.dcmread(phantom / path)
            written.RescaleIntercept = float(written.RescaleIntercept) + offset
            target = tmp_path / str(offset) / Path(path).name
            target.parent.mkdir(exist_ok=True)
            written.save_as(target)
    moved = {}
    for spec in (SPEC, replace(SPEC, align_hu=False)):
        torch.manual_seed(0)
        net = SliceClassifier("test_resnet", input=spec, pretrained=False).net
        write_bundle(net.metadata, net.state_dict(), model := tmp_path / f"{spec.align_hu}.zip")
        assert load_slice_net(model).input == spec
        predictor = Predictor.load(model, gpus=0)
        results = [next(predictor.predict(tmp_path / name)) for name in ("0", "15")]
        probs = [[list(each.probs.values()) for each in result.slices] for result in results]
        moved[spec.align_hu] = np.abs(np.subtract(*probs)).mean()
    assert moved[True] < 0.05 * moved[False]


def test_the_window_of_the_header_would_not_fit() -> None:
    with pytest.raises(
        UserError, match=r"input\.align_hu=true shifts HU, so it needs windows other than dicom"
    ):
        InputSpec(windows=("dicom",), align_hu=True)
