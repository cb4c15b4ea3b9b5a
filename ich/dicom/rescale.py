"""Stored values to Hounsfield units."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ich.schema import AIR_HU

MOST_HU = np.iinfo(np.int16).max

Stored = NDArray[np.integer[Any]]


class Rescale(NamedTuple):
    """What turns the stored values of a slice into HU."""

    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    padding: tuple[int, int] | None  # lowest and highest stored value that are padding

    @property
    def wraps(self) -> bool:
        """Whether this is the quirk of the RSNA set: shifted by 1000 and wrapped at 4096."""
        return self.bits_stored == 12 and not self.signed and self.intercept > -100

    @property
    def is_shift(self) -> bool:
        """Whether HU are stored values plus a whole number of 16 bits."""
        return self.slope == 1 and self.intercept.is_integer() and abs(self.intercept) <= MOST_HU


def to_hu(stored: Stored, rescale: Rescale) -> NDArray[np.int16]:
    """Rescales (PS3.3 C.11.1.1.2), rounds to the nearest HU and saturates; padding becomes -1024 HU.

    Args:
        stored: Stored values of 8 or 16 bits, signed as ``rescale`` says, none beyond ``bits_stored``. An
            array of 16 bits that can be written to is written over.
        rescale: Of the slice.

    Returns:
        HU from -1024 to 32767, of the same shape; of 16 bits in the memory of ``stored``, where that can be.
    """
    mask = _find_padding(stored, rescale)
    if stored.itemsize == 2 and rescale.is_shift:
        hu = _shift(stored if stored.flags.writeable else stored.copy(), rescale)
    else:
        hu = _scale(stored, rescale)
    if mask is not None:
        hu[mask] = AIR_HU
    return hu


def clear_unused_bits(stored: Stored, bits_stored: int) -> None:
    """Clears the bits beyond ``bits_stored``, or has them hold the sign (PS3.5 8.1.1), in place."""
    unused = 8 * stored.itemsize - bits_stored
    if not unused:
        return
    signed = stored.dtype.kind == "i"
    most = (1 << (bits_stored - signed)) - 1
    # Nearly always there is nothing to clear, and to look takes a fraction of the time.
    if stored.max() <= most and (not signed or stored.min() >= -most - 1):
        return
    np.left_shift(stored, unused, out=stored)
    np.right_shift(stored, unused, out=stored)


def _find_padding(stored: Stored, rescale: Rescale) -> NDArray[np.bool_] | None:
    """Where padding is that does not fall to -1024 HU by itself."""
    if rescale.padding is None:
        return None
    low, high = rescale.padding
    if rescale.is_shift and not rescale.wraps and high + rescale.intercept <= AIR_HU:
        return None
    mask: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return mask


def _shift(stored: Stored, rescale: Rescale) -> NDArray[np.int16]:
    """Adds the intercept in 16 bits: what would leave them is clipped before."""
    shift = int(rescale.intercept)
    if rescale.wraps:
        np.add(stored, 1000, out=stored)
        np.bitwise_and(stored, 4095, out=stored)
        shift = -1000
    bits, type_limits = rescale.bits_stored - rescale.signed, np.iinfo(stored.dtype)
    least, most = (-(1 << bits) if rescale.signed else 0), (1 << bits) - 1
    low, high = AIR_HU - shift, MOST_HU - shift
    if least < low or most > high:
        bounds = np.array([max(low, type_limits.min), min(high, type_limits.max)], stored.dtype)
        np.clip(stored, bounds[0], bounds[1], out=stored)  # Python's numbers would take eight times as long
    hu = stored.view(np.int16)  # unsigned and signed 16 bits add alike
    if shift:
        np.add(hu, np.int16(shift), out=hu)
    return hu


def _scale(stored: Stored, rescale: Rescale) -> NDArray[np.int16]:
    values = stored.astype(np.float64)
    intercept = rescale.intercept
    if rescale.wraps:
        values += 1000
        values[values >= 4096] -= 4096
        intercept = -1000.0
    values *= rescale.slope
    values += intercept
    np.rint(values, out=values)
    return np.clip(values, AIR_HU, MOST_HU, out=values).astype(np.int16)
