"""Hemorrhages painted into healthy slices of the phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heads import BRAIN, MM, draw_slice, make, read, x, y
from scipy import ndimage

from ich.data import HeadCTDataModule
from ich.image.lesions import Lesions
from ich.image.lesions.head import Head, find_head
from ich.image.lesions.subtypes import SUBTYPE_PAINTERS, paint_calcification
from ich.schema import LABELS, SUBTYPES, InputSpec, UserError
from ich.schema.labels import LabelSet

SPEC = InputSpec(size=64, neighbors=1)


@pytest.fixture(scope="module")
def plain(phantom: Path) -> HeadCTDataModule:
    return make(phantom, None)


@pytest.fixture(scope="module")
def rows(plain: HeadCTDataModule) -> np.ndarray:
    return np.flatnonzero((plain.table["part"] == "train").to_numpy())


@pytest.fixture(scope="module")
def head() -> Head:
    """Five times a drawn slice, 8 mm apart, so that only the lesion differs between neighbors."""
    found = find_head(np.repeat(draw_slice()[None], 5, axis=0), MM, 8.0 * np.arange(5))
    assert found is not None
    return found


def paint(head: Head, subtype: str, number: int = 20) -> list[np.ndarray]:
    """What a subtype changes, in HU, for several draws."""
    drawn = [SUBTYPE_PAINTERS[subtype](head, np.random.default_rng(seed)) for seed in range(number)]
    painted = [hu - head.hu for hu in drawn if hu is not None]
    assert len(painted) > number / 2
    return painted


def test_healthy_slices_get_hemorrhages_and_their_targets(
    phantom: Path, plain: HeadCTDataModule, rows: np.ndarray
) -> None:
    before, known = read(plain, rows)
    after, target = read(make(phantom, Lesions(probability=1, calcifications=0)), rows)
    painted = (target != known).any(axis=1)
    assert painted.sum() > 20
    assert not known[painted].any()
    np.testing.assert_array_equal(target[painted, -1], 1)
    assert (target[painted, :-1].sum(axis=1) >= 1).all()
    assert (target[painted, :-1].sum(axis=0) > 0).all()  # each subtype
    np.testing.assert_array_equal(after[~painted], before[~painted])
    assert (after != before)[painted, 1].any(axis=(1, 2)).all()


def test_slices_with_a_hemorrhage_in_them_or_in_a_neighbor_are_left_as_they_are(
    phantom: Path, plain: HeadCTDataModule, rows: np.ndarray
) -> None:
    datamodule = make(phantom, Lesions(probability=1, calcifications=0))
    series = plain.table.groupby("SeriesInstanceUID")["any"]
    near = series.transform(lambda labels: labels.rolling(3, center=True, min_periods=1).max())
    ill = rows[near.to_numpy()[rows] == 1]
    (before, known), (after, target) = read(plain, ill), read(datamodule, ill)
    assert 0 < known[:, -1].sum() < len(ill)
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(target, known)


def test_lesions_depend_on_seed_epoch_and_row_alone(phantom: Path, rows: np.ndarray) -> None:
    datamodule = make(phantom, Lesions(probability=1))
    hu, target = read(datamodule, rows[:40])
    again, same = read(make(phantom, Lesions(probability=1)), rows[39::-1])
    np.testing.assert_array_equal(hu, again[::-1])
    np.testing.assert_array_equal(target, same[::-1])
    other, _ = read(datamodule, rows[:40], epoch=1)
    assert not np.array_equal(hu, other)


def test_evaluation_sees_no_painted_lesions(phantom: Path, plain: HeadCTDataModule) -> None:
    painted = make(phantom, Lesions(probability=1, calcifications=1))
    for before, after in zip(plain.predict_dataloader(), painted.predict_dataloader(), strict=True):
        assert (before["hu"] == after["hu"]).all()


def test_the_inside_of_the_skull_is_found_with_its_midline(head: Head) -> None:
    inside = np.zeros_like(BRAIN)
    inside[head.window] = head.inside[head.center]
    assert (inside != BRAIN).sum() < 0.01 * BRAIN.sum()
    np.testing.assert_allclose(head.side, x[head.window], atol=2 * MM)
    np.testing.assert_allclose(head.back, y[head.window], atol=2 * MM)


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_blood_has_the_hu_of_blood_and_stays_in_the_skull(head: Head, subtype: str) -> None:
    hus = []
    for change in paint(head, subtype):
        assert not change[:, head.depth[0] < -MM].any()
        blood = change[2] > 15
        assert (head.hu[2] + change[2])[blood & head.inside[2]].max() < 90 + 5 * 3
        hus.append(float(np.median((head.hu[2] + change[2])[blood])))
    assert 50 <= np.median(hus) <= 80


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_a_lesion_is_in_its_place(head: Head, subtype: str) -> None:
    fluid = (head.hu[2] < 20) & head.inside[2]
    deep = head.depth[2] > 30
    for change in paint(head, subtype):
        blood = change[2] > 15
        share = float(deep[blood].mean())
        if subtype == "epidural":
            assert share == 0
            assert (head.side[blood] > -2).all() or (head.side[blood] < 2).all()
        elif subtype == "subarachnoid":
            assert ndimage.binary_dilation(fluid)[blood].mean() > 0.85
            assert share < 0.1
        elif subtype == "intraventricular":
            assert fluid[blood].mean() > 0.9
            assert share == 1
        elif subtype == "intraparenchymal":
            assert head.depth[2][blood].max() > 6


@pytest.mark.parametrize("subtype", ["epidural", "intraparenchymal", "subdural"])
def test_a_lesion_shrinks_with_the_distance_of_a_neighbor(head: Head, subtype: str) -> None:
    areas = np.array([(change > 15).sum(axis=(1, 2)) for change in paint(head, subtype)])
    lowest, lower, center, upper, highest = areas.sum(axis=0)
    assert center > lower > lowest
    assert center > upper > highest
    assert (areas[:, 2] + 10 >= areas[:, 0]).all()


def test_calcifications_are_bright_and_change_no_target(
    phantom: Path, plain: HeadCTDataModule, rows: np.ndarray, head: Head
) -> None:
    before, known = read(plain, rows)
    after, target = read(make(phantom, Lesions(probability=0, calcifications=1)), rows)
    assert (after != before).any(axis=(1, 2, 3)).sum() > 10
    np.testing.assert_array_equal(target, known)
    painted = [paint_calcification(head, np.random.default_rng(seed)) for seed in range(10)]
    assert max(float((hu - head.hu).max()) for hu in painted if hu is not None) > 50


@pytest.mark.parametrize("missing", ["brain", "size", "position"])
def test_without_brain_size_or_position_nothing_is_painted(missing: str) -> None:
    lesions, z, mm = Lesions(probability=1, calcifications=1), np.array([-5.0, 0.0, 5.0]), MM
    before = np.stack([draw_slice()] * 3)
    assert lesions(before.copy(), (0,), mm, z, healthy=True)
    if missing == "brain":
        before[1] = np.where(BRAIN, -1000, before[1])
    elif missing == "size":
        mm = np.nan
    else:
        z[0] = np.nan
    after = before.copy()
    assert lesions(after, (0,), mm, z, healthy=True) == ()
    np.testing.assert_array_equal(after, before)


def test_only_the_labels_of_the_rsna_can_be_painted(phantom: Path) -> None:
    own = LabelSet(("fracture", "bleed"), (1.0, 2.0))
    with pytest.raises(UserError, match=f"lesions needs the six labels .*{LABELS[0]}.*found fracture, bleed"):
        HeadCTDataModule(str(phantom), SPEC, label_set=own, lesions=Lesions())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"probability": 1.5}, r"lesions.probability=1.5: expected a number between 0 and 1"),
        ({"calcifications": -1}, r"lesions.calcifications=-1: expected"),
        ({"subtypes": ["any"]}, r"lesions.subtypes=\['any'\]: expected a list of epidural, "),
        ({"subtypes": "epidural"}, r"lesions.subtypes=epidural: expected a list"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Lesions(**setting)
