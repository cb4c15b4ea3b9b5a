"""The pictures of a multirun."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ich.report.figures import OKABE_ITO, SMALL, WIDTH, encode_png
from ich.sweeps.ranking import VALUE, list_settings

_MOST_TICKS = 8
_LONGEST = 14  # characters of a value at an axis


def draw_importance(importance: Mapping[str, float]) -> bytes:
    """Draws the share that each setting explains, as bars; returns a PNG."""
    names = list(importance)[::-1]
    with mpl.rc_context({"font.size": SMALL, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH, 0.6 + 0.35 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.barh(names, [importance[name] for name in names], color=OKABE_ITO[0])
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the variance of the metric")
        return encode_png(figure)


def draw_parallel(table: pd.DataFrame, monitor: str) -> bytes:
    """Draws each job as a line through its settings to its metric; returns a PNG.

    Args:
        table: From ``make_table``; at least two jobs are done.
        monitor: Name of the metric.
    """
    done = table[table[VALUE].notna()].iloc[::-1]  # the best lies on top
    settings = list_settings(table)
    columns = {name: _place(done[name]) for name in settings}
    low, high = done[VALUE].min(), done[VALUE].max()
    heights = (done[VALUE].to_numpy() - low) / max(high - low, 1e-12)
    lines = np.column_stack([*(heights_of for heights_of, _ in columns.values()), heights])
    with mpl.rc_context({"font.size": SMALL}):
        figure = Figure(figsize=(max(WIDTH, 1.3 * len(settings) + 1.3), 3.4), layout="constrained")
        axes = figure.subplots()
        colors = mpl.colormaps["viridis"](heights)
        for line, color in zip(lines, colors, strict=True):
            axes.plot(range(lines.shape[1]), line, color=color, alpha=0.8, linewidth=1.6)
        for place, (_, ticks) in enumerate(columns.values()):
            axes.axvline(place, color="0.8", linewidth=0.8, zorder=0)
            for height, text in ticks:
                axes.text(place + 0.03, height, text, fontsize=SMALL - 1, va="center")
        axes.axvline(len(settings), color="0.8", linewidth=0.8, zorder=0)
        for height, value in ((0, low), (1, high)):
            axes.text(len(settings) + 0.03, height, f"{value:.4g}", fontsize=SMALL - 1, va="center")
        axes.set_xticks(range(lines.shape[1]), [*settings, monitor], rotation=15, ha="right")
        axes.set_xlim(-0.1, len(settings) + 0.4)
        axes.set_yticks([])
        axes.set_frame_on(False)
        return encode_png(figure)


def _place(values: pd.Series[str]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Returns heights from 0 to 1 of the values, numbers by size, and the texts at the axis."""
    distinct = sorted(set(values), key=_order)
    step = 1 / max(len(distinct) - 1, 1)
    heights = {value: place * step for place, value in enumerate(distinct)}
    shown = distinct[:: -(-len(distinct) // _MOST_TICKS)]
    ticks = [(heights[value], value[:_LONGEST] or "default") for value in shown]
    return values.map(heights).to_numpy(float), ticks


def _order(value: str) -> tuple[int, float, str]:
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value
