"""Shrinks batches on their device."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from ich.image.resize import make_shares


def shrink_batch(hu: Tensor, size: int) -> Tensor:
    """Shrinks a batch as ``resize_hu`` shrinks a slice: each new pixel is the mean of the area it covers.

    Args:
        hu: (N, D, S, S) int16 Hounsfield units.
        size: New side in pixels, at most S.

    Returns:
        (N, D, size, size) int16.
    """
    if hu.shape[-1] == size:
        return hu
    shares = _spread_shares(hu.shape[-1], size, hu.device)
    return (shares @ hu.float() @ shares.T).round().to(torch.int16)


@cache
def _spread_shares(side: int, size: int, device: torch.device) -> Tensor:
    """Returns (size, side): the share of each old pixel in each new one."""
    shares = make_shares(side, size)
    blocks = np.eye(side // shares.shape[1], dtype=np.float32)
    return torch.from_numpy(np.kron(blocks, shares)).to(device)
