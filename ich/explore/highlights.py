"""What stands out in a data set, for the top of its page: three things at most, each with a chart."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from ich.explore.remark import Rank, Remark
from ich.report.document import Block, Details, Highlight, Listing, Picture, Text
from ich.report.figures import OKABE_ITO, encode_png

MOST = 3
"""Number of highlights. They are the first of ``list_remarks``: the worst, then the most frequent."""

NAMES = tuple(f"stands_out_{number}" for number in range(1, MOST + 1))
"""Names of their pictures."""

_WIDTH, _ROW, _FONT = 4.2, 0.52, 11.5  # inches, inches, points: a card is as wide as a phone


def make_highlights(remarks: Sequence[Remark]) -> list[Block]:
    """Makes the section of what stands out: the highlights, then the other remarks as details."""
    first = [remark for remark in remarks if remark.rank < Rank.INFORMS][:MOST]
    others = [remark.text for remark in remarks if remark not in first]
    blocks: list[Block] = [
        Highlight(remark.title, remark.text, _draw_chart(name, remark), remark.section)
        for name, remark in zip(NAMES, first, strict=False)
    ]
    if not first:
        blocks.append(Text("Nothing stands out.", strong=True))
    if others:
        blocks.append(Details(f"Other remarks ({len(others)})", [Listing(others)]))
    return blocks


def _draw_chart(name: str, remark: Remark) -> Picture:
    numbers = ", ".join(f"{each} {_show(value)}" for each, value in remark.bars.items())
    alt = f"Bar chart, {remark.unit}: {numbers}"
    with mpl.rc_context({"font.size": _FONT}):
        figure = draw_bars(remark)
        return Picture(name, encode_png(figure), f"{remark.title}: {remark.unit}.", alt)


def draw_bars(remark: Remark) -> Figure:
    """Draws a bar for each number of a remark, with its name above it, and its limit as a dashed line."""
    figure = Figure(figsize=(_WIDTH, 0.6 + _ROW * len(remark.bars)), layout="constrained")
    axes = figure.subplots()
    values, places = list(remark.bars.values()), np.arange(len(remark.bars))
    axes.barh(places, values, height=0.4, color=OKABE_ITO[0])
    for place, (name, value) in enumerate(remark.bars.items()):
        axes.text(0, place - 0.28, name, ha="left", va="bottom")
        axes.text(value, place, f" {_show(value)}", ha="left", va="center")
    most = max([*values, remark.limit or 0, 1e-9])
    if remark.limit is not None:
        axes.axvline(remark.limit, color="black", linestyle="--", linewidth=1.2)
        axes.text(remark.limit, len(places) - 0.62, f" {remark.limit:g}", ha="left", va="top")
    axes.set(xlim=(0, 1.2 * most), ylim=(len(places) - 0.3, -0.85), xlabel=remark.unit, yticks=[])
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _show(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
