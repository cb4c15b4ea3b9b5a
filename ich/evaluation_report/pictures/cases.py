"""Single slices through the windows, with heat maps of a model's evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ich.report.figures import SMALL, TINY, WIDTH, draw_slice, hide_axis
from ich.report.heat import lay_heat
from ich.report.sides import mark_sides
from ich.schema.labels import LabelSet

_WINDOWS = ("brain", "subdural", "bone")
_BACK = {"facecolor": "black", "edgecolor": "none", "alpha": 0.6, "pad": 1.5}  # of the window's name


@dataclass(frozen=True)
class Case:
    """A slice to show.

    Attributes:
        title: The slice's row, prediction and target; names nobody.
        hu: (H, W) Hounsfield units; None if the slice could not be read.
        heat: (H, W) heat map in [0, 1]; None without a model.
        problem: Why the slice could not be read; empty if it was read.
        in_lps: Whether the slice lies in LPS, so that its sides are marked.
    """

    title: str
    hu: NDArray[np.int16] | None
    heat: NDArray[np.float32] | None = None
    problem: str = ""
    in_lps: bool = False


def draw_cases(cases: Sequence[Case]) -> Figure:
    """Draws slices one below the other, each through three windows; a heat map replaces the last.

    Raises:
        ValueError: If there is no case.
    """
    side = WIDTH / len(_WINDOWS)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0, hspace=0)
    figure = Figure(figsize=(WIDTH, (side + 0.42) * len(cases)), layout=layout, facecolor="black")
    rows = figure.subfigures(len(cases), 1, squeeze=False).ravel()
    for subfigure, case in zip(rows, cases, strict=True):
        subfigure.set_facecolor("black")
        subfigure.suptitle(case.title, color="white", fontsize=SMALL, x=0.01, ha="left")
        for axes, window in zip(subfigure.subplots(1, len(_WINDOWS)), _WINDOWS, strict=True):
            if case.hu is None:
                hide_axis(axes)
                axes.text(0.5, 0.5, case.problem, color="white", ha="center", va="center", fontsize=TINY)
                continue
            heat = case.heat if window == _WINDOWS[-1] else None
            name = window if heat is None else "heat over brain"
            draw_slice(axes, case.hu, window if heat is None else "brain")
            axes.text(0.03, 0.03, name, color="white", fontsize=TINY, transform=axes.transAxes, bbox=_BACK)
            if heat is not None:
                lay_heat(axes, heat, width=0.7)
            if case.in_lps:
                mark_sides(axes, TINY)
    return figure


def describe_target(labels: LabelSet, target: NDArray[np.float64]) -> str:
    """Returns the labels of a slice in words."""
    present = [name for name, value in zip(labels.averaged, target, strict=True) if value == 1]
    unknown = any(math.isnan(value) for value in target)
    return ", ".join(present) or ("not known" if unknown else f"no {labels.finding}")
