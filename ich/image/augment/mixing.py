"""Mixup and CutMix for several labels: images of a batch are mixed, and so are their targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MIXING = 2  # ends the key of these draws


def draw_mixing(
    keys: Sequence[tuple[int, ...]], mixup: float, cutmix: float, beta: float
) -> NDArray[np.generic]:
    """Draws which inputs of a batch are mixed with which others, and how.

    Sources: Zhang et al., mixup, ICLR 2018 (arXiv:1710.09412); Yun et al., CutMix, ICCV 2019
    (arXiv:1905.04899). Unlike there, the patch of CutMix always lies within the image, so that its area is
    what was drawn.

    Args:
        keys: One key per input, as ``Augment.draw`` takes them.
        mixup: Probability that an input is blended with another.
        cutmix: Probability that a patch of it is replaced.
        beta: Both parameters of the beta distribution of the input's own share.

    Returns:
        (N, 6) float32: the other input's number in the batch; the own share outside of the patch; left, top,
        right and bottom of the patch as fractions of the image. An unmixed input has the share 1 and an
        empty patch.
    """
    generators = [np.random.default_rng((*key, _MIXING)) for key in keys]
    u = np.stack([generator.random(4) for generator in generators])
    share = np.array([generator.beta(beta, beta) for generator in generators])
    blends, cuts = u[:, 0] < mixup, (u[:, 0] >= mixup) & (u[:, 0] < mixup + cutmix)
    count = len(keys)
    partner = (np.arange(count) + 1 + (u[:, 1] * (count - 1)).astype(int)) % count  # never the input itself
    side = np.where(cuts, np.sqrt(1 - share), 0)[:, None]
    start = u[:, 2:] * (1 - side)
    drawn = [partner[:, None], np.where(blends, share, 1)[:, None], start, start + side]
    return np.concatenate(drawn, axis=1).astype(np.float32)


def mix_batch(image: Tensor, target: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor]:
    """Mixes the images of a batch and their targets.

    A target is the mean of both, weighted by their shares of the image. It is unknown if one of them is,
    because the image shows both.

    Args:
        image: (N, C, S, S) images.
        target: (N, L) targets, NaN where unknown.
        mixing: (N, 6) from ``draw_mixing``, on the same device.

    Returns:
        The mixed images and targets, of the same shapes.
    """
    partner = mixing[:, 0].long()
    patch = cover(mixing[:, None, 2:] * image.shape[-1], image.shape[-1])  # (N, S, S)
    own = mixing[:, 1, None, None].where(~patch, 0).to(image.dtype)  # (N, S, S)
    share = own.mean(dim=(1, 2))[:, None].to(target.dtype)  # (N, 1)
    mixed = torch.lerp(target[partner], target, share)
    return torch.lerp(image[partner], image, own[:, None]), torch.where(share == 1, target, mixed)


def cover(patches: Tensor, size: int) -> Tensor:
    """Returns (N, S, S) bool: the pixels that patches cover.

    Args:
        patches: (N, K, 4) left, top, right and bottom, in pixels.
        size: Side of the image in pixels.
    """
    place = torch.arange(size, device=patches.device)
    left, top, right, bottom = patches[..., None].unbind(2)  # each (N, K, 1)
    columns, rows = (place >= left) & (place < right), (place >= top) & (place < bottom)  # (N, K, S)
    return (rows[..., :, None] & columns[..., None, :]).any(dim=1)
