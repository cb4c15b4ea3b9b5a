"""Sheets of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ich.report.figures import hide_axis

SIDE = 1.5  # inches of an image: four in a row are 90 pixels each on a phone
FONT = 9.5  # points
LINE = 0.17  # inches of a line of a title


def draw_contact_sheet(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 4) -> Figure:
    """Draws slices in rows, each with its title, white on black.

    Args:
        images: N of (H, W), each of its own size, grey values in [0, 1].
        titles: N titles.
        columns: Slices in a row.

    Raises:
        ValueError: If there are no images, or not one title an image.
    """
    if not len(images) or any(image.ndim != 2 for image in images):
        raise ValueError(f"images {[image.shape for image in images]}: expected (H, W) each")
    if len(titles) != len(images) or columns < 1:
        raise ValueError(
            f"{len(images)} images, {len(titles)} titles, {columns} columns: expected a title an image"
        )
    rows = math.ceil(len(images) / columns)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    lines = max(title.count("\n") + 1 for title in titles)
    height = SIDE * tallest + LINE * lines + 0.1
    figure = Figure(figsize=(SIDE * columns, height * rows + 0.15), layout=layout, facecolor="black")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        hide_axis(axes)
    for axes, image, title in zip(panels, images, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, color="white", fontsize=FONT, pad=3)
    return figure
