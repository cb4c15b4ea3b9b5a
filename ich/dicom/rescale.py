"""Converts stored values to Hounsfield units."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ich.schema import AIR_HU
from ich.schema.hu import MOST_HU

Stored = NDArray[np.integer[Any]]


class Rescale(NamedTuple):
    """The conversion of the stored values of a slice to HU."""

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


class Shifted(NamedTuple):
    """HU minus a constant, which is added later to fewer values."""

    values: NDArray[np.int16]
    shift: int


def to_hu(stored: Stored, rescale: Rescale) -> NDArray[np.int16]:
    """Rescales (PS3.3 C.11.1.1.2), rounds to the nearest HU and saturates; padding becomes -1024 HU.

    Args:
        stored: Stored values of 8 or 16 bits, with the sign of ``rescale`` and at most ``bits_stored`` bits.
            A writable array of 16 bits is overwritten.
        rescale: The slice's rescale.

    Returns:
        HU from -1024 to 32767, of the same shape; in the memory of ``stored`` if possible.
    """
    values, shift = to_shifted(stored, rescale)
    return np.add(values, np.int16(shift), out=values) if shift else values


def to_shifted(stored: Stored, rescale: Rescale) -> Shifted:
    """Works like ``to_hu``, with a constant to add later."""
    mask = _find_padding(stored, rescale)
    if stored.itemsize == 2 and rescale.is_shift:
        values, shift = _shift(stored if stored.flags.writeable else stored.copy(), rescale)
    else:
        values, shift = _scale(stored, rescale), 0
    if mask is not None:
        values[mask] = AIR_HU - shift
    return Shifted(values, shift)


def clear_unused_bits(stored: Stored, bits_stored: int) -> None:
    """Clears the bits beyond ``bits_stored``, or fills them with the sign (PS3.5 8.1.1), in place."""
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
    """Finds padding that does not become -1024 HU by itself."""
    if rescale.padding is None:
        return None
    low, high = rescale.padding
    if rescale.is_shift and not rescale.wraps and high + rescale.intercept <= AIR_HU:
        return None
    mask: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return mask


class _Shift(NamedTuple):
    """Conversion of stored values of 16 bits to HU within 16 bits."""

    wraps: bool
    clip: tuple[Any, Any] | None  # lowest and highest stored value that is kept, of its type; None if all are
    now: Any  # np.int16, added at once
    later: int


@cache
def _plan_shift(rescale: Rescale) -> _Shift:
    shift = -1000 if rescale.wraps else int(rescale.intercept)
    dtype = np.dtype(np.int16 if rescale.signed else np.uint16)
    bits, type_limits = rescale.bits_stored - rescale.signed, np.iinfo(dtype)
    least, most = (-(1 << bits) if rescale.signed else 0), (1 << bits) - 1
    low, high = AIR_HU - shift, MOST_HU - shift
    clip = None
    if least < low or most > high:
        # Of the array's own type: with Python's numbers clipping takes eight times as long.
        clip = dtype.type(max(low, type_limits.min)), dtype.type(min(high, type_limits.max))
    fits = low >= np.iinfo(np.int16).min and min(most, high) <= MOST_HU  # before it is added, too
    now, later = (0, shift) if fits else (shift, 0)
    return _Shift(rescale.wraps, clip, np.int16(now), later)


def _shift(stored: Stored, rescale: Rescale) -> Shifted:
    """Converts the intercept to a number to add in 16 bits; values that would overflow are clipped before."""
    wraps, clip, now, later = _plan_shift(rescale)
    if wraps:
        np.add(stored, 1000, out=stored)
        np.bitwise_and(stored, 4095, out=stored)
    if clip is not None:
        np.clip(stored, *clip, out=stored)
    values = stored.view(np.int16)  # unsigned and signed 16 bits add alike
    if now:
        np.add(values, now, out=values)
    return Shifted(values, later)


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
