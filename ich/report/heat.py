"""Draws a heat map over a picture of its slice, readable without color."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

CONTOURS = {0.25: ":", 0.5: "--", 0.75: "-"}
"""Shares of the peak, and the style of the line drawn there."""


def lay_heat(axes: Axes, heat: NDArray[np.float32], *, aspect: float = 1.0, width: float = 1.1) -> AxesImage:
    """Draws a heat map over a picture, with lines at ``CONTOURS`` and a cross at its peak.

    Args:
        axes: Axes that show the picture, with the rows and columns of the map.
        heat: (Rows, Columns) in [0, 1]; where it is 0, the picture does not change.
        aspect: Height of a pixel divided by its width.
        width: Width of the lines, points.

    Returns:
        The drawn map, for a color bar.
    """
    alpha = 0.65 * np.sqrt(np.clip(heat, 0, 1))
    laid = axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=alpha, aspect=aspect)
    lines = {share: line for share, line in CONTOURS.items() if heat.min() < share < heat.max()}
    for color, wide in (("black", 2 * width), ("white", width)):
        if lines:
            styles = "-" if color == "black" else list(lines.values())
            axes.contour(heat, levels=list(lines), colors=color, linewidths=wide, linestyles=styles)
        if heat.max() > 0:
            row, column = np.unravel_index(int(heat.argmax()), heat.shape)
            size = 8 * width
            axes.plot(column, row, "+", color=color, markersize=size, markeredgewidth=1.3 * wide)
    return laid
