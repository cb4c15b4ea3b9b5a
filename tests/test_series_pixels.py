from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.index import build_index
from ich.phantom import draw_patient, write_phantom
from ich.schema import ReadError
from ich.schema.results import Reason
from ich.series import SetAside
from ich.series.pixels import check_pixels, find_head, look_at

Stack = NDArray[np.int16]
SIZE = 128


def shrink(hu: Stack, size: int = SIZE) -> Stack:
    return np.asarray(cv2.resize(hu, (size, size), interpolation=cv2.INTER_AREA), np.int16)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Stack, float]]:
    """Stacks and spacings of whole studies, read from their files."""
    root = tmp_path_factory.mktemp("heads")
    write_phantom(root, patients=6, seed=5, size=192)
    stacks = []
    for _, rows in build_index(root).table.groupby("StudyInstanceUID"):
        hu = np.stack([shrink(read_hu(root / path)) for path in rows.sort_values("position")["path"]])
        stacks.append((hu, float(rows["row_spacing"].iloc[0]) * 192 / SIZE))
    return stacks


def find_brain(stack: Stack, spacing: float) -> int:
    """Number of the slice that shows most brain."""
    return int(np.argmax([look.inside for look in look_at(stack, spacing).slices]))


def rescale(slope: float, intercept: float, stored_zero: float) -> Callable[[Stack], Stack]:
    """Another slope and intercept for stored values of which 0 was ``stored_zero`` HU."""
    return lambda hu: np.clip(np.rint((hu - stored_zero) * slope + intercept), -1024, 32767).astype(np.int16)


def swap(hu: Stack) -> Stack:
    return np.clip((hu.astype(np.int32) + 1024).astype(np.uint16).byteswap() - 1024.0, -1024, 32767).astype(
        np.int16
    )


def make_noise(mean: float, spread: float) -> Callable[[Stack], Stack]:
    return lambda hu: np.rint(np.random.default_rng(0).normal(mean, spread, hu.shape)).astype(np.int16)


DAMAGES = {
    "half the slope, unsigned": rescale(0.5, -1024, -1024),
    "half the slope, signed": rescale(0.5, 0, 0),
    "twice the slope, unsigned": rescale(2, -1024, -1024),
    "no intercept": rescale(1, 0, -1024),
    "intercept twice": rescale(1, -1024, 0),
    "61 HU up": rescale(1, 61, 0),
    "61 HU down": rescale(1, -61, 0),
    "negated": rescale(-1, 0, 0),
    "swapped bytes": swap,
    "constant": lambda hu: np.full_like(hu, 40),
    "nothing": lambda hu: np.full_like(hu, -1024),
    "air": make_noise(-1000, 8),
    "noise of tissue": make_noise(40, 10),
    "noise": make_noise(500, 800),
}


def test_heads_are_heads_and_plausible(heads: list[tuple[Stack, float]]) -> None:
    assert len(heads) >= 6
    for stack, spacing in heads:
        assert find_head(look_at(stack, spacing)) is None
        assert check_pixels(look_at(stack, spacing)) == []
        half = np.stack([shrink(hu, SIZE // 2) for hu in stack])
        assert find_head(look_at(half, 2 * spacing)) is None


@pytest.mark.parametrize("name", DAMAGES)
def test_hu_that_cannot_be_right_are_found_in_all_slices_and_in_one(
    heads: list[tuple[Stack, float]], name: str
) -> None:
    for stack, spacing in heads:
        (remark,) = check_pixels(look_at(DAMAGES[name](stack), spacing))
        assert remark.code == Reason.IMPLAUSIBLE_HU
        for number in (len(stack) // 4, len(stack) // 2, 3 * len(stack) // 4):
            one = stack.copy()
            one[number] = DAMAGES[name](stack[number])
            (remark,) = check_pixels(look_at(one, spacing))
            assert remark.code == Reason.IMPLAUSIBLE_HU
            assert f"of {len(stack)} slices" in remark.detail


@pytest.mark.parametrize("name", DAMAGES)
def test_neighbours_that_are_wrong_alike_do_not_hide_each_other(
    heads: list[tuple[Stack, float]], name: str
) -> None:
    for stack, spacing in heads:
        for run in (slice(4, 8), slice(len(stack) // 2, None)):
            several = stack.copy()
            several[run] = DAMAGES[name](stack[run])
            assert check_pixels(look_at(several, spacing)) != []


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("lost", [slice(55, 58), slice(50, 75), slice(64, None)])
@pytest.mark.parametrize("value", [-1024, 0])
def test_blocks_of_a_file_that_were_lost_are_found(
    heads: list[tuple[Stack, float]], length: int, lost: slice, value: int
) -> None:
    for stack, spacing in heads:
        holed = stack.copy()
        start = find_brain(stack, spacing)
        holed[start : start + length, lost] = value
        (remark,) = check_pixels(look_at(holed, spacing))
        assert "rows of equal pixels" in remark.detail


def test_pixels_that_stand_for_two_slices_are_found(heads: list[tuple[Stack, float]]) -> None:
    for stack, spacing in heads:
        copied = stack.copy()
        copied[6] = copied[4]
        (remark,) = check_pixels(look_at(copied, spacing))
        assert "its pixels are those of slice 5" in remark.detail


@pytest.mark.parametrize("wrong", [rescale(1, -25, 0), rescale(1.2, -1024, -1024)])
def test_a_run_of_slices_on_a_scale_that_is_a_little_off_is_found(
    heads: list[tuple[Stack, float]], wrong: Callable[[Stack], Stack]
) -> None:
    for stack, spacing in heads:
        several = stack.copy()
        start = find_brain(stack, spacing)
        run = slice(start, start + 4)
        several[run] = wrong(stack[run])
        assert check_pixels(look_at(several, spacing)) != []


def test_a_lesion_does_not_hide_a_head() -> None:
    for patient in range(4):
        (study, *_) = draw_patient(11, patient, SIZE)
        assert find_head(look_at(study.hu, study.spacing)) is None
        assert check_pixels(look_at(study.hu, study.spacing)) == []


def test_an_opened_skull_and_sutures_are_heads(heads: list[tuple[Stack, float]]) -> None:
    for stack, spacing in heads:
        opened = stack.copy()
        left = opened[:, 40:80, :64]
        left[left > 150] = 45  # a flap of bone is gone
        assert find_head(look_at(opened, spacing)) is None
        sutures = stack.copy()
        cut = sutures[:, :, 62:65]
        cut[cut > 150] = 45
        assert find_head(look_at(sutures, spacing)) is None


def draw_disc(values: dict[float, int], stretch: float = 1.0, size: int = SIZE) -> Stack:
    """Ellipses within each other, from radius in pixels to HU; 20 slices."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius, hu = np.hypot(x / stretch, y), np.full((size, size), -1000.0)
    for edge, value in values.items():
        hu[radius < edge] = value
    noise = np.random.default_rng(0).normal(0, 5, (20, size, size))
    return np.rint(hu + noise).astype(np.int16)


@pytest.mark.parametrize(
    ("stack", "spacing"),
    [
        (draw_disc({45: 0}), 2.0),  # water
        (draw_disc({45: 120, 42: 0}), 2.0),  # water in acrylic glass
        (draw_disc({45: 900, 42: 0}), 2.0),  # water in a skull
        (draw_disc({25: 50, 14: 1200, 9: -40}), 2.0),  # a leg
        (draw_disc({25: 50, 14: 1200, 9: 30}), 2.0),  # a leg with marrow like brain
        (draw_disc({45: -100, 40: 50, 30: -850}, 1.3), 3.5),  # a chest
        (draw_disc({45: -100, 40: 50, 12: 900, 9: 30}, 1.3), 3.5),  # a spine in an abdomen
        (draw_disc({45: 40, 42: 900, 39: 35}), 6.0),  # a skull of half a metre
        (draw_disc({45: 40, 42: 900, 39: 35}), 0.7),  # of a mouse
    ],
)
def test_what_is_no_head(stack: Stack, spacing: float) -> None:
    remark = find_head(look_at(stack, spacing))
    assert remark is not None
    assert remark.code == SetAside.NO_HEAD
    assert "of 20 slices" in remark.detail


def test_a_head_by_its_size() -> None:
    stack = draw_disc({45: 40, 42: 900, 39: 35})
    assert [find_head(look_at(stack, spacing)) is None for spacing in (1.0, 1.5, 2.0)] == [
        True
    ] * 3  # infant to adult


def test_a_head_among_many_slices_of_a_body_is_none(heads: list[tuple[Stack, float]]) -> None:
    stack, spacing = heads[0]
    body = np.tile(draw_disc({45: -100, 40: 50}, 1.3), (10, 1, 1))
    assert find_head(look_at(np.concatenate([stack, body]), spacing)) is not None


def test_nothing_that_pydicom_ships_is_a_head() -> None:
    seen = 0
    for path in sorted(Path(pydicom.__file__).parent.glob("data/test_files/**/*")):
        if path.name.startswith(("693_", "J2K_pixelrep_mismatch")):
            continue  # slices of heads
        try:
            hu = read_hu(path)
        except ReadError:
            continue
        seen += 1
        stack = np.repeat(shrink(hu)[None], 20, axis=0)
        for field in (200, 250, 500):  # mm
            assert find_head(look_at(stack, field / SIZE)) is not None, path.name
    assert seen > 3
