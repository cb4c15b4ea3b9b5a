"""Checks are pure functions of measures: profiles of heads, made up after anatomy, go through them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from ich.schema.codes import Reason
from ich.studies.series.pixels import Change, SeriesMeasures, SliceMeasures
from ich.studies.series.plausible import Verdict, check_pixels, find_head

STEP = 5.0  # mm
BODY = (
    190,
    200,
    205,
    210,
    215,
    220,
    225,
    230,
    240,
    250,
    255,
    258,
    255,
    250,
    245,
    235,
    225,
    210,
    190,
    170,
)  # cm²
CROWN = (148, 122, 95, 70, 45, 16, 4)  # a head is round: it ends within a few slices
INSIDE = (100, 45, 20, 15, 32, 42, 50, 57, 80, 125, 150, 160, 165, 165, 160, 152, 140, 128, 112, 92)
LAST = (70, 48, 28, 9, 0, 0, 0)


def draw_head(**changes: dict[int, float]) -> SeriesMeasures:
    """A whole adult head in steps of 5 mm; ``changes`` are by measure and slice."""
    slices = []
    for place, (body, inside) in enumerate(zip((*BODY, *CROWN), (*INSIDE, *LAST), strict=True)):
        measures = SliceMeasures(
            is_constant=False,
            air=1 - body / 600,
            of_air=0.93,
            neither=0.06,
            body=float(body),
            hard=min(0.5, 1.8 / math.sqrt(body)) if place > 20 else 0.06,
            has_hole=False,
            bone=0.06 if inside else 0.003,
            bone_hu=750.0 if inside else 330.0,
            inside=float(inside),
            inside_hu=31.0 if place > 7 else 15.0,
            is_brain=inside >= 35 and place > 7,
        )
        given = {name: values[place] for name, values in changes.items() if place in values}
        slices.append(measures._replace(**given))
    return make_series(slices)


def make_series(slices: Sequence[SliceMeasures], step: float = STEP) -> SeriesMeasures:
    count = len(slices)
    return SeriesMeasures(
        slices=slices,
        changes=[Change(0.0, 0.0, 0.0)] * (count - 1),
        off=[math.nan] * count,
        same_as=[None] * count,
        positions=step * np.arange(count),
    )


WHOLE = len(BODY) + len(CROWN)


def test_a_head_ends_within_a_few_slices() -> None:
    assert find_head(draw_head()) is None
    assert check_pixels(draw_head()) == Verdict([], {})


@pytest.mark.parametrize(
    "changes",
    [
        {"hard": {WHOLE - 1: 0.50, WHOLE - 2: 0.50, WHOLE - 3: 0.40}},  # the skull is cut along its rim
        {"body": {WHOLE - 3: 55.0, WHOLE - 2: 16.0}},
        {"body": {WHOLE - 3: 48.0, WHOLE - 2: 20.0, WHOLE - 1: 0.0}},
        {"inside_hu": {19: 8.0, 20: 12.0}},  # wide sulci
        {"inside_hu": dict.fromkeys(range(8, 22), 20.0)},  # a newborn
        {"inside_hu": {18: 56.0, 19: 58.0}},  # beam hardening below the crown
        {"bone_hu": {12: 957.0, 11: 602.0, 13: 602.0}},  # a clip
        {"bone_hu": dict.fromkeys(range(8, 22), 1450.0)},
        {"neither": dict.fromkeys(range(WHOLE), 0.2), "of_air": dict.fromkeys(range(WHOLE), 0.7)},  # foam
    ],
)
def test_properties_of_real_heads_prevent_nothing(changes: dict[str, dict[int, float]]) -> None:
    assert check_pixels(draw_head(**changes)) == Verdict([], {})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hard": {12: 0.40}}, "40 % of the body is neither tissue nor bone"),
        ({"body": {12: 120.0}}, "a body of 258 cm² next to one of 120 cm²"),
        ({"inside_hu": {12: -30.0}}, "brain has -30 HU"),
        ({"inside_hu": {12: 92.0}}, "brain has 92 HU"),
        ({"bone_hu": {12: 1600.0}}, "bone has 1600 HU, in other slices 750"),
        ({"of_air": {12: 0.3}}, "30 % of the pixels outside the body"),
        ({"air": {12: 0.02}}, "2 % of the pixels are air"),
        ({"neither": {12: 0.4}}, "40 % of the pixels are neither"),
        ({"bone": {12: 0.5}}, "50 % of the pixels are bone"),
        ({"has_hole": {12: True}}, "rows of equal pixels"),
    ],
)
def test_what_cannot_be_is_left_out(changes: dict[str, dict[int, float]], said: str) -> None:
    (remark,), left_out = check_pixels(draw_head(**changes))
    assert remark.code == Reason.IMPLAUSIBLE_SLICE
    assert left_out.keys() == {12}
    assert said in left_out[12].detail


@pytest.mark.parametrize("hu", [31 - 24, 31 + 24])
def test_a_scale_that_is_off_by_24_hu_is_detected_from_all_slices(hu: float) -> None:
    (remark,), left_out = check_pixels(draw_head(inside_hu=dict.fromkeys(range(8, 22), float(hu))))
    assert remark.code == Reason.IMPLAUSIBLE_HU
    assert f"brain has {hu} HU as the median" in remark.detail
    assert not left_out


def test_of_two_slices_that_differ_the_fewer_are_left_out() -> None:
    series = draw_head()
    changes = list(series.changes)
    changes[9] = changes[13] = Change(-24.0, -24.0, 24.0)
    assert check_pixels(series._replace(changes=changes)).left_out.keys() == {10, 11, 12, 13}
    only_one = [*series.changes[:21], Change(0.0, -60.0, 0.0), *series.changes[22:]]
    assert check_pixels(series._replace(changes=only_one)).left_out.keys() == set(range(22, WHOLE))


def test_tissue_that_jumps_to_and_fro_is_of_one_slice() -> None:
    series = draw_head()
    off = list(series.off)
    off[11:14] = [-30.0, 61.0, -30.0]
    assert check_pixels(series._replace(off=off)).left_out.keys() == {12}


@pytest.mark.parametrize("lost", range(16))
def test_a_vertex_is_missing_where_the_brain_is_still_wide(lost: int) -> None:
    slices = draw_head().slices
    codes = [remark.code for remark in check_pixels(make_series(slices[: len(slices) - lost])).remarks]
    is_wide = (*INSIDE, *LAST)[WHOLE - lost - 1] > 0.25 * max(INSIDE)
    assert codes == ([Reason.NO_VERTEX] if is_wide else [])


@pytest.mark.parametrize("lost", range(12))
def test_a_base_is_missing_where_the_brain_is_already_wide(lost: int) -> None:
    codes = [remark.code for remark in check_pixels(make_series(draw_head().slices[lost:])).remarks]
    assert codes == ([Reason.NO_BASE] if lost >= 9 else [])


def test_a_step_of_ten_mm_shrinks_twice_as_much() -> None:
    slices = draw_head().slices[::2]
    assert check_pixels(make_series(slices, 10.0)).left_out == {}
