"""Shifts the Hounsfield units of a slice so that its brain has one value.

A scanner may be off by tens of HU, as much as blood differs from brain. A window then cuts off what it should
show. The most frequent value of soft tissue in a head is that of the brain, on any scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SOUGHT = (-30, 110)
"""Range of HU in which the brain is sought: its usual value, off by 20 HU and by 10 % about water."""

HALF_WIDTH = 15  # HU: gray and white matter with the noise of a usual slice, without fluid and blood
LEAST_TISSUE = 0.02  # of all pixels: less is not enough brain to know its value
MOST_SHIFT = 30  # HU: what is further off is another tissue, or not on the HU scale
STEPS = 8  # of the mean shift, which ends after four or five


def shift_brain(planes: NDArray[np.int16], brain_hu: float) -> NDArray[np.int16]:
    """Shifts a slice and its neighbors so that their brain has a value.

    Args:
        planes: (P, S, S) HU.
        brain_hu: The value in HU.

    Returns:
        (P, S, S). It is ``planes`` if they show too little soft tissue.
    """
    found = find_brain_hu(planes)
    if found is None:
        return planes
    shift = np.int16(np.clip(np.rint(brain_hu - found), -MOST_SHIFT, MOST_SHIFT))
    limits = np.iinfo(np.int16)
    return np.clip(planes, limits.min + MOST_SHIFT, limits.max - MOST_SHIFT) + shift


def find_brain_hu(planes: NDArray[np.int16]) -> float | None:
    """Finds the most frequent value of soft tissue.

    It starts at the densest interval of ``HALF_WIDTH`` on either side, and follows its mean (mean shift;
    Fukunaga and Hostetler, IEEE Trans Inf Theory 1975).

    Args:
        planes: HU of any shape.

    Returns:
        The value in HU; None without enough soft tissue.
    """
    low, high = SOUGHT
    tissue = planes[(planes >= low) & (planes <= high)]
    counts = np.bincount(tissue - np.int16(low), minlength=high - low + 1)
    values = np.arange(low, high + 1)
    within = np.convolve(counts, np.ones(2 * HALF_WIDTH + 1, int), mode="same")
    if within.max() < max(1, LEAST_TISSUE * planes.size):
        return None
    center = float(values[within.argmax()])
    for _ in range(STEPS):
        near = np.abs(values - center) <= HALF_WIDTH
        center = float(np.average(values[near], weights=counts[near]))
    return center
