"""Figures with their intervals, one below the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ich.evaluate.figures import Areas, Estimate
from ich.evaluation_report.pictures.panels import BLUE, GREEN, RED, draw_intervals, set_reach, tidy
from ich.report.figures import SMALL, WIDTH

_STYLES = (("o", BLUE), ("s", RED), ("^", GREEN), ("D", "black"))


def draw_pooling(effect: Mapping[str, Mapping[str, Areas]]) -> Figure:
    """Draws the AUROC of each label by study, for each pooling method, with 95 % intervals.

    Args:
        effect: Estimates by method and label; leave out labels without an AUROC.
    """
    labels = list(next(iter(effect.values())))
    figure = Figure(figsize=(WIDTH, 0.72 * len(labels) + 1.2), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(labels), dtype=np.float64)
    for number, (method, by_label) in enumerate(effect.items()):
        marker, color = _STYLES[number % len(_STYLES)]
        estimates = [by_label[label].auroc for label in labels]
        shift = 0.18 * (number - (len(effect) - 1) / 2)
        draw_intervals(axes, estimates, rows + shift, marker, color, method)
    set_reach(axes, [each.auroc for by_label in effect.values() for each in by_label.values()])
    for row in rows[:-1]:
        axes.axhline(row + 0.5, color="0.85", linewidth=0.8)
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel("AUROC by study, 95 % interval", fontsize=SMALL)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False)
    return figure


def draw_forest(groups: Sequence[tuple[str, Estimate, str]], reference: float, quantity: str) -> Figure:
    """Draws a figure of subgroups with 95 % intervals.

    Args:
        groups: Name, estimate and counts in words of each group; NaN is written as not available.
        reference: The same figure for all units, drawn as a dashed line; NaN if not available.
        quantity: Name of the figure.
    """
    figure = Figure(figsize=(WIDTH, 0.48 * len(groups) + 0.8), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(groups), dtype=np.float64)
    estimates = [estimate for _, estimate, _ in groups]
    draw_intervals(axes, estimates, rows, "s", BLUE, "")
    set_reach(axes, estimates, reference)
    if not math.isnan(reference):
        axes.axvline(reference, color="black", linestyle="--", linewidth=1)
    for row, estimate in enumerate(estimates):
        if math.isnan(estimate.value):
            axes.text(
                0.5,
                row,
                "not available",
                transform=axes.get_yaxis_transform(),
                ha="center",
                va="center",
                color="0.4",
                fontsize=SMALL,
            )
    axes.set_yticks(rows, [f"{name}\n{numbers}" for name, _, numbers in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(quantity, fontsize=SMALL)
    tidy(axes)
    return figure
