"""The letters for the patient's right and left in a picture of a slice."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ich.schema import SIDES


def mark_sides(axes: Axes, size: float = 9.0) -> None:
    """Marks the sides of a slice in LPS, in the upper corners, where there is no head.

    Args:
        axes: Axes that show the picture.
        size: Size of the letters, points.
    """
    for place, letter in zip((0.02, 0.98), SIDES, strict=True):
        axes.text(
            place,
            0.98,
            letter,
            transform=axes.transAxes,
            horizontalalignment="left" if place < 0.5 else "right",
            verticalalignment="top",
            color="white",
            fontsize=size,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )
