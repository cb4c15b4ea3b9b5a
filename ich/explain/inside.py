"""Where a heat map may show evidence: within the skull for a hemorrhage, within the head for other labels.

The cells of a map are 10 to 20 mm wide. The cell of a bleed at the skull reaches into the scalp, and its
middle may lie there. An intracranial hemorrhage does not, so the map and its peak stay within the skull.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.brain import GRID, find_brain
from ich.image.head import find_head
from ich.schema import LABELS

_MOST_LOST = 0.5  # share of a map's peak: if more is cut off, the map says little about what lies inside


def find_inside(hu: NDArray[np.int16], label: str) -> NDArray[np.bool_]:
    """Finds where the evidence for a label may lie.

    Args:
        hu: (Rows, Columns) HU.
        label: One of the RSNA's, which are hemorrhages within the skull, or another one.

    Returns:
        (Rows, Columns) True within the skull for a hemorrhage, if the slice shows the brain, or else within
        the head.
    """
    head = find_head(hu)
    if label not in LABELS:
        return head
    brain = find_brain(hu).astype(np.float32)
    width = 2 * (max(hu.shape) // GRID) + 1  # the brain was found on a coarser grid, so its edge has steps
    within: NDArray[np.bool_] = head & (cv2.blur(brain, (width, width)) > 0.5)
    return within if within.any() else head


def end_inside(heat: NDArray[np.float32], inside: NDArray[np.bool_]) -> tuple[NDArray[np.float32], bool]:
    """Ends a heat map where evidence may no longer lie.

    Args:
        heat: (Rows, Columns) from 0 to 1.
        inside: (Rows, Columns) from ``find_inside``.

    Returns:
        The map, 0 outside and 1 at its peak inside; and whether most of the evidence lay outside: inside, the
        map stayed below half of its peak. A map has a coarse grid, so a peak just outside says little.
    """
    ended = np.zeros_like(heat)
    ended[inside] = heat[inside]
    peak = float(ended.max())
    strays = peak < _MOST_LOST * float(heat.max())
    if peak:
        ended /= peak
    return ended, strays
