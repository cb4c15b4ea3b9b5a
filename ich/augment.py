"""Random changes to a slice and its neighbours on the CPU, in Hounsfield units."""

from __future__ import annotations

import math
import os
import random

import cv2
import numpy as np

# Read at import: without it albumentations asks the network for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

from ich.schema import AIR_HU, UserError


class Augment:
    """Augments a slice: flip and affine, dropped patches, then calibration and noise.

    All slices of one input move together. Every change is off by default but for what is given; the
    ranges are symmetric and drawn uniformly.

    Args:
        flip: Probability of a left-right flip; heads are nearly symmetric.
        rotate: Largest angle in degrees, either way.
        scale: Largest change of size, as a fraction: 0.1 is 0.9 to 1.1.
        shift: Largest movement along each axis, as a fraction of the image.
        shear: Largest shear along each axis in degrees.
        affine: Probability that rotation, scale, shift and shear are applied, all at once.
        holes: Largest number of square patches set to air; 0 for none.
        hole_size: Largest side of such a patch, as a fraction of the image.
        shift_hu: Largest offset of all values in HU, as between scanners.
        scale_hu: Largest change of contrast about water, as a fraction; tube voltage changes it.
        noise_hu: Largest standard deviation in HU of added white noise, drawn from 0 on.

    Raises:
        UserError: If a value is out of its range.
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
    ) -> None:
        _check("flip", flip, 1)
        _check("rotate", rotate, 180)
        _check("scale", scale, 0.9)
        _check("shift", shift, 1)
        _check("shear", shear, 45)
        _check("affine", affine, 1)
        _check("holes", holes, math.inf)
        _check("hole_size", hole_size, 1)
        _check("shift_hu", shift_hu, math.inf)
        _check("scale_hu", scale_hu, 0.9)
        _check("noise_hu", noise_hu, math.inf)
        self._shift_hu, self._scale_hu, self._noise_hu = shift_hu, scale_hu, noise_hu
        geometry: list[A.BasicTransform] = []
        if flip > 0:
            geometry.append(A.HorizontalFlip(p=flip))
        if affine > 0 and any((rotate, scale, shift, shear)):
            geometry.append(
                A.Affine(
                    rotate=(-rotate, rotate),
                    scale=(1 - scale, 1 + scale),
                    keep_ratio=True,
                    translate_percent=(-shift, shift),
                    shear=(-shear, shear),
                    border_mode=cv2.BORDER_CONSTANT,
                    fill=AIR_HU,
                    p=affine,
                )
            )
        if holes > 0 and hole_size > 0:
            sides = (min(0.02, hole_size), hole_size)
            geometry.append(
                A.CoarseDropout(
                    num_holes_range=(1, holes),
                    hole_height_range=sides,
                    hole_width_range=sides,
                    fill=AIR_HU,
                    p=0.5,
                )
            )
        self._geometry = A.Compose(geometry) if geometry else None

    def __call__(self, hu: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        """Augments one input.

        Args:
            hu: (D, H, W) int16 Hounsfield units, left as they are.
            seed: Non-negative numbers, such as run, epoch and row: the same seed gives the same output,
                whichever worker draws it.

        Returns:
            (D, H, W) int16, contiguous; ``hu`` itself where nothing is to change.
        """
        rng = np.random.default_rng(seed)
        if self._geometry is not None:
            # Not set_random_seed, which starts every transform from the same number: a flip would then
            # decide the angle.
            self._geometry.set_random_state(rng, random.Random(int(rng.integers(2**63))))
            image = np.ascontiguousarray(hu.transpose(1, 2, 0))  # (H, W, D)
            hu = self._geometry(image=image)["image"].transpose(2, 0, 1)
        return np.ascontiguousarray(self._vary(hu, rng))

    def _vary(self, hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Applies calibration and noise, each slice its own noise."""
        if not (self._shift_hu or self._scale_hu or self._noise_hu):
            return hu
        slope = np.float32(1 + self._scale_hu * rng.uniform(-1, 1))
        varied = hu.astype(np.float32) * slope
        varied += np.float32(self._shift_hu * rng.uniform(-1, 1))
        if self._noise_hu:
            varied += np.float32(self._noise_hu * rng.uniform()) * rng.standard_normal(hu.shape, np.float32)
        limits = np.iinfo(np.int16)
        np.rint(varied, out=varied)
        np.clip(varied, limits.min, limits.max, out=varied)
        return varied.astype(np.int16)


def _check(name: str, value: float, most: float) -> None:
    if not 0 <= value <= most:
        expected = f"between 0 and {most}" if math.isfinite(most) else "of 0 or more"
        raise UserError(f"augment.{name}={value}: expected a number {expected}")
