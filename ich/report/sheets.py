"""Sheets of slices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ich.report.figures import draw_slice, hide_axis

SIDE = 1.5  # inches of an image: four in a row are 90 pixels each on a phone
FONT = 9.5  # points
LINE = 0.17  # inches of a line of a title
GAP = 0.07  # inches around a title, and between images side by side


def draw_contact_sheet(
    slices: Sequence[NDArray[np.int16]], windows: Sequence[str], titles: Sequence[str], columns: int = 4
) -> Figure:
    """Draws slices in rows, each with its title, white on black.

    Args:
        slices: N slices of (Rows, Columns) HU, each of its own size.
        windows: N windows from ``ich.schema.WINDOWS``, one per slice.
        titles: N titles.
        columns: Number of slices in a row.

    Raises:
        ValueError: If there are no slices, or not one window and title per slice.
    """
    if not len(slices) or any(hu.ndim != 2 for hu in slices):
        raise ValueError(f"slices {[hu.shape for hu in slices]}: expected (Rows, Columns) each")
    if not len(slices) == len(windows) == len(titles) or columns < 1:
        raise ValueError(
            f"{len(slices)} slices, {len(windows)} windows, {len(titles)} titles, {columns} columns: "
            "expected one window and one title per slice"
        )
    rows = math.ceil(len(slices) / columns)
    image = SIDE * max(hu.shape[0] / hu.shape[1] for hu in slices)  # inches
    title = LINE * max(title.count("\n") + 1 for title in titles) + 2 * GAP
    height = rows * (title + image)
    figure = Figure(figsize=(SIDE * columns, height), facecolor="black")
    figure.subplots_adjust(0, 0, 1, 1 - title / height, wspace=GAP / SIDE, hspace=title / image)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        hide_axis(axes)
    for axes, hu, window, text in zip(panels, slices, windows, titles, strict=False):
        draw_slice(axes, hu, window)
        axes.set_title(text, color="white", fontsize=FONT, pad=72 * GAP)
    return figure
