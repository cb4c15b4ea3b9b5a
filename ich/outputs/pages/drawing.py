"""The pictures of a study's page, readable on a phone and without color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from scipy import ndimage

from ich.outputs.pages.views import SliceView, choose_slices
from ich.report.figures import OKABE_ITO, SMALL, TINY, WIDTH, draw_slice
from ich.report.heat import lay_heat
from ich.report.sides import mark_sides
from ich.schema import DISCLAIMER
from ich.schema.hu import BODY
from ich.schema.results import StudyResult

_TALLEST = 6.0  # inches

_LINES = list(zip(OKABE_ITO, ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))), "s^vDX", strict=False))
"""A color, a line and a marker for each label; the one that decides is black, solid and round."""


class Frame(NamedTuple):
    """The part of a slice that is drawn."""

    rows: slice
    columns: slice


def find_frame(views: Sequence[SliceView]) -> Frame:
    """Finds a common crop for all slices of a study, so that they are large and have one scale.

    It contains the largest body in each slice and a margin. If slices have several shapes, or one is empty,
    it is the whole slice.
    """
    bodies = [_find_body(view.hu) for view in views]
    if len({view.hu.shape for view in views}) != 1 or None in bodies:
        return Frame(slice(None), slice(None))
    shape = views[0].hu.shape
    sides = []
    for axis, length in enumerate(shape):
        margin = length // 32
        low = min(body[axis].start for body in bodies if body) - margin
        high = max(body[axis].stop for body in bodies if body) + margin
        sides.append(slice(max(low, 0), min(high, length)))
    return Frame(*sides)


def _find_body(hu: NDArray[np.int16]) -> tuple[slice, slice] | None:
    """Finds the bounds of the largest connected area that is denser than foam; None if there is none."""
    labels, count = ndimage.label(hu > BODY)
    if not count:
        return None
    largest = int(np.bincount(labels.ravel())[1:].argmax()) + 1
    bounds: tuple[slice, slice] = ndimage.find_objects(labels, largest)[largest - 1]
    return bounds


def draw_view(view: SliceView, frame: Frame) -> Figure:
    """Draws a slice in the brain window, and beside it the same slice under its heat map.

    Without a heat map, the subdural window replaces it. The patient's sides are marked if they are known.
    """
    hu = view.hu[frame]
    aspect = view.spacing[0] / view.spacing[1]
    height = WIDTH / 2 * aspect * hu.shape[0] / hu.shape[1]
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (WIDTH, min(height, _TALLEST) + 0.3)
    figure = Figure(figsize=size, layout=layout, facecolor="black")
    left, right = figure.subplots(1, 2)
    draw_slice(left, hu, "brain", aspect)
    if isinstance(view.heat, str):
        draw_slice(right, hu, "subdural", aspect)
    else:
        draw_slice(right, hu, "brain", aspect)
        lay_heat(right, view.heat[frame], aspect=aspect, width=0.7)
    for axes in (left, right) if view.knows_sides else ():
        mark_sides(axes, SMALL)
    figure.supxlabel(f"{DISCLAIMER}.", fontsize=TINY, color="white")
    return figure


def draw_timeline(result: StudyResult) -> Figure:
    """Draws the probability of the headline label, and of others called present, from slice to slice.

    Triangles mark the slices that ``choose_slices`` names. Probabilities are calibrated if those of all
    slices are. The axis is the slice normal if all positions are known.
    """
    calibrated = all(each.calibrated is not None for each in result.slices)
    probs = pd.DataFrame([(each.calibrated if calibrated else None) or each.probs for each in result.slices])
    known = all(each.position is not None for each in result.slices)
    places = np.array([each.position if known else n for n, each in enumerate(result.slices, 1)], np.float64)
    figure = Figure(figsize=(WIDTH, 3.4), layout=ConstrainedLayoutEngine(h_pad=0.06))
    axes = figure.subplots()
    every = max(1, len(places) // 40)  # more markers would hide the kinds of line
    first = result.headline
    axes.plot(places, probs[first], "o-", color="black", markersize=4, markevery=every, label=first)
    for name in result.subtypes:
        color, line, marker = _LINES[result.others.index(name) % len(_LINES)]
        values = probs[name]
        look: dict[str, Any] = {"color": color, "linestyle": line, "marker": marker}
        axes.plot(places, values, **look, markersize=4, markevery=every, label=name)
    _mark_slices(axes, places, choose_slices(result))
    axes.set(ylim=(-0.03, 1.12), yticks=(0, 0.5, 1))
    axes.set_xlabel("position along the series, mm" if known else "slice", fontsize=SMALL)
    axes.set_ylabel("probability", fontsize=SMALL)
    axes.tick_params(labelsize=TINY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.7)
    figure.legend(loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return figure


def _mark_slices(axes: Axes, places: NDArray[np.float64], numbers: Sequence[int]) -> None:
    """Marks slices above the axes with their numbers; a mark too close to another is placed higher."""
    before, raised = -np.inf, False
    for first, last in _find_runs(numbers):
        marked = places[first : last + 1]
        axes.plot(marked, np.full(len(marked), 1.06), "v", color="black", markersize=5, clip_on=False)
        name = str(first + 1) if first == last else f"{first + 1}\u2013{last + 1}"
        raised = not raised and marked.mean() - before < 0.1 * np.ptp(places)
        axes.text(marked.mean(), 1.18 if raised else 1.10, name, ha="center", va="bottom", fontsize=TINY)
        before = marked.mean()


def _find_runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Finds the first and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
