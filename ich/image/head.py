"""Finds the head in a slice: the largest part that is denser than foam, with the air in it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.schema.hu import BODY


def find_head(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Finds the largest connected part of a slice that is denser than foam, with what it encloses.

    Args:
        hu: (Rows, Columns) HU.

    Returns:
        (Rows, Columns); all False if nothing is denser than foam.
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats((hu > BODY).view(np.uint8), connectivity=4)
    filled = np.zeros(hu.shape, np.uint8)
    if count > 1:
        largest = parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        outlines, _ = cv2.findContours(largest.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled.view(np.bool_)
