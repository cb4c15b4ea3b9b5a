"""Panels that fit a phone and a printed page: two in a row, each with a title, readable without color."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ich.evaluate.figures import Estimate
from ich.report.figures import OKABE_ITO, SMALL, TINY, WIDTH

BLUE, GREEN, RED = OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[5]
_PANEL_HEIGHT = 2.05  # inches


def draw_panels(
    names: Collection[str], draw: Callable[[Axes, str], None], xlabel: str, ylabel: str
) -> Figure:
    """Draws a panel for each name, two in a row; axis labels appear once per column and row.

    Raises:
        ValueError: If there is no name.
    """
    columns, rows = min(2, len(names)), math.ceil(len(names) / 2)
    height = _PANEL_HEIGHT * rows if columns == 2 else 1.4 * _PANEL_HEIGHT
    figure = Figure(figsize=(WIDTH, height + 0.4), layout=ConstrainedLayoutEngine(h_pad=0.06))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        draw(axes, name)
        tidy(axes)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for number, axes in enumerate(panels[: len(names)]):
        if number % columns == 0:
            axes.set_ylabel(ylabel, fontsize=SMALL)
        if number + columns >= len(names):
            axes.set_xlabel(xlabel, fontsize=SMALL)
    return figure


def set_title(axes: Axes, name: str, figure: str) -> None:
    """Writes the name of a panel, and its figure on a line below."""
    # Nothing stands above a panel that a title would have to give way to: y spares looking for it.
    axes.set_title(f"{name}\n{figure}" if figure else name, loc="left", fontsize=SMALL + 0.5, y=1)


def set_unit_axes(axes: Axes) -> None:
    """Lets both axes run from 0 to 1."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))


def tidy(axes: Axes) -> None:
    """Removes what is not needed."""
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def draw_legend(axes: Axes, place: Literal["upper left", "upper right"]) -> None:
    """Draws a small legend within a panel, if it is not empty."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, fontsize=TINY, frameon=False, borderpad=0, labelspacing=0.2)


def set_reach(axes: Axes, estimates: Sequence[Estimate], reference: float = math.nan) -> None:
    """Fits an axis of figures within [0, 1] to their intervals, without empty space."""
    ends = [reference, *(end for e in estimates for end in (e.value, e.low))]
    axes.set_xlim(min([0.5, *(end for end in ends if not math.isnan(end))]) - 0.03, 1.03)


def draw_intervals(
    axes: Axes, estimates: Sequence[Estimate], rows: NDArray[np.float64], marker: str, color: str, name: str
) -> None:
    """Draws the available estimates as points with horizontal intervals."""
    known = np.array([not math.isnan(each.value) for each in estimates])
    if not known.any():
        return
    value, low, high = np.array([(e.value, e.low, e.high) for e in estimates]).T
    reach = np.nan_to_num([np.maximum(value - low, 0), np.maximum(high - value, 0)])
    axes.errorbar(
        value[known],
        rows[known],
        xerr=reach[:, known],
        fmt=marker,
        color=color,
        markersize=4.5,
        capsize=2,
        lw=1.2,
        label=name,
    )
