"""A transform of albumentations that the user brings, applied to slices in HU."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from albumentations import (
    BaseCompose,
    BasicTransform,
    Compose,
    OneOf,
    OneOrOther,
    ReplayCompose,
    Sequential,
    SomeOf,
)
from numpy.typing import NDArray

from ich.image.augment import Augment
from ich.schema import AIR_HU, InputSpec, UserError

Transform: TypeAlias = BasicTransform | BaseCompose
"""What albumentations calls a transform, or a composition of them."""

LOW_HU, HIGH_HU = AIR_HU, AIR_HU + 4095
"""What 0 and 1 stand for in the image that a transform gets: the 12 bits of the usual CT scale."""

_SPAN = HIGH_HU - LOW_HU
_TOLERATED = 0.5  # beyond 0 to 1, as interpolation may overshoot at an edge


class UserTransform:
    """Applies a transform of albumentations to slices in HU.

    The transform gets a slice and its neighbors as the channels of one (S, S, D) float32 image. There 0 is
    ``LOW_HU`` and 1 is ``HIGH_HU``. HU outside of this range are held at its ends, before and after.

    The same key gives the same changes, because all random generators are seeded anew for each slice. Seeds
    that the transform was made with have no effect. The transform itself is copied and stays as it is.

    Args:
        transform: A transform or a composition of transforms.
        size: Side of a slice in pixels (S).
        depth: Number of slices in an input, with neighbors (D).

    Raises:
        UserError: If some part of the transform does not work on such an image. Each is tried once here,
            however rarely it is to be applied.
    """

    def __init__(self, transform: Transform, size: int, depth: int) -> None:
        self.transform = copy.deepcopy(transform)
        self.name = _describe(transform)
        image = np.random.default_rng(0).random((size, size, depth), np.float32)
        changed: list[str] = []
        result = _try(self.transform, image, changed)
        _require_like(image, result, changed[-1] if changed else self.name)
        _require_like(image, _call(self.transform, image, self.name), self.name)

    def __call__(self, hu: NDArray[np.int16], keys: Sequence[tuple[int, ...]]) -> None:
        """Augments the slices of a batch in place.

        Args:
            hu: (N, D, S, S) Hounsfield units.
            keys: Non-negative numbers for each input, such as seed, epoch, row and repeat.

        Raises:
            UserError: If the transform returns another shape or type, or values that are not finite.
        """
        for slices, key in zip(hu, keys, strict=True):
            _seed(self.transform, key)
            held = np.clip(slices.transpose(1, 2, 0), LOW_HU, HIGH_HU)
            image = np.ascontiguousarray(held - LOW_HU, dtype=np.float32) / _SPAN
            result = self.transform(image=image)["image"]
            _require_like(held, result, self.name)
            slices[:] = np.rint(result.clip(0, 1) * _SPAN + LOW_HU).transpose(2, 0, 1)


def adapt(augment: object, spec: InputSpec) -> Augment | UserTransform | None:
    """Returns what augments slices: an ``Augment`` as it is, a transform of albumentations wrapped.

    Args:
        augment: An ``Augment``, a transform of albumentations or None.
        spec: The input that is augmented.

    Raises:
        UserError: If it is something else, a transform that does not work on slices, or changes that such an
            input cannot have.
    """
    if augment is None:
        return None
    if isinstance(augment, Augment):
        if (augment.window_center or augment.window_width) and not spec.windows:
            raise UserError(
                f"augment.window_center={augment.window_center} and augment.window_width="
                f"{augment.window_width}: input.normalization={spec.normalization} has no windows to change; "
                "set both to 0"
            )
        if (augment.mixup or augment.cutmix) and spec.learnable:
            raise UserError(
                f"augment.mixup={augment.mixup} and augment.cutmix={augment.cutmix} mix windowed images, but "
                "input.learnable=true leaves windows to the network; set both to 0, or input.learnable=false"
            )
        return augment
    if isinstance(augment, Transform):
        return UserTransform(augment, spec.size, spec.depth)
    raise UserError(
        f"augment={augment!r}: expected an ich.image.augment.Augment or a transform of albumentations"
    )


def _seed(transform: Transform, key: tuple[int, ...]) -> None:
    # One pair of generators for all parts. With ``set_random_seed`` each part would draw the same numbers.
    generator = np.random.default_rng(key)
    transform.set_random_state(generator, random.Random(int(generator.integers(1 << 62))))


def _describe(transform: Transform) -> str:
    """Names a transform and its parts, such as ``Compose(HorizontalFlip, OneOf(Blur, GaussNoise))``."""
    parts = ", ".join(map(_describe, transform)) if isinstance(transform, BaseCompose) else ""
    return type(transform).__name__ + (f"({parts})" if parts else "")


def _try(transform: Transform, image: Any, changed: list[str]) -> Any:
    """Applies each part of a transform, whatever its probability.

    Args:
        transform: The transform to try.
        image: (S, S, D) float32, or what earlier parts made of it.
        changed: Takes the names of the parts that change the shape or the type.

    Returns:
        The image after all parts; of alternatives, after the last.
    """
    # The parts of a ReplayCompose work only within it.
    if isinstance(transform, Compose | Sequential) and not isinstance(transform, ReplayCompose):
        for part in transform:
            image = _try(part, image, changed)
        return image
    if isinstance(transform, OneOf | SomeOf | OneOrOther):
        return [_try(part, image, changed) for part in transform][-1]
    result = _try_one(transform, image)
    if (result.shape, result.dtype) != (image.shape, image.dtype):
        changed.append(type(transform).__name__)
    return result


def _try_one(transform: Transform, image: NDArray[Any]) -> NDArray[Any]:
    name = type(transform).__name__
    if unknown := getattr(transform, "invalid_args", ()):
        raise UserError(f"augment: {name} has no argument {', '.join(unknown)}")
    if "image" not in transform.available_keys:
        raise UserError(f"augment: {name} does not take an image; leave it out")
    result = _call(transform, image, name)
    if not np.array_equal(result, _call(transform, image, name), equal_nan=True):
        raise UserError(
            f"augment: {name} gives two results for one seed; let it draw all random numbers from "
            "self.random_generator or self.py_random"
        )
    if image.dtype == result.dtype == np.float32:
        _require_scale(result, name)
    return result


def _call(transform: Transform, image: NDArray[Any], name: str) -> NDArray[Any]:
    """Applies a transform to a copy of a made-up image, with one seed."""
    _seed(transform, (0,))
    try:
        result = transform(image=image.copy(), force_apply=True)["image"]
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"augment: {name} does not work on {_show(image)}, a slice with its neighbors as channels; leave "
            f"it out ({reason})"
        ) from error
    if not isinstance(result, np.ndarray):
        raise UserError(f"augment: {name} returned a {type(result).__name__}; leave it out")
    return result


def _require_scale(result: NDArray[np.float32], name: str) -> None:
    """Refuses values that cannot be taken back to HU."""
    low, high = result.min(), result.max()
    if not (low >= -_TOLERATED and high <= 1 + _TOLERATED):
        raise UserError(
            f"augment: {name} gives values from {low:.3g} to {high:.3g}, expected 0 to 1 for {LOW_HU} to "
            f"{HIGH_HU} HU; leave it out, as input.normalization comes later"
        )
    steps = result * 255
    if np.abs(steps - np.rint(steps)).max() < 1e-3 and len(np.unique(result)) > 2:
        raise UserError(
            f"augment: {name} rounds to 8 bits, which are steps of {_SPAN / 255:.0f} HU; leave it out"
        )


def _require_like(image: NDArray[Any], result: NDArray[Any], name: str) -> None:
    """Refuses a result that is not float32 of the image's shape and finite."""
    if result.shape != image.shape or result.dtype != np.float32:
        raise UserError(
            f"augment: {name} returned {_show(result)}, expected {image.shape} float32; leave it out, or "
            "bring the slice back to its size and type after it"
        )
    if not np.isfinite(result).all():
        raise UserError(f"augment: {name} returned values that are not finite")


def _show(image: NDArray[Any]) -> str:
    return f"{tuple(image.shape)} {image.dtype}"
