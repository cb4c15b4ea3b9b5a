"""The slices of a study from one end to the other, as a model sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ich.evaluation_report.pictures.panels import RED, draw_panels, set_title
from ich.report.figures import SMALL

_SIGNS: tuple[tuple[float, str, dict[str, Any]], ...] = (
    (1.0, "positive", {"marker": "o", "color": RED, "edgecolors": "0.2", "linewidths": 0.8}),
    (0.0, "negative", {"marker": "o", "color": "white", "edgecolors": "0.2", "linewidths": 0.8}),
    (math.nan, "not known", {"marker": "x", "color": "0.4"}),
)


@dataclass(frozen=True)
class Timeline:
    """The slices of a study in their order.

    Attributes:
        title: Title with the rows of the slices; names nobody.
        prob: (N,) probabilities.
        target: (N,) 0 or 1; NaN where unknown.
    """

    title: str
    prob: NDArray[np.float64]
    target: NDArray[np.float64]


def choose_timelines(predictions: pd.DataFrame, label: str, prob: NDArray[np.float64]) -> list[Timeline]:
    """Chooses studies with and without a label: the highest, the middle and the lowest in probability.

    Args:
        predictions: A predictions table; the slices of a study are drawn in its order.
        label: One of the labels of the table.
        prob: (N,) probabilities of the label, raw or calibrated.
    """
    target = predictions[f"target_{label}"].to_numpy(np.float64)
    table = pd.DataFrame(
        {"study": predictions["StudyInstanceUID"].to_numpy(), "prob": prob, "target": target}
    )
    groups = table[table["study"] != ""].groupby("study", sort=False)
    highest = groups.agg(prob=("prob", "max"), target=("target", "max"), slices=("prob", "size"))
    highest = highest[highest["slices"] > 1].sort_values("prob", ascending=False, kind="stable")
    timelines = []
    for value, name in ((1, "positive"), (0, "negative")):
        studies = highest.index[highest["target"] == value]
        places = np.unique(np.linspace(0, len(studies) - 1, min(3, len(studies))).round().astype(int))
        for place in places:
            rows = np.asarray(groups.indices[studies[place]])
            title = f"{name} study, rows {rows.min()} to {rows.max()}"
            timelines.append(Timeline(title, prob[rows], target[rows]))
    return timelines


def draw_timelines(timelines: Sequence[Timeline], threshold: float) -> Figure:
    """Draws the probability of every slice of some studies.

    Args:
        timelines: The studies, one panel each.
        threshold: The operating point, for the probabilities given; NaN if there is none.
    """
    by_title = {timeline.title: timeline for timeline in timelines}

    def draw(axes: Axes, title: str) -> None:
        timeline = by_title[title]
        places = np.arange(len(timeline.prob))
        axes.plot(places, timeline.prob, color="0.45", linewidth=1)
        for value, name, look in _SIGNS:
            rows = np.isnan(timeline.target) if math.isnan(value) else timeline.target == value
            if rows.any():
                axes.scatter(places[rows], timeline.prob[rows], s=17, zorder=3, label=name, **look)
        if not math.isnan(threshold):
            axes.axhline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
        axes.set(xlim=(-0.7, len(places) - 0.3), ylim=(-0.04, 1.04), yticks=(0, 0.5, 1))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        set_title(axes, title, "")

    figure = draw_panels(by_title, draw, "slice of the study", "probability")
    signs: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            signs.setdefault(name, handle)
    figure.legend(
        signs.values(), signs.keys(), loc="outside lower center", ncols=4, fontsize=SMALL, frameon=False
    )
    return figure
