"""Brings slices to one size: pads them to squares, then resizes them."""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.schema import AIR_HU

_LARGEST_BLOCK = 32  # pixels; OpenCV is faster for larger blocks


def resize_hu(
    hu: NDArray[np.int16], size: int, out: NDArray[np.int16] | None = None, *, air: int = AIR_HU
) -> NDArray[np.int16]:
    """Resizes a slice to (size, size). It pads the shorter side with air first, so that shapes are kept.

    When a slice shrinks, each new pixel is the mean of the area that it covers, rounded to the nearest HU.
    When it grows, pixels are interpolated linearly.

    Args:
        hu: (Rows, Columns) HU.
        size: New side in pixels.
        out: (size, size), contiguous, to write to. By default a new array.
        air: HU to pad with.

    Returns:
        (size, size) HU, which is ``out`` if it was given.
    """
    if out is None:
        out = np.empty((size, size), dtype=np.int16)
    hu = _pad_to_square(hu, air)
    side = len(hu)
    if side == size:
        np.copyto(out, hu)
    elif size > side:
        cv2.resize(hu, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    elif side == 2 * size or side // math.gcd(side, size) > _LARGEST_BLOCK:
        cv2.resize(hu, (size, size), dst=out, interpolation=cv2.INTER_AREA)
    else:
        _shrink(hu, make_shares(side, size), out)
    return out


def restore_size(image: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Brings an image that was computed from a resized slice back to the slice's own rows and columns.

    Args:
        image: (size, size), of a slice that ``resize_hu`` has resized.
        rows: The slice's number of rows.
        columns: The slice's number of columns.

    Returns:
        (rows, columns), without the padding. Interpolation is linear, or by area if the image shrinks.
    """
    side = max(rows, columns)
    how = cv2.INTER_AREA if side < len(image) else cv2.INTER_LINEAR
    square = cv2.resize(image, (side, side), interpolation=how)
    top, left = (side - rows) // 2, (side - columns) // 2
    return np.ascontiguousarray(square[top : top + rows, left : left + columns], dtype=np.float32)


def keeps_shift(hu: NDArray[np.int16], size: int) -> bool:
    """Whether adding a constant before and after resizing gives the same HU, to the bit.

    This holds for the same size and for half of it: there OpenCV computes means of two by two pixels in
    integers and rounds halves up. Other means are rounded as floats.
    """
    return max(hu.shape) in (size, 2 * size)


def _pad_to_square(hu: NDArray[np.int16], air: int) -> NDArray[np.int16]:
    rows, columns = hu.shape
    if rows == columns:
        return hu
    side = max(rows, columns)
    top, left = (side - rows) // 2, (side - columns) // 2
    square = np.full((side, side), air, dtype=np.int16)
    square[top : top + rows, left : left + columns] = hu
    return square


def _shrink(hu: NDArray[np.int16], shares: NDArray[np.float32], out: NDArray[np.int16]) -> None:
    """Shrinks like OpenCV's INTER_AREA in about half the time. Each block of Q pixels becomes P pixels.

    It does so by many small matrix products. Each is too small for BLAS to start threads.
    """
    before, side, size = shares.shape[1], len(hu), len(out)
    blocks = side // before
    rows = shares @ hu.astype(np.float32).reshape(blocks, before, side)  # (blocks, P, side)
    means = rows.reshape(size, blocks, before) @ shares.T  # (size, blocks, P)
    np.rint(means, out=means)
    np.copyto(out, means.reshape(size, size), casting="unsafe")


@cache
def make_shares(side: int, size: int) -> NDArray[np.float32]:
    """Returns (P, Q): the share of each of Q old pixels in each of P new ones, with P / Q = size / side."""
    divisor = math.gcd(side, size)
    before, after = side // divisor, size // divisor
    edges = np.arange(after + 1) * before / after  # of the new pixels, in old ones
    pixels = np.arange(before)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * after / before).astype(np.float32)
