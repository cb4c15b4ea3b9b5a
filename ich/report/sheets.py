"""Sheets of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ich.report.figures import write_png


def draw_contact_sheet(images: np.ndarray, titles: Sequence[str], columns: int = 6) -> Figure:
    """Draws slices in rows, each with its title, white on black.

    Args:
        images: (N, H, W) grey values in [0, 1].
        titles: N titles.
        columns: Slices in a row.

    Raises:
        ValueError: If there are no images, or not one title an image.
    """
    if images.ndim != 3 or not len(images) or len(titles) != len(images) or columns < 1:
        raise ValueError(
            f"images {images.shape}, {len(titles)} titles, {columns} columns: "
            "expected (N, H, W), N of them, 1 or more"
        )
    rows = math.ceil(len(images) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    height = 1.7 * images.shape[1] / images.shape[2] + 0.25  # inches, the title included
    figure = Figure(figsize=(1.7 * columns, height * rows), layout=layout, facecolor="black")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, title in zip(panels, images, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, color="white", fontsize=8, pad=3)
    return figure


def write_contact_sheet(
    images: np.ndarray, titles: Sequence[str], path: str | Path, columns: int = 6
) -> None:
    """Writes slices as one PNG file; see ``draw_contact_sheet``.

    Args:
        images: (N, H, W) grey values in [0, 1].
        titles: N titles.
        path: The picture.
        columns: Slices in a row.
    """
    write_png(draw_contact_sheet(images, titles, columns), path, dpi=150)
