"""The brain by thresholds and morphology: what is found, and how a network is shown it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.dicom import read_hu
from ich.explain.heatmaps import explain_slices
from ich.image import prepare_series
from ich.image.brain import Box, crop_planes, find_box, find_brain, restore_box, show_brain
from ich.index import build_index
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, load_slice_net
from ich.networks import Output
from ich.networks.views import augmented
from ich.phantom import draw_patient
from ich.phantom.study import Study
from ich.schema import AIR_HU, BRAINS, InputSpec, UserError

SIZE = 160


@pytest.fixture(scope="module")
def studies() -> list[Study]:
    return [draw_patient(17, patient, SIZE)[0] for patient in range(3)]


def find_vault(hu: np.ndarray) -> np.ndarray | None:
    """What a closed ring of bone encloses, with the bone; None where there is no such ring."""
    bone = ndimage.binary_dilation(hu > 300)
    filled = ndimage.binary_fill_holes(bone)
    return filled if (filled & ~bone).sum() > 0.1 * hu.size else None


def test_the_brain_is_what_the_skull_encloses(studies: list[Study]) -> None:
    rings = [(hu, vault) for study in studies for hu in study.hu if (vault := find_vault(hu)) is not None]
    assert len(rings) > 20
    found = [(hu, vault, mask) for hu, vault in rings if (mask := find_brain(hu).astype(bool)).any()]
    assert len(found) > 0.8 * len(rings)  # a ring may also be a vertebra, or a face
    for hu, vault, mask in found:
        inside = vault & (hu > 0) & (hu < 100)
        assert (inside & ~mask).sum() < 0.1 * inside.sum()
        assert (mask & ~vault).sum() < 0.02 * mask.sum()


def test_no_hemorrhage_is_cut_off(studies: list[Study]) -> None:
    shares = [
        find_brain(hu)[mask > 0].mean()
        for study in studies
        for hu, mask in zip(study.hu, study.mask, strict=True)
        if mask.any() and find_brain(hu).any()
    ]
    assert len(shares) > 10
    assert min(shares) > 0.95


@pytest.mark.parametrize("how", BRAINS)
def test_a_slice_without_a_brain_is_left_whole(how: str) -> None:
    planes = np.random.default_rng(0).integers(-1000, 200, (1, 64, 64)).astype(np.int16)
    assert (show_brain(planes, how) == planes[0]).all()


def test_ways_to_show_the_brain(studies: list[Study]) -> None:
    hu = studies[0].hu
    middle = int(np.argmax([find_brain(each).sum() for each in hu]))
    planes = hu[middle - 1 : middle + 2]
    mask = find_brain(planes[1])
    blanked = np.where(mask, planes[1], AIR_HU)
    assert (show_brain(planes, None) == planes).all()
    assert (show_brain(planes, "channel") == np.stack([*planes, blanked])).all()
    assert (show_brain(planes, "blank")[1] == blanked).all()
    box = find_box(mask)
    assert mask.sum() == mask[box.top : box.top + box.side, box.left : box.left + box.side].sum()
    assert box.side < SIZE
    assert (show_brain(planes, "crop") == crop_planes(planes, box)).all()


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(40, 80), slice(50, 70), Box(20, 20, 80)),  # not enlarged more than twice
        (slice(0, 100), slice(0, 90), Box(0, 0, 120)),
        (slice(0, 160), slice(0, 160), Box(0, 0, 160)),
        (slice(0, 0), slice(0, 0), Box(0, 0, 160)),
    ],
)
def test_a_box_lies_within_the_slice(rows: slice, columns: slice, box: Box) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[rows, columns] = 1
    assert find_box(mask) == box


def test_what_was_computed_from_a_box_returns_to_its_place() -> None:
    image = np.zeros((SIZE, SIZE), np.float32)
    image[100:108, 60:68] = 1
    restored = restore_box(image, Box(30, 50, 80))
    assert ndimage.center_of_mass(restored) == pytest.approx((30 + 103.5 / 2, 50 + 63.5 / 2), abs=0.5)
    assert not restored[:30].any()
    assert not restored[:, 130:].any()


@pytest.mark.parametrize("brain", BRAINS)
def test_training_and_prediction_see_the_same(brain: str, phantom: Path) -> None:
    table = build_index(phantom).table
    stack = table.groupby("SeriesInstanceUID", sort=False).get_group(table["SeriesInstanceUID"].iloc[0])
    stack = stack.reset_index(drop=True)
    spec = InputSpec(size=48, neighbors=1, brain=brain)
    arrays = to_arrays(stack)
    dataset = SliceDataset(SliceReader(phantom, arrays), arrays, spec)
    read = dataset.__getitems__([(0, row, 0) for row in range(len(stack))])["hu"].numpy()
    prepared = prepare_series([read_hu(phantom / path) for path in stack["path"]], spec)
    assert (read == prepared).all()
    assert read.shape == (len(stack), spec.depth, 48, 48)


def test_a_heat_map_lies_where_the_network_looked(phantom: Path) -> None:
    table = build_index(phantom).table
    spec = InputSpec(size=64, brain="crop")
    torch.manual_seed(0)
    net = SliceClassifier("test_resnet", input=spec, pretrained=False).net.eval()
    slices = prepare_series([read_hu(phantom / path) for path in table["path"]], InputSpec(size=64))[:, 0]
    boxes = [find_box(find_brain(hu)) for hu in slices]
    row = int(np.argmin([box.side for box in boxes]))
    box = boxes[row]
    assert box.side < 64
    (found,) = explain_slices(net, phantom, table, [row], ["any"])
    heat = found.heat["any"]
    assert heat.shape == (64, 64)
    assert heat.max() > 0
    heat[box.top : box.top + box.side, box.left : box.left + box.side] = 0
    assert heat.max() == 0


def test_the_way_travels_in_the_model_file(tmp_path: Path) -> None:
    spec = InputSpec(size=64, brain="channel")
    net = SliceClassifier("test_resnet", input=spec, pretrained=False).net
    assert spec.in_chans == 6
    write_bundle(net.metadata, net.state_dict(), tmp_path / "model.zip")
    assert load_slice_net(tmp_path / "model.zip").input == spec
    with pytest.raises(UserError, match=r"input\.brain=cut: expected null or one of crop, channel, blank"):
        InputSpec(brain="cut")


def test_reversed_neighbors_leave_the_brain_in_its_place() -> None:
    seen = []

    class Recorder:
        metadata, name, sha256, limit = None, "", "", None
        input = InputSpec(size=64, neighbors=1, brain="channel")

        def run(self, hu: np.ndarray, window: object = None, positions: object = None) -> Output:
            seen.append(hu[0, :, 0, 0].tolist())
            return Output(np.zeros((len(hu), 6), np.float32), None)

    planes = np.broadcast_to(np.arange(4, dtype=np.int16)[None, :, None, None], (1, 4, 64, 64))
    augmented(Recorder(), ["reverse"]).run(planes)
    assert seen == [[0, 1, 2, 3], [2, 1, 0, 3]]
