"""Pictures of an evaluation.

This module draws the pictures of one level, with one panel per given label. Leave out labels without a curve
or threshold, and mention them elsewhere. ``timelines`` draws the slices of studies in order, ``intervals``
draws figures with their intervals, and ``panels`` holds shared code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ich.evaluate.curves import Band, Curves, Reliability
from ich.evaluate.figures import LabelFigures, OperatingFigures
from ich.evaluation_report.pictures.panels import (
    BLUE,
    RED,
    draw_legend,
    draw_panels,
    set_title,
    set_unit_axes,
)
from ich.report.figures import SMALL
from ich.schema.shares import show_number, show_percent


def draw_roc(curves: Mapping[str, Curves], figures: Mapping[str, LabelFigures]) -> Figure:
    """Draws the true positive rate over the false positive rate, with band and operating point."""

    def draw(axes: Axes, label: str) -> None:
        point = figures[label].operating_point
        _draw_diagonal(axes)
        _draw_band(axes, curves[label].roc)
        _mark_point(axes, 1 - point.specificity.value, point.sensitivity.value)
        set_title(axes, label, f"AUROC {figures[label].auroc:.2f}")

    return draw_panels(curves, draw, "false positive rate", "true positive rate")


def draw_precision_recall(curves: Mapping[str, Curves], figures: Mapping[str, LabelFigures]) -> Figure:
    """Draws precision over recall, with band, operating point and, dotted, the prevalence.

    The average precision is written as AP, because the words are wider than a panel.
    """

    def draw(axes: Axes, label: str) -> None:
        point = figures[label].operating_point
        if not math.isnan(prevalence := figures[label].prevalence.value):
            axes.axhline(prevalence, color="0.5", linestyle=":", linewidth=1)
        _draw_band(axes, curves[label].precision_recall)
        _mark_point(axes, point.sensitivity.value, point.ppv.value)
        set_title(axes, label, f"AP {figures[label].average_precision:.2f}")

    return draw_panels(curves, draw, "recall", "precision")


def draw_reliability(curves: Mapping[str, Curves], figures: Mapping[str, LabelFigures]) -> Figure:
    """Draws the observed over the predicted share, before and after calibration."""

    def draw(axes: Axes, label: str) -> None:
        _draw_diagonal(axes)
        _draw_bins(axes, curves[label].reliability, BLUE, "o", "-", "raw")
        _draw_bins(axes, curves[label].reliability_calibrated, RED, "s", "--", "calibrated")
        errors = [figures[label].raw.expected_error.value, figures[label].calibrated.expected_error.value]
        known = [f"{error:.3f}" for error in errors if not math.isnan(error)]
        set_title(axes, label, f"error {', then '.join(known)}" if known else "")
        draw_legend(axes, "upper left")

    return draw_panels(curves, draw, "mean probability", "share of positives")


def draw_histograms(curves: Mapping[str, Curves], figures: Mapping[str, LabelFigures]) -> Figure:
    """Draws the distributions of the probabilities of positives and negatives, on a logarithmic axis."""

    def draw(axes: Axes, label: str) -> None:
        histogram, counts = curves[label].histogram, figures[label].counts
        negative, positive = f"negative ({counts.negatives:,})", f"positive ({counts.positives:,})"
        axes.stairs(histogram.negatives, histogram.edges, fill=True, color="0.82", label=negative)
        axes.stairs(
            histogram.positives, histogram.edges, color=RED, linewidth=1.4, hatch="////", label=positive
        )
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())  # their labels take a second to lay out
        highest = max(1, int(histogram.negatives.max()), int(histogram.positives.max()))
        axes.set(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), ylim=(0.6, highest * 60))
        set_title(axes, label, "")
        draw_legend(axes, "upper right")

    return draw_panels(curves, draw, "probability", "number")


def draw_confusion(figures: Mapping[str, LabelFigures]) -> Figure:
    """Draws true against called classes; gray shows the share of the row."""

    def draw(axes: Axes, label: str) -> None:
        point = figures[label].operating_point
        axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
        axes.set_xticks([0, 1], ["called\nnegative", "called\npositive"])
        axes.set_yticks([0, 1], ["is\npositive", "is\nnegative"])
        axes.tick_params(length=0)
        _fill_confusion(axes, point)
        set_title(axes, label, f"positive from {show_number(point.threshold)}")

    return draw_panels(figures, draw, "", "")


def _draw_diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1)
    set_unit_axes(axes)


def _draw_band(axes: Axes, band: Band | None) -> None:
    set_unit_axes(axes)
    if band is not None:
        axes.fill_between(band.x, band.low, band.high, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(band.x, band.y, color=BLUE, linewidth=1.6)


def _mark_point(axes: Axes, x: float, y: float) -> None:
    if not (math.isnan(x) or math.isnan(y)):
        axes.plot(x, y, marker="D", markersize=6, color=RED, markeredgecolor="black", linestyle="none")


def _draw_bins(axes: Axes, bins: Reliability | None, color: str, marker: str, dashes: str, name: str) -> None:
    if bins is None:
        return
    filled = bins.units > 0
    x, y, low, high = (each[filled] for each in (bins.predicted, bins.observed, bins.low, bins.high))
    reach = np.nan_to_num([np.maximum(y - low, 0), np.maximum(high - y, 0)])
    axes.errorbar(
        x,
        y,
        yerr=reach,
        color=color,
        marker=marker,
        markersize=3.5,
        linestyle=dashes,
        lw=1.2,
        elinewidth=0.7,
        label=name,
    )


def _fill_confusion(axes: Axes, point: OperatingFigures) -> None:
    counts = np.array(
        [
            [point.false_negatives, point.true_positives],
            [point.true_negatives, point.false_positives],
        ]
    )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=2, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}\n{show_percent(shares[row, column])}" if totals[row, 0] else "0"
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL)
