"""The pictures of a report, with their captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from matplotlib.figure import Figure

from ich.evaluate.figures import Estimate, Evaluation
from ich.evaluation_report.pictures import (
    draw_confusion,
    draw_histograms,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
)
from ich.evaluation_report.pictures.intervals import draw_forest, draw_pooling
from ich.evaluation_report.pictures.timelines import choose_timelines, draw_timelines
from ich.evaluation_report.report_data import ReportData
from ich.evaluation_report.tables import describe_basis, to_estimate
from ich.report.document import Picture
from ich.report.figures import encode_png
from ich.schema.shares import show_number
from ich.tables import name_columns, say

DRAWN_LEVELS = ("slice", "study")
"""Levels whose curves are drawn; every level's figures are in tables."""

Draw = Callable[[], Picture]


def plan_pictures(data: ReportData) -> dict[str, Draw]:
    """Lists the pictures that an evaluation has the figures for, by name; each is drawn when it is called."""
    plans: dict[str, Draw] = {}
    for level in DRAWN_LEVELS:
        if level in data.evaluation.levels:
            plans |= _plan_level(data, level)
    if timelines := _plan_timelines(data):
        plans["timelines"] = timelines
    if pooling := _plan_pooling(data):
        plans["pooling"] = pooling
    return plans | _plan_forests(data)


class _Kind(NamedTuple):
    """A kind of picture of a level, with the labels that it shows; without a label it is not drawn."""

    name: str
    title: str
    signs: str
    shown: Mapping[str, object]
    draw: Callable[[], Figure]


def _plan_level(data: ReportData, level: str) -> dict[str, Draw]:
    kinds = {f"{level}_{kind.name}": kind for kind in _list_kinds(data, level) if kind.shown}
    return {name: partial(_make_picture, data.evaluation, level, name, kind) for name, kind in kinds.items()}


def _make_picture(evaluation: Evaluation, level: str, name: str, kind: _Kind) -> Picture:
    absent = [label for label in evaluation.levels[level].labels if label not in kind.shown]
    left_out = f" Not available: {', '.join(absent)}." if absent else ""
    caption = f"{kind.title} by {level}. {kind.signs}{left_out} {describe_basis(evaluation, level)}."
    alt = f"{kind.title} by {level} for {', '.join(kind.shown)}. The numbers are in the tables."
    return Picture(name, encode_png(kind.draw()), caption, alt)


def _list_kinds(data: ReportData, level: str) -> list[_Kind]:
    curves, figures = data.evaluation.curves[level], data.evaluation.levels[level].labels
    ranked = {label: each for label, each in curves.items() if each.roc is not None}
    reliable = {label: each for label, each in curves.items() if each.reliability is not None}
    counted = {label: each for label, each in curves.items() if figures[label].counts.units}
    decided = {
        label: each for label, each in figures.items() if not math.isnan(each.operating_point.threshold)
    }
    line = "Line: this data set. Band: 95 % interval. Diamond: operating point."
    return [
        _Kind("roc", "ROC curves", f"{line} Dotted: chance.", ranked, partial(draw_roc, ranked, figures)),
        _Kind(
            "precision_recall",
            "Precision and recall",
            f"{line} AP: average precision. Dotted: chance, which is the prevalence.",
            ranked,
            partial(draw_precision_recall, ranked, figures),
        ),
        _Kind(
            "reliability",
            "Reliability",
            "Circles and solid lines: as predicted. Squares and dashed lines: calibrated. Bars: 95 % "
            "intervals. Dotted: ideal. error: expected calibration error, before and after calibration.",
            reliable,
            partial(draw_reliability, reliable, figures),
        ),
        _Kind(
            "histograms",
            "Probabilities",
            "Filled: negatives. Hatched: positives. The axis of counts is logarithmic.",
            counted,
            partial(draw_histograms, counted, figures),
        ),
        _Kind(
            "confusion",
            "Confusion at the operating point",
            f"Chosen on {data.evaluation.decided_on} with {data.rule}. Percentages are of the row, and "
            "darker means more.",
            decided,
            partial(draw_confusion, decided),
        ),
    ]


def _plan_timelines(data: ReportData) -> Draw | None:
    labels = data.evaluation.labels
    label = labels.headline
    decision = data.decisions.get("slice")
    probs = data.predictions[name_columns("prob", labels.names)].to_numpy()
    point = None
    if decision is not None:
        probs, point = decision.calibrate(probs), decision.find_point(label)
    timelines = choose_timelines(data.predictions, label, probs[:, labels.index(label)])
    if not timelines:
        return None
    threshold = math.nan if point is None else point.threshold
    line = "" if point is None else f" Dashed: the operating point of slices, {show_number(threshold)}."
    caption = (
        f"Probability of {label} along studies. Of the studies with {labels.finding} and of those without, "
        "we show the highest, the middle and the lowest by their highest slice. Filled: positive slices. "
        f"Hollow: negative slices.{line} Slices are in the order of the table, whose rows are counted from "
        f"0: {say(len(timelines), 'study')} of {say(data.evaluation.patients, 'patient')}. No intervals: "
        "each point is one slice."
    )
    alt = f"Probabilities of {label} along the slices of {len(timelines)} studies."
    return lambda: Picture("timelines", encode_png(draw_timelines(timelines, threshold)), caption, alt)


def _plan_pooling(data: ReportData) -> Draw | None:
    effect = data.evaluation.pooling_effect
    shown = [
        label
        for label in data.evaluation.labels.names
        if effect and not all(math.isnan(by_label[label].auroc.value) for by_label in effect.values())
    ]
    if not shown:
        return None
    kept = {method: {label: by_label[label] for label in shown} for method, by_label in effect.items()}
    caption = (
        "Effect of the pooling method on AUROC by study, for each label. "
        f"{describe_basis(data.evaluation, 'study')}."
    )
    alt = f"AUROC by study with intervals for {', '.join(effect)}; the numbers are in the table."
    return lambda: Picture("pooling", encode_png(draw_pooling(kept)), caption, alt)


def _plan_forests(data: ReportData) -> dict[str, Draw]:
    if data.groups is None:
        return {}
    figures = data.evaluation.levels["slice"].labels
    areas = data.groups[data.groups["figure"] == "auroc"]
    plans: dict[str, Draw] = {}
    for label, rows in areas.groupby("label", sort=False):
        groups: list[tuple[str, Estimate, str]] = [
            (
                f"{row['column']}: {row['group']}",
                to_estimate(row),
                f"{row['positives']:,} of {row['units']:,} slices, {say(row['patients'], 'patient')}",
            )
            for _, row in rows.iterrows()
        ]
        reference = figures[str(label)].auroc.value
        plans[f"subgroups_{label}"] = partial(_make_forest, str(label), groups, reference)
    return plans


def _make_forest(label: str, groups: list[tuple[str, Estimate, str]], reference: float) -> Picture:
    caption = (
        f"AUROC of {label} in subgroups of slices, with 95 % intervals (bootstrap over the group's "
        "patients). Dashed: all slices. Below each name: positive slices, all slices, and patients."
    )
    alt = f"AUROC of {label} with intervals for {len(groups)} subgroups; the numbers are in the table."
    figure = draw_forest(groups, reference, f"AUROC of {label}")
    return Picture(f"subgroups_{label}", encode_png(figure), caption, alt)
