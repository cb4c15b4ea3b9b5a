"""The figures of a page about a data set, narrow enough for a phone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ich.explore.sample import MATERIALS, MOST_ENCODINGS, Histogram, Material, Sample
from ich.explore.units import LEVELS, LabelCounts
from ich.index.encodings import Encoding
from ich.report.figures import OKABE_ITO, encode_png
from ich.tables import PLURALS

WIDTH = 6.0  # inches
FONT = 11.5  # points: 9 pixels where the figure is as wide as a phone
SMALL = 10.5
INK, SOFT = OKABE_ITO[0], "0.45"
_BINS = 160
_LETTER, _SPACE = 0.0145, 0.03  # share of a panel's width
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def _draw(height: float, draw: Callable[[Figure], None]) -> bytes:
    with mpl.rc_context({"font.size": FONT, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure)
        return encode_png(figure)


def _draw_counts(
    axes: Axes, values: NDArray[np.float64], title: str, unit: str, *, whole: bool = False
) -> None:
    """Draws a histogram of header values; whole numbers get half a unit on either side."""
    axes.set_title(title, loc="left", fontsize=FONT)
    axes.set_xlabel(unit)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    values = values[np.isfinite(values)]
    if not len(values):
        axes.text(0.5, 0.5, "not given", transform=axes.transAxes, ha="center", color=SOFT)
        return
    low, high = float(values.min()), float(values.max())
    if whole:
        step = max(1, int(np.ceil((high - low + 1) / 40)))
        edges = np.arange(low - 0.5, high + step + 0.5, step)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        margin = max(0.02 * abs(high), 0.05) if high - low < 1e-6 else 0.0
        edges = np.linspace(low - margin, high + margin, 42)  # of 41 bins, so that there is one in the middle
    axes.hist(values, edges.tolist(), color=INK, edgecolor="white", linewidth=0.4)


def draw_series_sizes(series: pd.DataFrame) -> bytes:
    """Draws the number of slices per series."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _draw_counts(axes, series["slices"].to_numpy(np.float64), "Slices per series", "slices", whole=True)
        axes.set_ylabel("series")

    return _draw(3.2, draw)


def draw_geometry(table: pd.DataFrame, series: pd.DataFrame) -> bytes:
    """Draws the pixel spacing of slices, the steps and the tilt of series."""

    def draw(figure: Figure) -> None:
        spacing, step, tilt = figure.subplots(3, 1)
        _draw_counts(spacing, table["row_spacing"].to_numpy(), "Pixel size", "mm")
        spacing.set_ylabel("slices")
        _draw_counts(step, series["step"].to_numpy(), "Step from slice to slice, median per series", "mm")
        _draw_counts(tilt, series["tilt"].to_numpy(), "Tilt of the slices, median per series", "degrees")
        for axes in (step, tilt):
            axes.set_ylabel("series")

    return _draw(7.5, draw)


def draw_labels(counts: dict[str, LabelCounts]) -> bytes:
    """Draws the numbers of slices, studies and patients with each label."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = counts["slice"].labels.names
        hatches = dict(zip(LEVELS, ("", "///", "..."), strict=True))
        most = 0.0
        for place, level in enumerate(LEVELS):
            count = counts[level]
            known = np.maximum(count.positive + count.negative, 1)
            share = 100 * count.positive / known
            most = max(most, float(share.max()))
            y = np.arange(len(names)) + 0.27 * (place - 1)
            axes.barh(
                y,
                share,
                height=0.25,
                label=PLURALS[level],
                color=OKABE_ITO[place],
                hatch=hatches[level],
                edgecolor="white" if place == 0 else "black",
                linewidth=0.5,
            )
            for at, width, positive in zip(y, share, count.positive, strict=True):
                axes.text(width, at, f" {positive:,}", va="center", fontsize=SMALL)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1.0, 1.18 * most))
        axes.set_xlabel("% of those with a known label")
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=len(LEVELS), frameon=False)

    return _draw(6.2, draw)


def draw_together(counts: LabelCounts) -> bytes:
    """Draws how many units have both of two labels; darker means a larger share of the row."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        names = counts.labels.names
        share = counts.together / np.maximum(np.diag(counts.together)[:, None], 1)
        axes.imshow(share, cmap="Greys", vmin=0, vmax=1.3)
        for row in range(len(names)):
            for column in range(len(names)):
                axes.text(
                    column,
                    row,
                    _shorten(int(counts.together[row, column])),
                    ha="center",
                    va="center",
                    fontsize=SMALL,
                    fontweight="bold" if row == column else "normal",
                    color="white" if share[row, column] > 0.75 else "black",
                )
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="0.75")
        axes.tick_params(which="both", length=0)

    return _draw(5.6, draw)


def _shorten(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f} k"


def name_encodings(encodings: Sequence[Encoding], numbers: Sequence[int]) -> list[str]:
    """Names encodings by number, and the rare ones together."""
    return [
        str(encodings[number])
        if number < MOST_ENCODINGS
        else f"rarer encodings ({len(encodings) - MOST_ENCODINGS})"
        for number in numbers
    ]


def draw_stored(sample: Sample, encodings: Sequence[Encoding]) -> bytes:
    """Draws the distribution of stored values, one panel per encoding, with the ranges of materials."""
    numbers = sorted(sample.stored)
    extent = [sample.stored[number].find_quantile(share) for number in numbers for share in (0.0005, 0.9995)]
    for encoding in (encodings[number] for number in numbers if number < MOST_ENCODINGS):
        extent += [int(value) for value in encoding.to_stored(*MATERIALS[0][1:]) if abs(value) < 1 << 16]
    low, high = min(extent) - 50, max(extent) + 50

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(numbers), 1, sharex=True, squeeze=False).ravel()
        for axes, number, name in zip(panels, numbers, name_encodings(encodings, numbers), strict=True):
            axes.set_title(name, loc="left", fontsize=FONT, pad=26, y=1)
            _draw_shares(axes, sample.stored[number], low, high)
            if number < MOST_ENCODINGS:
                to_stored = encodings[number].to_stored
                ranges = [Material(name, *to_stored(*limits)) for name, *limits in MATERIALS]
                _mark(axes, ranges, low, high)
        panels[-1].set_xlabel("stored value")
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6))

    return _draw(0.5 + 2.5 * len(numbers), draw)


def draw_hu(sample: Sample, encodings: Sequence[Encoding]) -> bytes:
    """Draws the distribution of HU, one line per encoding: of all HU, and from water to blood."""
    numbers = sorted(sample.hu)
    high = max(200, min(3000, max(sample.hu[number].find_quantile(0.9995) for number in numbers)))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(2, 1)
        both = (("All HU", -1100, high), ("From water to blood", -60, 130))
        for axes, (title, low, most) in zip(panels, both, strict=True):
            axes.set_title(title, loc="left", fontsize=FONT, pad=26, y=1)
            for place, number in enumerate(numbers):
                _draw_shares(axes, sample.hu[number], low, most, place)
            _mark(axes, MATERIALS, low, most)
        panels[-1].set_xlabel("HU")
        figure.legend(
            panels[0].lines[: len(numbers)],
            name_encodings(encodings, numbers),
            loc="outside lower center",
            frameon=False,
            fontsize=SMALL,
        )

    return _draw(6.4 + 0.25 * len(numbers), draw)


def _draw_shares(axes: Axes, histogram: Histogram, low: int, high: int, place: int = 0) -> None:
    """Draws the share of pixels by value, in bins as wide as a line of the picture."""
    width = max(1, (high - low) // _BINS)
    edges, shares = histogram.bin(low, high, width)
    values = np.where(shares > 0, 100 * shares / width, np.nan)
    axes.plot(
        edges[:-1] + 0.5 * (width - 1),
        values,
        color=OKABE_ITO[place] if place else "black",
        linestyle=_STYLES[place],
        linewidth=1.6,
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g} %")
    axes.set_ylabel("pixels per value")
    axes.set_xlim(low, high)


def _mark(axes: Axes, materials: Sequence[Material], low: float, high: float) -> None:
    """Draws bands for the materials, with names above the panel."""
    shown = [m for m in materials if m.high >= low and m.low <= high]
    middles = []
    for material in shown:
        left, right = max(material.low, low), min(material.high, high)
        axes.axvspan(left, right, color="0.8", alpha=0.6, linewidth=0)
        middles.append((0.5 * (left + right) - low) / (high - low))
    order = np.argsort(middles)
    names = [shown[number].name for number in order]
    ends = [middles[number] for number in order]
    for name, place, end in zip(
        names, _part(ends, [_LETTER * len(name) for name in names]), ends, strict=True
    ):
        axes.annotate(
            name,
            xy=(end, 1.0),
            xycoords="axes fraction",
            xytext=(place, 1.07),
            textcoords="axes fraction",
            ha="center",
            fontsize=SMALL,
            arrowprops={"arrowstyle": "-", "color": "0.4", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )


def _part(middles: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Moves overlapping items apart, in their order: each pair by half, until all have room."""
    places = list(middles)
    for _ in range(100):
        for one in range(len(places) - 1):
            lacking = 0.5 * (widths[one] + widths[one + 1]) + _SPACE - (places[one + 1] - places[one])
            if lacking > 1e-4:
                places[one] -= 0.5 * lacking
                places[one + 1] += 0.5 * lacking
    return places
