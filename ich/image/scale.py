"""Shifts the Hounsfield units of a slice so that its brain has its usual value.

A scanner may be off by tens of HU, as much as blood differs from brain. A window then cuts off what it should
show. The most frequent value of soft tissue in a head is that of the brain, on any scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ich.schema.hu import USUAL_BRAIN

SOUGHT = (-30, 110)
"""Range of HU in which the brain is sought: its usual value, off by 20 HU and by 10 % about water."""

HALF_WIDTH = 15  # HU: gray and white matter with the noise of a usual slice, without fluid and blood
LEAST_TISSUE = 0.02  # of all pixels: less is not enough brain to know its value
MOST_SHIFT = 30  # HU: what is further off is another tissue, or not on the HU scale
STEPS = 8  # of the mean shift, which ends after four or five


def align_hu(planes: NDArray[np.int16]) -> NDArray[np.int16]:
    """Shifts a slice and its neighbors so that their brain has ``USUAL_BRAIN``.

    Args:
        planes: (P, S, S) HU.

    Returns:
        (P, S, S). It is ``planes`` if they show too little soft tissue.
    """
    shift = find_shift(planes)
    if shift == 0:
        return planes
    limits = np.iinfo(np.int16)
    return np.clip(planes, limits.min + MOST_SHIFT, limits.max - MOST_SHIFT) + np.int16(shift)


def find_shift(planes: NDArray[np.int16]) -> int:
    """Finds how far the brain lies below its usual value, in HU, at most ``MOST_SHIFT``.

    It starts at the densest interval of ``HALF_WIDTH`` on either side, and follows its mean (mean shift;
    Fukunaga and Hostetler, IEEE Trans Inf Theory 1975).

    Args:
        planes: HU of any shape.

    Returns:
        What has to be added; 0 without enough soft tissue.
    """
    low, high = SOUGHT
    tissue = planes[(planes >= low) & (planes <= high)]
    counts = np.bincount(tissue.ravel() - np.int16(low), minlength=high - low + 1)
    values = np.arange(low, high + 1)
    within = np.convolve(counts, np.ones(2 * HALF_WIDTH + 1, int), mode="same")
    if within.max() < max(1, LEAST_TISSUE * planes.size):
        return 0
    center = float(values[within.argmax()])
    for _ in range(STEPS):
        near = np.abs(values - center) <= HALF_WIDTH
        center = float(np.average(values[near], weights=counts[near]))
    return int(np.clip(np.rint(USUAL_BRAIN - center), -MOST_SHIFT, MOST_SHIFT))
