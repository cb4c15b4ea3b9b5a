"""Heights of slices, from below the base of the head to its vertex, in steps as in real scans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ich.phantom.chances import Chances
from ich.phantom.head import CENTER_Z, Head

SHORT = (0.98, 3.75)
"""mm of a short step among others, as in RSNA 2019 series without a missing slice."""

COARSE = 10.0
"""mm, steps above the base in older protocols."""

Heights = NDArray[np.float64]


def sample_heights(
    rng: np.random.Generator, head: Head, gap: float, tilt: float, chances: Chances
) -> Heights:
    """Draws where slices lie.

    The lowest lies below the skull base, of one head in five in the neck; the highest from 11 mm below
    to 8 mm above the highest point of the skin.

    Args:
        rng: Source of randomness.
        head: The scanned head.
        gap: mm from slice to slice.
        tilt: Degrees of gantry tilt.
        chances: How often uneven steps appear.

    Returns:
        (S,) mm on the scanner's axis, rising, with equal ones where slices were scanned twice.
    """
    lean = np.deg2rad(tilt)  # the height at which such a plane touches an ellipsoid
    rise = float(np.hypot(head.half_length * np.sin(lean), head.height * np.cos(lean)) / np.cos(lean))
    top = head.scale * (CENTER_Z + rise + head.scalp) + rng.uniform(-11, 8)
    low = head.scale * (rng.uniform(-45, -18) if rng.random() < 0.8 else rng.uniform(-100, -45))
    steps = np.full(int((top - low) / gap), gap)
    is_fine, is_coarse, has_short, is_repeated = chances.draw(
        rng, "fine_base", "coarse_top", "short_step", "rescan"
    )
    if is_fine:
        steps = np.concatenate([np.full(2 * (len(steps) // 3), gap / 2), steps[len(steps) // 3 :]])
    elif is_coarse:
        half = len(steps) // 2
        steps = np.concatenate([steps[:half], np.full(int(steps[half:].sum() / COARSE), COARSE)])
    if has_short:
        places = rng.choice(len(steps), rng.integers(1, 3), replace=False)
        steps[places] = np.minimum(steps[places], rng.uniform(*SHORT, len(places)))
    heights = top - np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])
    if is_repeated:
        start = int(rng.integers(len(heights) - 4))
        heights = np.sort(np.concatenate([heights, heights[start : start + int(rng.integers(2, 5))]]))
    return np.asarray(heights, dtype=np.float64)
