from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ich.image.augment import Augment, Changes, apply_changes, apply_changes_to_batch
from ich.image.augment.mixing import mix_batch
from ich.schema import AIR_HU, UserError

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
EVERYTHING = {
    "flip": 0.5,
    "rotate": 20,
    "scale": 0.1,
    "shift": 0.05,
    "shear": 5,
    "holes": 3,
    "shift_hu": 5,
    "scale_hu": 0.05,
    "noise_hu": 4,
    "window_center": 10,
    "window_width": 0.2,
    "mixup": 0.3,
    "cutmix": 0.3,
}


def head(depth: int = 1, size: int = 64) -> np.ndarray:
    """A disc of 40 HU off the middle, with a spot on its right, in air."""
    y, x = np.mgrid[:size, :size] / size
    hu = np.where((x - 0.45) ** 2 + (y - 0.5) ** 2 < 0.3**2, 40, AIR_HU)
    hu[(x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.05**2] = 1000
    return np.repeat(hu[None].astype(np.int16), depth, axis=0)


def apply(augment: Augment, hu: np.ndarray, *key: int) -> np.ndarray:
    """The slices as the key changes them, on the CPU."""
    changed = hu.copy()
    apply_changes(changed, augment.draw([key], hu.shape[-1]), 0)
    return changed


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_output_depends_only_on_input_and_seed(depth: int) -> None:
    augment, hu = Augment(**EVERYTHING), head(depth)
    before = hu.copy()
    first = apply(augment, hu, 7, 0, 3)
    apply(augment, hu, 7, 1, 3)
    np.testing.assert_array_equal(apply(augment, hu, 7, 0, 3), first)
    np.testing.assert_array_equal(apply(Augment(**EVERYTHING), hu, 7, 0, 3), first)
    assert len({apply(augment, hu, 7, epoch, 3).tobytes() for epoch in range(20)}) == 20
    np.testing.assert_array_equal(hu, before)
    assert (first.shape, first.dtype, first.flags.c_contiguous) == (hu.shape, np.int16, True)


@pytest.mark.parametrize("depth", [2, 3, 5, 7])
def test_neighbors_move_together(depth: int) -> None:
    augment = Augment(**(EVERYTHING | {"noise_hu": 0}))
    for seed in range(10):
        hu = apply(augment, head(depth), seed)
        assert all((hu[0] == other).all() for other in hu[1:])


def test_outside_is_air_in_every_slice() -> None:
    hu = np.full((5, 64, 64), 1000, np.int16)
    moved = apply(Augment(rotate=45), hu, 1)
    assert (moved[:, [0, 0, -1, -1], [0, -1, 0, -1]] == AIR_HU).all()
    assert (moved[:, 24:40, 24:40] == 1000).all()


def test_flip_is_exact_and_as_frequent_as_asked() -> None:
    augment, hu = Augment(flip=0.3), head()
    results = [apply(augment, hu, seed) for seed in range(400)]
    flipped = [not np.array_equal(r, hu) for r in results]
    assert 0.22 < np.mean(flipped) < 0.38
    for result, is_flipped in zip(results, flipped, strict=True):
        np.testing.assert_array_equal(result, hu[..., ::-1] if is_flipped else hu)


def test_changes_are_independent_of_each_other() -> None:
    augment, hu = Augment(flip=0.5, shift=0.05, affine=0.5), head()
    mirror = hu[..., ::-1]
    seen: Counter[tuple[bool, bool]] = Counter()
    for seed in range(1000):
        result = apply(augment, hu, 0, seed).astype(float)
        moved = not (np.array_equal(result, hu) or np.array_equal(result, mirror))
        seen[np.abs(result - mirror).sum() < np.abs(result - hu).sum(), moved] += 1
    assert len(seen) == 4
    assert all(200 < count < 300 for count in seen.values())


def test_size_stays_within_the_scale() -> None:
    augment, hu = Augment(scale=0.2), head(size=128)
    areas = [(apply(augment, hu, seed) > -500).sum() / (hu > -500).sum() for seed in range(100)]
    assert 0.63 < min(areas) < 0.72
    assert 1.36 < max(areas) < 1.45


def test_holes_are_air_and_as_large_as_asked() -> None:
    augment, hu = Augment(holes=1, hole_size=0.25), np.full((2, 64, 64), 40, np.int16)
    shares = [(apply(augment, hu, seed)[1] == AIR_HU).mean() for seed in range(100)]
    assert 0.3 < np.mean(np.array(shares) > 0) < 0.7
    assert max(shares) <= 0.25**2


def test_calibration_is_an_offset_and_a_slope_about_water() -> None:
    hu = np.array([[[-1000, 0, 1000, 32767]]], np.int16)
    offsets = np.array([apply(Augment(shift_hu=10), hu, s).astype(int) - hu for s in range(100)])
    assert (offsets[..., :3] == offsets[..., :1]).all()
    assert -10 <= offsets.min() < -8
    assert 8 < offsets[..., :3].max() <= 10
    scaled = np.array([apply(Augment(scale_hu=0.1), hu, s) for s in range(100)])[:, 0, 0]
    assert (scaled[:, 1] == 0).all()
    assert (scaled[:, 0] == -scaled[:, 2]).all()
    assert 900 <= scaled[:, 2].min() < 920
    assert 1080 < scaled[:, 2].max() <= 1100
    assert scaled[:, 3].min() > 29000  # held at the largest int16, not wrapped


def test_noise_is_white_and_no_more_than_asked() -> None:
    hu = np.full((3, 64, 64), 40, np.int16)
    noisy = np.array([apply(Augment(noise_hu=8), hu, seed) for seed in range(50)]) - 40.0
    deviations = noisy.std(axis=(2, 3))
    assert abs(noisy.mean()) < 0.1
    assert deviations.max() < 8.5
    assert deviations.min() < 2
    assert deviations.max() > 6
    assert abs(np.corrcoef(noisy[:, 0].ravel(), noisy[:, 1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [33, 96])
def test_device_gives_what_the_cpu_gives(device: str, depth: int, size: int) -> None:
    """On a body without noise of its own, to which an error of a part of a pixel shows at edges alone."""
    augment = Augment(**EVERYTHING)
    hu = np.stack([head(depth, size)] * 32)
    changes = augment.draw([(5, 0, row) for row in range(len(hu))], size)
    on_device = apply_changes_to_batch(
        torch.from_numpy(hu).to(device), Changes(*(torch.from_numpy(field).to(device) for field in changes))
    ).cpu()
    on_cpu = hu.copy()
    for number, slices in enumerate(on_cpu):
        apply_changes(slices, changes, number)
    assert (on_device.shape, on_device.dtype) == (hu.shape, torch.int16)
    difference = np.abs(on_device.numpy().astype(int) - on_cpu)
    assert difference.max() <= 2  # HU
    assert (difference > 0).mean() < 0.01
    assert (on_cpu != hu).reshape(len(hu), -1).any(axis=1).all()


@pytest.mark.parametrize("name", ["flip", "rotate", "holes", "shift_hu", "noise_hu"])
def test_device_and_cpu_agree_for_each_single_change(name: str) -> None:
    changes = Augment(**{name: EVERYTHING[name]}).draw([(5, 1)], 64)
    slices = head()
    alone = Changes(*(field if field is None else torch.from_numpy(field) for field in changes))
    on_device = apply_changes_to_batch(torch.from_numpy(slices.copy())[None], alone)
    apply_changes(slices, changes, 0)
    np.testing.assert_allclose(on_device[0].numpy(), slices, atol=1)


def draw_windows(count: int, **asked: float) -> np.ndarray:
    """(count, 16, 2) of as many keys."""
    windows = Augment(**asked).draw([(7, 0, row) for row in range(count)], 64).windows
    assert windows is not None
    return windows


def test_windows_are_drawn_around_their_own_values() -> None:
    windows = draw_windows(200, window_center=10, window_width=0.25)
    assert (windows.shape, windows.dtype) == ((200, 16, 2), np.float32)
    center, factor = windows[..., 0], windows[..., 1]
    assert -10 <= center.min() < -9.9
    assert 9.9 < center.max() <= 10
    assert 0.8 <= factor.min() < 0.801
    assert 1.249 < factor.max() <= 1.25 * (1 + 1e-6)
    assert abs(center.mean()) < 0.5
    assert abs(np.log(factor).mean()) < 0.01  # as often narrower as wider
    assert abs(np.corrcoef(windows[:, :2].reshape(200, -1), rowvar=False) - np.eye(4)).max() < 0.25
    np.testing.assert_array_equal(windows[3], draw_windows(4, window_center=10, window_width=0.25)[3])
    assert (draw_windows(3, window_center=5)[..., 1] == 1).all()
    assert (draw_windows(3, window_width=0.5)[..., 0] == 0).all()


@pytest.mark.parametrize("on_device", [False, True])
def test_windows_are_left_to_the_device_and_change_no_slice(on_device: bool) -> None:
    plain = Augment(shift_hu=5, on_device=on_device)
    both = Augment(shift_hu=5, window_center=10, on_device=on_device)
    slices, again, keys = head()[None], head()[None], [(7, 0, 3)]
    without, left = plain(slices, keys), both(again, keys)
    np.testing.assert_array_equal(slices, again)
    assert (slices != head()).any() != on_device
    assert left is not None
    assert left.windows is not None
    assert (left.tone is not None) == on_device
    assert without is None if not on_device else torch.equal(without.tone, left.tone)


def mix(count: int, target: torch.Tensor | None = None, **asked: float) -> tuple[torch.Tensor, ...]:
    """Batch of which image n has the value n; returns drawn partners, images (N, S, S) and targets (N, L)."""
    drawn = Augment(**asked).draw([(7, 0, row) for row in range(count)], 64).mixing
    assert drawn is not None
    number = torch.arange(count, dtype=torch.float32)
    image = number[:, None, None, None].expand(count, 3, 40, 40)
    target = torch.stack([number, 2 * number], 1) if target is None else target
    mixed, target = mix_batch(image, target, torch.from_numpy(drawn))
    assert all(torch.equal(mixed[:, 0], mixed[:, channel]) for channel in (1, 2))
    return torch.from_numpy(drawn)[:, 0], mixed[:, 0], target


def test_mixup_blends_images_and_targets_in_one_proportion() -> None:
    partner, image, target = mix(200, mixup=1)
    own = torch.arange(200.0)
    assert (partner != own).all()
    assert partner.unique().numel() > 100
    share = (image[:, 0, 0] - partner) / (own - partner)
    torch.testing.assert_close(image, image[:, :1, :1].expand_as(image))
    torch.testing.assert_close(target, torch.stack([image[:, 0, 0], 2 * image[:, 0, 0]], 1))
    assert share.std() == pytest.approx(12**-0.5, abs=0.03)  # uniform
    _, slightly, _ = mix(200, mixup=1, mix_beta=0.1)
    share = (slightly[:, 0, 0] - partner) / (own - partner)
    assert ((share < 0.02) | (share > 0.98)).float().mean() > 0.5


def test_cutmix_takes_a_rectangle_and_as_much_of_the_target() -> None:
    partner, image, target = mix(200, cutmix=1)
    own = torch.arange(200.0)
    taken = image == partner[:, None, None]
    assert (taken | (image == own[:, None, None])).all()
    rows, columns = taken.any(dim=2).sum(dim=1), taken.any(dim=1).sum(dim=1)
    assert torch.equal(taken.sum(dim=(1, 2)), rows * columns)
    assert (rows - columns).abs().max() <= 1
    share = taken.float().mean(dim=(1, 2))
    torch.testing.assert_close(target[:, 0], own + share * (partner - own))
    assert share.mean() == pytest.approx(0.5, abs=0.05)


def test_mixing_is_as_frequent_as_asked_and_leaves_the_others_as_they_are() -> None:
    _, image, target = mix(400, mixup=0.2, cutmix=0.3)
    own = torch.arange(400.0)
    blended = (image != own[:, None, None]).all(dim=(1, 2))
    cut = (image != own[:, None, None]).any(dim=(1, 2)) & ~blended
    assert blended.float().mean() == pytest.approx(0.2, abs=0.05)
    assert cut.float().mean() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(target[:, 0][~blended & ~cut], own[~blended & ~cut])


def test_a_mixed_target_is_unknown_if_either_is() -> None:
    unknown = torch.full((100, 2), float("nan"))
    unknown[::2, 0] = torch.tensor([0.0, 1.0]).repeat(25)
    partner, image, target = mix(100, unknown, mixup=0.5)
    mixed = image[:, 0, 0] != torch.arange(100)
    known = unknown[:, 0].isfinite()
    assert torch.equal(target[:, 0].isfinite(), known & (~mixed | known[partner.long()]))
    assert torch.equal(target[:, 0][known & ~mixed], unknown[:, 0][known & ~mixed])
    assert target[:, 1].isnan().all()


def test_an_input_alone_in_its_batch_stays_as_it_is() -> None:
    _, image, target = mix(1, torch.ones(1, 2), mixup=1)
    assert (image == 0).all()
    assert (target == 1).all()


def test_nothing_asked_changes_nothing() -> None:
    np.testing.assert_array_equal(apply(Augment(), head(3), 0), head(3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("holes", 1.5), ("flip", 1.5), ("rotate", -5), ("scale", 1.0), ("noise_hu", float("nan"))),
        *(("window_center", -1), ("mixup", 1.1), ("mix_beta", 0)),
    ],
)
def test_a_value_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"augment.{name}={value}"):
        Augment(**{name: value})
    with pytest.raises(UserError, match=r"mixup=0.6, augment.cutmix=0.6: expected a sum of at most 1"):
        Augment(mixup=0.6, cutmix=0.6)
