"""How slices store their pixels. A data set has only a few encodings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.rescale import Rescale


class Encoding(NamedTuple):
    """The type of stored values and their conversion to HU."""

    bits: int
    signed: bool
    slope: float
    intercept: float

    def __str__(self) -> str:
        slope = "" if self.slope == 1 else f", slope {self.slope:g}"
        return (
            f"{self.bits} bit {'signed' if self.signed else 'unsigned'}{slope}, intercept {self.intercept:g}"
        )

    @property
    def wraps(self) -> bool:
        """Whether values were shifted and wrapped; reading corrects this."""
        return Rescale(self.bits, self.signed, self.slope, self.intercept, None).wraps

    def to_stored(self, low: float, high: float) -> tuple[float, float]:
        """Returns the stored values of a range of HU, the lowest first; the inverse of PS3.3 C.11.1.1.2.

        If the wrap divides the range (``Rescale.wraps``), it returns the upper part.
        """
        if not self.wraps:
            first, last = ((hu - self.intercept) / self.slope for hu in (low, high))
            return min(first, last), max(first, last)
        first, last = (((hu + 1000) / self.slope - 1000) % 4096 for hu in (low, high))
        return (first if first <= last else 0.0), last


def list_encodings(table: pd.DataFrame) -> tuple[NDArray[np.int64], list[Encoding]]:
    """Lists the encodings of an index, the most frequent first.

    Returns:
        (slices,) number of each slice's encoding, and the encodings.
    """
    columns = ["BitsStored", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"]
    groups = table.groupby(columns, sort=True, dropna=False)
    numbers = groups.ngroup().to_numpy()
    order = np.argsort(-np.bincount(numbers), kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    keys = list(groups.size().index)
    encodings = [
        Encoding(int(bits), sign == 1, float(slope), float(intercept))
        for bits, sign, slope, intercept in (keys[number] for number in order)
    ]
    return places[numbers], encodings
