"""Hounsfield units that are off: what ``input.brain_hu`` takes back, and what it leaves alone."""

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
from ich.image.scale import MOST_SHIFT, find_brain_hu, shift_brain
from ich.index import build_index
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, load_slice_net
from ich.predict import Predictor
from ich.schema import InputSpec, UserError

SPEC = InputSpec(size=48, neighbors=1, brain_hu=35)


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
    error = np.abs(shift_brain(off, 35).astype(float) - shift_brain(head, 35))[tissue].mean()
    assert error <= (1 if slope == 1 else 4)  # a shift cannot take back a slope in all tissues


def test_an_aligned_brain_has_its_usual_value(head: np.ndarray) -> None:
    assert find_brain_hu(shift_brain(head, 30)) == pytest.approx(30, abs=0.5)
    assert find_brain_hu(head) == pytest.approx(35, abs=10)


@pytest.mark.parametrize("value", [-1024, 35 - MOST_SHIFT - 40, 400, 32767, -32768])
def test_a_slice_without_brain_is_left_as_it_is(value: int) -> None:
    planes = np.full((3, 32, 32), value, np.int16)
    assert (shift_brain(planes, 35) == planes).all()


def test_extreme_values_do_not_turn_around() -> None:
    planes = np.full((1, 32, 32), 15, np.int16)
    planes[0, 0] = 32767
    planes[0, 1] = -32768
    aligned = shift_brain(planes, 35)
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
    for spec in (SPEC, replace(SPEC, brain_hu=None)):
        torch.manual_seed(0)
        net = SliceClassifier("test_resnet", input=spec, pretrained=False).net
        write_bundle(net.metadata, net.state_dict(), model := tmp_path / f"{spec.brain_hu}.zip")
        assert load_slice_net(model).input == spec
        predictor = Predictor.load(model, gpus=0)
        results = [next(predictor.predict(tmp_path / name)) for name in ("0", "15")]
        probs = [[list(each.probs.values()) for each in result.slices] for result in results]
        moved[spec.brain_hu] = np.abs(np.subtract(*probs)).mean()
    assert moved[35] < 0.05 * moved[None]


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match=r"input\.brain_hu=35 shifts HU: no window may be dicom"):
        InputSpec(windows=("dicom",), brain_hu=35)
    with pytest.raises(UserError, match=r"input\.brain_hu=1000: expected null or 20 to 45 HU, usually 35"):
        InputSpec(brain_hu=1000)
