"""Random changes to slices in Hounsfield units, drawn here and applied on the CPU or on a device."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ich.image.augment.mixing import cover, draw_mixing
from ich.schema import AIR_HU, MOST_WINDOWS, UserError

__all__ = ["Augment", "Changes", "apply_changes", "apply_changes_to_batch"]

# Without it albumentations asks the network for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

Array = TypeVar("Array", NDArray[np.generic], Tensor)

HOLES_PROBABILITY = 0.5  # that an input has any patch
HOLE_MIN = 0.02  # smallest side of a patch, as a fraction of the image
_STARTS = 1 << 20  # places in the table of noise where the noise of an input may begin
_WINDOWS = 1  # ends the key of the draws for windows; an ending of 0 would give the draws of the key itself
_OF_SLICES = 4  # the first fields of Changes, which change slices
_INT16 = np.iinfo(np.int16)


class Changes(NamedTuple, Generic[Array]):
    """Changes to N inputs, applied in this order; a field is None if the change never happens.

    The last two are for ``ich.image.window.Window`` and for ``mix_batch``, the others are for slices.

    Attributes:
        matrix: (N, 3, 3) float32, maps pixels (x, y, 1) to their new place; outside is air.
        holes: (N, K, 4) int64, left, top, right and bottom of patches of air in pixels.
        tone: (N, 2) float32, factor of HU and offset in HU.
        noise: (N, 2) float32, standard deviation in HU, and start of the noise within ``make_noise``.
        windows: (N, 16, 2) float32, for each window of the input how far its center moves in HU, and the
            factor of its width.
        mixing: (N, 6) float32, from ``ich.image.augment.mixing.draw_mixing``.
    """

    matrix: Array | None = None
    holes: Array | None = None
    tone: Array | None = None
    noise: Array | None = None
    windows: Array | None = None
    mixing: Array | None = None


class Augment:
    """Draws how slices are augmented: flip and affine, patches, calibration, noise, windows, then mixing.

    All slices of one input change together, except for their noise. Every change is off by default. Ranges
    are symmetric and drawn uniformly.

    Args:
        flip: Probability of a left-right flip; heads are nearly symmetric.
        rotate: Largest angle in degrees, in both directions.
        scale: Largest change of size, as a fraction: 0.1 is 0.9 to 1.1.
        shift: Largest movement along each axis, as a fraction of the image.
        shear: Largest shear along each axis in degrees.
        affine: Probability that rotation, scale, shift and shear are applied, all at once.
        holes: Largest number of rectangular patches that are set to air; 0 for none.
        hole_size: Largest side of such a patch, as a fraction of the image.
        shift_hu: Largest offset of all values in HU, as between scanners.
        scale_hu: Largest change of contrast about water, as a fraction; tube voltage changes it.
        noise_hu: Largest standard deviation of the added white noise, HU; drawn from 0.
        window_center: Largest movement of the center of each window in HU. Windows move independently.
        window_width: Largest change of the width of each window, as a fraction: 0.25 is a factor between
            1 / 1.25 and 1.25, whose logarithm is uniform.
        mixup: Probability that an image is blended with another of its batch, and its targets with it.
        cutmix: Probability that a patch of another image replaces its own instead. With ``mixup`` at most 1.
        mix_beta: Parameter of the beta distribution from which its own share is drawn. 1 is uniform; lower
            values mix most images only slightly.
        on_device: Apply the changes to whole batches on the network's device, which saves CPU time. Otherwise
            they are applied slice by slice while reading. The draws are the same.

    Raises:
        UserError: If a value is out of range.
    """

    def __init__(
        self,
        *,
        flip: float = 0.0,
        rotate: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        shear: float = 0.0,
        affine: float = 1.0,
        holes: int = 0,
        hole_size: float = 0.15,
        shift_hu: float = 0.0,
        scale_hu: float = 0.0,
        noise_hu: float = 0.0,
        window_center: float = 0.0,
        window_width: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_beta: float = 1.0,
        on_device: bool = False,
    ) -> None:
        _check("flip", flip, 1)
        _check("rotate", rotate, 180)
        _check("scale", scale, 0.9)
        _check("shift", shift, 1)
        _check("shear", shear, 45)
        _check("affine", affine, 1)
        _check("holes", holes, math.inf)
        if holes != int(holes):
            raise UserError(f"augment.holes={holes}: expected a whole number")
        _check("hole_size", hole_size, 1)
        _check("shift_hu", shift_hu, math.inf)
        _check("scale_hu", scale_hu, 0.9)
        _check("noise_hu", noise_hu, math.inf)
        _check("window_center", window_center, math.inf)
        _check("window_width", window_width, math.inf)
        _check("mixup", mixup, 1)
        _check("cutmix", cutmix, 1)
        if mixup + cutmix > 1 + 1e-9:
            raise UserError(f"augment.mixup={mixup}, augment.cutmix={cutmix}: expected a sum of at most 1")
        if not 0 < mix_beta < math.inf:
            raise UserError(f"augment.mix_beta={mix_beta}: expected a number above 0")
        self.flip, self.affine = flip, affine
        self.rotate, self.scale, self.shift, self.shear = rotate, scale, shift, shear
        self.holes, self.hole_size = int(holes), hole_size
        self.shift_hu, self.scale_hu, self.noise_hu = shift_hu, scale_hu, noise_hu
        self.window_center, self.window_width = window_center, window_width
        self.mixup, self.cutmix, self.mix_beta = mixup, cutmix, mix_beta
        self.on_device = on_device

    def __call__(self, hu: NDArray[np.int16], keys: Sequence[tuple[int, ...]]) -> Changes[Tensor] | None:
        """Augments the slices of a batch in place, or returns what the device is to do.

        Args:
            hu: (N, D, S, S) Hounsfield units, contiguous.
            keys: As ``draw`` takes them.

        Returns:
            The changes that are left: with ``on_device`` all, else those of windows and the mixing. None if
            there are none.
        """
        changes = self.draw(keys, hu.shape[-1])
        if not self.on_device:
            for number, slices in enumerate(hu):
                apply_changes(slices, changes, number)
            changes = Changes(windows=changes.windows, mixing=changes.mixing)
        if all(field is None for field in changes):
            return None
        return Changes(*(None if field is None else torch.from_numpy(field) for field in changes))

    def draw(self, keys: Sequence[tuple[int, ...]], size: int) -> Changes[NDArray[np.generic]]:
        """Draws the changes of a batch.

        Args:
            keys: One key per input: non-negative numbers, such as seed, epoch, row and repeat. The same key
                always gives the same changes, whatever else is in the batch. Only the input that it is mixed
                with is counted from its place there.
            size: Side of the images, in pixels.

        Returns:
            The changes of the inputs, in order of the keys.
        """
        # Each input takes the same number of draws, so no change depends on the setting of another.
        u = np.stack([np.random.default_rng(key).random(13 + 4 * self.holes) for key in keys])
        either_way = 2 * u - 1
        return Changes(
            matrix=self._draw_matrix(u[:, 0], u[:, 1], either_way[:, 2:8], size),
            holes=self._draw_holes(u[:, 8], u[:, 13:].reshape(len(u), -1, 4), size),
            tone=self._draw_tone(either_way[:, 9:11]),
            noise=self._draw_noise(u[:, 11:13]),
            windows=self._draw_windows(keys),
            mixing=(
                draw_mixing(keys, self.mixup, self.cutmix, self.mix_beta)
                if self.mixup or self.cutmix
                else None
            ),
        )

    def _draw_matrix(
        self, flip: NDArray[np.float64], affine: NDArray[np.float64], u: NDArray[np.float64], size: int
    ) -> NDArray[np.generic] | None:
        """Takes draws from [0, 1) for whether, and (N, 6) from [-1, 1) for how much."""
        moves = self.affine > 0 and any((self.rotate, self.scale, self.shift, self.shear))
        if not (self.flip or moves):
            return None
        u = u * (affine < self.affine)[:, None]
        return _make_matrices(
            np.deg2rad(self.rotate * u[:, 0]),
            1 + self.scale * u[:, 1],
            np.where(flip < self.flip, -1, 1),
            self.shift * size * u[:, 2:4],
            np.tan(np.deg2rad(self.shear * u[:, 4:6])),
            (size - 1) / 2,
        )

    def _draw_holes(
        self, number: NDArray[np.float64], u: NDArray[np.float64], size: int
    ) -> NDArray[np.generic] | None:
        """Takes draws from [0, 1) for how many, and (N, K, 4) for height, width, top and left."""
        if not (self.holes and self.hole_size):
            return None
        count = np.where(number < HOLES_PROBABILITY, 1 + number / HOLES_PROBABILITY * self.holes, 0)
        least = min(HOLE_MIN, self.hole_size)
        sides = np.rint(size * (least + (self.hole_size - least) * u[..., :2]))  # (N, K, 2)
        sides *= (np.arange(self.holes) < count.astype(int)[:, None])[..., None]
        start = np.rint((size - sides) * u[..., 2:])  # top, left
        return np.concatenate([start, start + sides], axis=2)[..., [1, 0, 3, 2]].astype(np.int64)

    def _draw_tone(self, u: NDArray[np.float64]) -> NDArray[np.generic] | None:
        if not (self.scale_hu or self.shift_hu):
            return None
        return (u * (self.scale_hu, self.shift_hu) + (1, 0)).astype(np.float32)

    def _draw_noise(self, u: NDArray[np.float64]) -> NDArray[np.generic] | None:
        return (u * (self.noise_hu, _STARTS)).astype(np.float32) if self.noise_hu else None

    def _draw_windows(self, keys: Sequence[tuple[int, ...]]) -> NDArray[np.generic] | None:
        """Draws for as many windows as an input may have, so that the input need not be known."""
        if not (self.window_center or self.window_width):
            return None
        u = [np.random.default_rng((*key, _WINDOWS)).uniform(-1, 1, (MOST_WINDOWS, 2)) for key in keys]
        center, power = np.moveaxis(np.stack(u), 2, 0)  # each (N, 16)
        changes = [self.window_center * center, (1 + self.window_width) ** power]
        return np.stack(changes, axis=2).astype(np.float32)


def _make_matrices(
    angle: NDArray[np.float64],  # (N,) radians
    scale: NDArray[np.float64],  # (N,)
    mirror: NDArray[np.integer],  # (N,) -1 for a left-right flip, 1 for none
    shift: NDArray[np.float64],  # (N, 2) pixels
    shear: NDArray[np.float64],  # (N, 2) tangent of the angle
    center: float,  # of the image, in pixels
) -> NDArray[np.float32]:
    """Returns (N, 3, 3) matrices that flip, shear, scale and turn about the center, then shift."""
    cos, sin, one = scale * np.cos(angle), scale * np.sin(angle), np.ones_like(angle)
    turn = np.stack([cos, -sin, sin, cos], axis=1).reshape(-1, 2, 2)
    skew = np.stack([one, shear[:, 0], shear[:, 1], one], axis=1).reshape(-1, 2, 2)
    linear = turn @ skew
    linear[:, :, 0] *= mirror[:, None]
    matrix = np.zeros((len(angle), 3, 3), np.float32)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = center - linear.sum(axis=2) * center + shift
    matrix[:, 2, 2] = 1
    return matrix


@cache
def make_noise(count: int) -> NDArray[np.float32]:
    """Returns white noise of standard deviation 1, (n,): ``count`` values from each place where it may begin.

    New noise for each input would take longer than everything else.
    """
    return np.random.default_rng(0).standard_normal(_STARTS + count, np.float32)


def apply_changes(hu: NDArray[np.int16], changes: Changes[NDArray[np.generic]], number: int) -> None:
    """Applies the changes of one input on the CPU, in place.

    It uses float32, in which OpenCV moves an image faster than in integers.

    Args:
        hu: (D, S, S) Hounsfield units, contiguous.
        changes: The changes drawn for one batch.
        number: The input's number within the batch.
    """
    # Slow to import, and not needed where nothing is augmented.
    from albumentations.augmentations.dropout.functional import fill_holes_with_value
    from albumentations.augmentations.geometric.functional import warp_affine

    matrix, holes, tone, noise = (None if field is None else field[number] for field in changes[:_OF_SLICES])
    image = np.ascontiguousarray(hu.transpose(1, 2, 0), dtype=np.float32)  # (S, S, D)
    if matrix is not None:
        air = float(AIR_HU)  # a float fills all channels, an integer the first
        image = warp_affine(image, matrix, cv2.INTER_LINEAR, air, cv2.BORDER_CONSTANT, image.shape[:2])
    if holes is not None:
        image = fill_holes_with_value(image, holes, np.float32(AIR_HU))
    image = np.ascontiguousarray(image.transpose(2, 0, 1)).reshape(-1, hu.shape[2])  # (D * S, S)
    slope, offset = (1.0, 0.0) if tone is None else map(float, tone)
    deviation, added = 0.0, image
    if noise is not None:
        deviation, start = float(noise[0]), int(noise[1])
        added = make_noise(hu.size)[start : start + hu.size].reshape(image.shape)
    # Rounds to the nearest HU and saturates.
    cv2.addWeighted(image, slope, added, deviation, offset, dst=hu.reshape(image.shape), dtype=cv2.CV_16S)


def apply_changes_to_batch(hu: Tensor, changes: Changes[Tensor]) -> Tensor:
    """Applies changes to a batch on its device, with the result of ``apply_changes`` except for rounding.

    Args:
        hu: (N, D, S, S) int16 Hounsfield units.
        changes: The changes, on the same device. Those of windows and the mixing come later.

    Returns:
        (N, D, S, S) int16.
    """
    if all(field is None for field in changes[:_OF_SLICES]):
        return hu
    _, depth, size, _ = hu.shape
    image = hu.float()
    if changes.matrix is not None:
        # It takes seconds to import, so only those who need it wait for it.
        from kornia.geometry.transform import warp_affine as warp_affine_batch

        image = warp_affine_batch(image - AIR_HU, changes.matrix[:, :2], (size, size)) + AIR_HU
    if changes.holes is not None:
        image = image.masked_fill(cover(changes.holes, size)[:, None], AIR_HU)
    if changes.tone is not None:
        slope, offset = changes.tone[:, :, None, None, None].unbind(1)  # each (N, 1, 1, 1)
        image = image * slope + offset
    if changes.noise is not None:
        deviation, start = changes.noise.unbind(1)  # each (N,)
        noise = _copy_noise(depth * size * size, hu.device)
        image = image + deviation[:, None, None, None] * noise[start.long()].view_as(image)
    return image.round().clamp(_INT16.min, _INT16.max).to(torch.int16)


@cache
def _copy_noise(count: int, device: torch.device) -> Tensor:
    """Returns ``make_noise`` on a device as (places, count): a row for each place where noise may begin."""
    return torch.from_numpy(make_noise(count)).to(device).unfold(0, count, 1)


def _check(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        expected = f"between 0 and {most}" if math.isfinite(most) else "of 0 or more"
        raise UserError(f"augment.{name}={value}: expected a number {expected}")
