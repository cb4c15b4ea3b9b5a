"""Draws a heat map over its slice."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ich.report.figures import draw_slice
from ich.report.heat import CONTOURS, lay_heat
from ich.report.sides import mark_sides
from ich.schema import DISCLAIMER


def draw_heat(
    hu: NDArray[np.int16],
    heat: NDArray[np.float32],
    title: str,
    *,
    window: str = "brain",
    spacing: tuple[float, float] = (1.0, 1.0),
    in_lps: bool = False,
) -> Figure:
    """Draws a slice, and beside it the same slice under its heat map.

    Args:
        hu: (Rows, Columns) HU.
        heat: (Rows, Columns) in [0, 1].
        title: Title above the slice.
        window: One of ``WINDOWS``.
        spacing: Distance between rows and between columns, mm.
        in_lps: Whether the slice lies in LPS, so that its sides are marked.

    Returns:
        Two panels, with lines at ``CONTOURS``, a cross at the peak and the disclaimer.
    """
    height = 4.2 * hu.shape[0] * spacing[0] / (hu.shape[1] * spacing[1]) + 1.0  # inches, the texts included
    figure = Figure(figsize=(9.6, min(height, 20.0)), layout="constrained")
    figure.suptitle(title, fontsize=12)
    bare, covered = figure.subplots(1, 2)
    for axes in (bare, covered):
        draw_slice(axes, hu, window, spacing[0] / spacing[1])
        if in_lps:
            mark_sides(axes)
    picture = lay_heat(covered, heat, aspect=spacing[0] / spacing[1])
    colors = mpl.cm.ScalarMappable(picture.norm, "inferno")
    bar = figure.colorbar(colors, ax=covered, shrink=0.8, label="share of the slice's peak")
    for share, line in CONTOURS.items():
        bar.ax.axhline(share, color="white", linestyle=line)
    bare.set_title(f"{window} window", fontsize=9, y=1)
    covered.set_title(
        "evidence for the label; + its peak" if heat.max() > 0 else "no evidence for the label",
        fontsize=9,
        y=1,
    )
    figure.supxlabel(f"{DISCLAIMER}.", fontsize=9)
    return figure
