"""The verdict of an evaluation: in a few sentences and one table, what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ich.evaluate.figures import FEW, CalibrationMeasures, LabelFigures
from ich.evaluation_report.report_data import NO_VALIDATION, ReportData
from ich.evaluation_report.tables import make_main, show_signed
from ich.report.document import Listing, Plain, Text
from ich.schema.labels import say_label
from ich.tables import PLURALS, say

SLOPES = (0.5, 2.0)
"""Slopes whose interval must lie between these, so that calibration can be said to hold."""

IN_THE_LARGE = (-math.log(2), math.log(2))
"""The same for calibration in the large: the odds are off by less than a factor of 2."""


def make_verdict(data: ReportData) -> Iterator[Plain]:
    """Yields the verdict: whether the figures count, the main figure, what goes with it, and a table."""
    warning = _warn(data)
    if warning:
        yield Text(warning, strong=True)
    yield Text(say_main_figure(data), strong=True)
    yield Listing(list_facts(data))
    yield make_main(data.evaluation, data.main_level)


def say_main_figure(data: ReportData) -> str:
    """Says the AUROC of the deciding label at the main level, and the patients that it comes from."""
    labels = data.evaluation.labels
    figures, name = _find_main(data), say_label(labels.headline, labels.names)
    counts, auroc = figures.counts, figures.auroc
    basis = f"{say(counts.patients, 'patient')}, {counts.positive_patients:,} of them positive"
    if math.isnan(auroc.value):
        return f"No AUROC for {name} by {data.main_level}: {auroc.reason or 'not available'} ({basis})."
    return f"AUROC {auroc:.3f} for {name} by {data.main_level}, in {basis}."


def list_facts(data: ReportData) -> list[str]:
    """Lists what belongs to the main figure: operating point, calibration, and labels with few patients."""
    return [_say_operating_point(data), say_calibration(data), _say_few(data)]


def list_errors(data: ReportData) -> list[str]:
    """Counts the false negatives and false positives of the deciding label at each level."""
    labels = data.evaluation.labels
    name, said = say_label(labels.headline, labels.names), []
    for level, figures in data.evaluation.levels.items():
        point, counts = (
            figures.labels[labels.headline].operating_point,
            figures.labels[labels.headline].counts,
        )
        if not math.isnan(point.threshold):
            said.append(
                f"By {level}: {point.false_negatives:,} of {counts.positives:,} with {name} missed, "
                f"{point.false_positives:,} of {counts.negatives:,} without it called positive."
            )
    return said or [
        f"Without an operating point, no {PLURALS[data.main_level]} are called positive or negative."
    ]


def say_calibration(data: ReportData) -> str:
    """Says whether calibration holds for the deciding label at the main level.

    It holds if the interval of the slope contains 1 and that in the large contains 0, and if both are narrow
    enough: within ``SLOPES`` and ``IN_THE_LARGE``. It does not hold if one of them does not contain its
    value.
    """
    figures = _find_main(data)
    is_calibrated = not math.isnan(figures.calibrated.slope.value)
    found = figures.calibrated if is_calibrated else figures.raw
    scale = "calibrated probabilities" if is_calibrated else "probabilities as predicted"
    slope, large = found.slope, found.in_the_large
    if any(math.isnan(each.low) for each in (slope, large)):
        reason = slope.reason or large.reason or "its intervals are not available"
        return f"We cannot say whether calibration holds: {reason}."
    values = f"{scale}, slope {show_signed(slope, '.2f')}, in the large {show_signed(large, '+.2f')}"
    return f"{_judge(found)}: {values}."


def _judge(found: CalibrationMeasures) -> str:
    slope, large = found.slope, found.in_the_large
    if not (slope.low <= 1 <= slope.high and large.low <= 0 <= large.high):
        return "Calibration does not hold"
    narrow = SLOPES[0] <= slope.low and slope.high <= SLOPES[1]
    if narrow and IN_THE_LARGE[0] <= large.low and large.high <= IN_THE_LARGE[1]:
        return "Calibration holds"
    return "The intervals are too wide to say whether calibration holds"


def _find_main(data: ReportData) -> LabelFigures:
    return data.evaluation.levels[data.main_level].labels[data.evaluation.labels.headline]


def _warn(data: ReportData) -> str:
    warnings = []
    if data.run.phantom:
        warnings.append("The data are synthetic: these figures do not show how the model does on patients.")
    if data.run.leaky:
        warnings.append("The sets share patients: these figures are too good.")
    return " ".join(warnings)


def _say_operating_point(data: ReportData) -> str:
    point = _find_main(data).operating_point
    if math.isnan(point.threshold):
        reason = point.sensitivity.reason.removeprefix("no operating point was chosen: ")
        if not data.decisions or not reason:
            return f"No operating point. {NO_VALIDATION}"
        return f"No operating point by {data.main_level}: {reason}."
    plural = PLURALS[data.main_level]
    return (
        f"At the operating point: sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}. "
        f"{point.false_negatives:,} false negative and {point.false_positives:,} false positive {plural}."
    )


def _say_few(data: ReportData) -> str:
    labels = data.evaluation.levels[data.main_level].labels
    few = {label: each.counts.positive_patients for label, each in labels.items()}
    few = {label: patients for label, patients in few.items() if patients < FEW}
    if not few:
        return f"Each label has at least {FEW} positive patients."
    listed = ", ".join(f"{label} {patients}" for label, patients in few.items())
    return f"Too few positive patients: {listed}. At least {FEW} are needed."
