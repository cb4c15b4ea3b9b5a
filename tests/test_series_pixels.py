from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.index import build_index
from ich.phantom import draw_patient, write_phantom
from ich.schema import ReadError
from ich.schema.codes import Note, Reason, SetAside
from ich.schema.results import Remark
from ich.studies.series.pixels import measure_series
from ich.studies.series.plausible import Verdict, check_pixels, find_head

Stack = NDArray[np.int16]
SIZE = 128
HEADS = 3


def shrink(hu: Stack, size: int = SIZE) -> Stack:
    return np.asarray(cv2.resize(hu, (size, size), interpolation=cv2.INTER_AREA), np.int16)


class Head(NamedTuple):
    hu: Stack
    spacing: float  # mm
    positions: NDArray[np.float64]  # mm

    def judge(self, hu: Stack) -> Verdict:
        """What is said of other pixels in the place of these."""
        return check_pixels(measure_series(hu, self.spacing, self.positions))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Head]:
    """Whole studies, read from their files."""
    root = tmp_path_factory.mktemp("heads")
    write_phantom(root, patients=HEADS, seed=5, size=192)
    stacks = []
    for _, rows in build_index(root).table.groupby("StudyInstanceUID"):
        rows = rows.sort_values("position")
        hu = np.stack([shrink(read_hu(root / path)) for path in rows["path"]])
        positions = rows["position"].to_numpy(np.float64)
        stacks.append(Head(hu, float(rows["row_spacing"].iloc[0]) * 192 / SIZE, positions))
    return stacks


def find_brain(stack: Stack, spacing: float) -> int:
    """Number of the slice that shows most brain."""
    return int(np.argmax([each.inside for each in measure_series(stack, spacing).slices]))


def rescale(slope: float, intercept: float, stored_zero: float) -> Callable[[Stack], Stack]:
    """Another slope and intercept for stored values of which 0 was ``stored_zero`` HU."""
    return lambda hu: np.clip(np.rint((hu - stored_zero) * slope + intercept), -1024, 32767).astype(np.int16)


def swap(hu: Stack) -> Stack:
    return np.clip((hu.astype(np.int32) + 1024).astype(np.uint16).byteswap() - 1024.0, -1024, 32767).astype(
        np.int16
    )


def make_noise(mean: float, spread: float) -> Callable[[Stack], Stack]:
    return lambda hu: np.rint(np.random.default_rng(0).normal(mean, spread, hu.shape)).astype(np.int16)


def wrap(hu: Stack) -> Stack:
    """Unsigned numbers of 12 bits that were read with another intercept and wrapped."""
    return np.where(hu < -24, hu.astype(np.int32) + 4096, hu).clip(-1024, 32767).astype(np.int16)


DAMAGES = {
    "half the slope, unsigned": rescale(0.5, -1024, -1024),
    "half the slope, signed": rescale(0.5, 0, 0),
    "twice the slope, unsigned": rescale(2, -1024, -1024),
    "a fifth more slope": rescale(1.2, -1024, -1024),
    "no intercept": rescale(1, 0, -1024),
    "intercept twice": rescale(1, -1024, 0),
    "1000 HU up": rescale(1, 1000, 0),
    "1000 HU down": rescale(1, -1000, 0),
    "61 HU up": rescale(1, 61, 0),
    "61 HU down": rescale(1, -61, 0),
    "24 HU up": rescale(1, 24, 0),
    "24 HU down": rescale(1, -24, 0),
    "wrapped": wrap,
    "negated": rescale(-1, 0, 0),
    "swapped bytes": swap,
    "constant": lambda hu: np.full_like(hu, 40),
    "nothing": lambda hu: np.full_like(hu, -1024),
    "air": make_noise(-1000, 8),
    "noise of tissue": make_noise(40, 10),
    "noise": make_noise(500, 800),
}


def test_heads_are_heads_and_plausible(heads: list[Head]) -> None:
    assert len(heads) == HEADS
    for head in heads:
        assert find_head(measure_series(head.hu, head.spacing)) is None
        assert head.judge(head.hu) == Verdict([], {})
        half = np.stack([shrink(hu, SIZE // 2) for hu in head.hu])
        assert find_head(measure_series(half, 2 * head.spacing)) is None


@pytest.mark.parametrize("name", DAMAGES)
def test_a_scale_that_is_wrong_in_all_slices_is_found(heads: list[Head], name: str) -> None:
    for head in heads:
        codes = [remark.code for remark in head.judge(DAMAGES[name](head.hu)).remarks]
        assert Reason.IMPLAUSIBLE_HU in codes
        assert Reason.IMPLAUSIBLE_SLICE not in codes


@pytest.mark.parametrize("name", DAMAGES)
def test_a_slice_that_cannot_be_right_is_left_out_and_the_others_are_not(
    heads: list[Head], name: str
) -> None:
    for head in heads:
        for number in (len(head.hu) // 4, len(head.hu) // 2, 3 * len(head.hu) // 4):
            one = head.hu.copy()
            one[number] = DAMAGES[name](head.hu[number])
            (remark,), left_out = head.judge(one)
            assert remark.code == Reason.IMPLAUSIBLE_SLICE
            assert f"1 of {len(one)} slices, the first of them slice {number + 1}: " in remark.detail
            assert left_out.keys() == {number}
            assert left_out[number].detail in remark.detail


@pytest.mark.parametrize("name", DAMAGES)
def test_neighbors_that_are_wrong_alike_do_not_hide_each_other(heads: list[Head], name: str) -> None:
    for head in heads:
        for run in (slice(4, 8), slice(len(head.hu) // 2, None)):
            several = head.hu.copy()
            several[run] = DAMAGES[name](head.hu[run])
            remarks, left_out = head.judge(several)
            assert {Reason.IMPLAUSIBLE_SLICE, Reason.IMPLAUSIBLE_HU} & {remark.code for remark in remarks}
            assert left_out


def test_a_run_that_is_wrong_is_left_out_and_what_is_beside_it_is_not(heads: list[Head]) -> None:
    for head in heads:
        middle = len(head.hu) // 2
        several = head.hu.copy()
        several[middle : middle + 4] = rescale(1, 40, 0)(several[middle : middle + 4])
        assert head.judge(several).left_out.keys() == set(range(middle, middle + 4))


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("lost", [slice(55, 58), slice(50, 75), slice(64, None)])
@pytest.mark.parametrize("value", [-1024, 0])
def test_blocks_of_a_file_that_were_lost_are_found(
    heads: list[Head], slices: int, lost: slice, value: int
) -> None:
    for head in heads:
        run = slice(len(head.hu) // 2, len(head.hu) // 2 + slices)
        holed = head.hu.copy()
        holed[run, lost] = value
        (remark,), left_out = head.judge(holed)
        assert remark.code == Reason.IMPLAUSIBLE_SLICE
        assert left_out.keys() >= set(range(run.start, run.stop))
        assert "rows of equal pixels" in left_out[run.start].detail


def test_pixels_that_stand_for_two_slices_are_found(heads: list[Head]) -> None:
    for head in heads:
        copied = head.hu.copy()
        copied[6] = copied[4]
        (remark,), left_out = head.judge(copied)
        assert remark.code == Reason.IMPLAUSIBLE_SLICE
        assert left_out == {6: Remark(Reason.IMPLAUSIBLE_SLICE, "its pixels are those of slice 5")}


def test_a_slice_that_is_stored_twice_is_read_once(heads: list[Head]) -> None:
    for head in heads:
        twice = np.insert(head.hu, 7, head.hu[6], axis=0)
        positions = np.insert(head.positions, 7, head.positions[6])
        (remark,), left_out = check_pixels(measure_series(twice, head.spacing, positions))
        assert remark.code == Note.REPEATED_SLICE
        assert left_out == {7: Remark(Note.REPEATED_SLICE, "its pixels are those of slice 7")}


def test_air_above_the_head_is_not_a_lost_slice(heads: list[Head]) -> None:
    seen = 0
    for head in heads:
        above = [each.body < 5 for each in measure_series(head.hu, head.spacing).slices]  # cm²
        cut_off = np.maximum(head.hu, -1000)
        cut_off[above] = -1000
        seen += sum(above)
        assert head.judge(cut_off) == Verdict([], {})
    assert seen


@pytest.mark.parametrize("mm", [40, 50, 60])
def test_a_vertex_that_is_missing_is_named(heads: list[Head], mm: int) -> None:
    for head in heads:
        kept = head.positions <= head.positions.max() - mm
        (remark,), left_out = check_pixels(measure_series(head.hu[kept], head.spacing, head.positions[kept]))
        assert remark.code == Reason.NO_VERTEX
        assert not left_out


def test_a_base_that_is_missing_is_named(heads: list[Head]) -> None:
    for head in heads:
        series = measure_series(head.hu, head.spacing)
        largest = max(each.inside for each in series.slices if each.is_brain)
        first = next(
            n for n, each in enumerate(series.slices) if each.is_brain and each.inside > 0.7 * largest
        )
        remarks, _ = check_pixels(measure_series(head.hu[first:], head.spacing, head.positions[first:]))
        assert [remark.code for remark in remarks] == [Reason.NO_BASE]


def test_slices_in_no_order_have_no_ends(heads: list[Head]) -> None:
    for head in heads:
        assert check_pixels(measure_series(head.hu[5:-8], head.spacing)).remarks == []


def test_a_lesion_does_not_hide_a_head() -> None:
    for patient in range(4):
        (study, *_) = draw_patient(11, patient, SIZE)
        assert find_head(measure_series(study.hu, study.spacing)) is None
        assert check_pixels(measure_series(study.hu, study.spacing)) == Verdict([], {})


def test_an_opened_skull_and_sutures_are_heads(heads: list[Head]) -> None:
    for stack, spacing, _ in heads:
        opened = stack.copy()
        left = opened[:, 40:80, :64]
        left[left > 150] = 45  # a flap of bone is gone
        assert find_head(measure_series(opened, spacing)) is None
        sutures = stack.copy()
        cut = sutures[:, :, 62:65]
        cut[cut > 150] = 45
        assert find_head(measure_series(sutures, spacing)) is None


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
def test_pixels_that_do_not_show_a_head(stack: Stack, spacing: float) -> None:
    remark = find_head(measure_series(stack, spacing))
    assert remark is not None
    assert remark.code == SetAside.NO_HEAD
    assert "of 20 slices" in remark.detail


def test_a_head_by_its_size() -> None:
    stack = draw_disc({45: 40, 42: 900, 39: 35})
    assert [find_head(measure_series(stack, spacing)) is None for spacing in (1.0, 1.5, 2.0)] == [
        True
    ] * 3  # infant to adult


def test_a_head_among_many_slices_of_a_body_is_none(heads: list[Head]) -> None:
    stack, spacing, _ = heads[0]
    body = np.tile(draw_disc({45: -100, 40: 50}, 1.3), (10, 1, 1))
    assert find_head(measure_series(np.concatenate([stack, body]), spacing)) is not None


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
            assert find_head(measure_series(stack, field / SIZE)) is not None, path.name
    assert seen > 3
