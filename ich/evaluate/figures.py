"""The figures of an evaluation with their intervals, by level and label, and their form in JSON.

``metrics.json`` holds ``Evaluation.to_dict()``. Its keys are the names of the attributes below. Levels,
labels and pooling methods are keys too. An ``Estimate`` becomes ``{"value", "low", "high", "reason"}`` with
None if not available; otherwise ``reason`` is None. Within one ``"schema"``, keys are only added.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from ich.evaluate.curves import Curves
from ich.schema import DISCLAIMER
from ich.schema.labels import LabelSet
from ich.schema.shares import show_prob

SCHEMA = "ich evaluation 1"
"""Format of ``metrics.json``; the number rises when a key is removed or changes its meaning."""

FEW = 5
"""Patients that a figure needs behind its positives and negatives. With fewer it has no interval, and nothing
is fitted or drawn."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN if not available.

    It formats like a float, ``f"{estimate:.3f}"``: ``0.912 (0.880-0.940)``, or ``n/a``.

    Attributes:
        value: The figure.
        low: Lower end of its interval.
        high: Upper end.
        reason: Why the figure, or only its interval, is not available; empty if both are available.
    """

    value: float
    low: float
    high: float
    reason: str = ""

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "n/a"
        shown = _show(self.value, spec)
        return shown if math.isnan(self.low) else f"{shown} ({self.low:{spec}}-{self.high:{spec}})"

    def to_dict(self) -> dict[str, float | str | None]:
        """Returns ``value``, ``low``, ``high`` and ``reason``, with None if there is none."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        return {name: to_plain(number) for name, number in numbers.items()} | {"reason": self.reason or None}


def _show(value: float, spec: str) -> str:
    """Formats a figure; one between 0 and 1 is never shown as either, as an AUROC of 0.9997 might be."""
    digits = re.fullmatch(r"\.(\d)f", spec)
    return show_prob(value, int(digits[1])) if digits and 0 < value < 1 else f"{value:{spec}}"


def unavailable(reason: str) -> Estimate:
    """Returns the estimate of a figure that is not available."""
    return without_interval(math.nan, reason)


def without_interval(value: float, reason: str) -> Estimate:
    """Returns a figure whose interval is not available."""
    return Estimate(value, math.nan, math.nan, reason)


@dataclass(frozen=True)
class Counts:
    """The counts behind a label's figures.

    Attributes:
        units: Slices (series, studies, patients) with a known label.
        positives: Units that have the label.
        negatives: Units that do not have it.
        unknown: Units left out because their label is unknown.
        patients: Patients with a unit whose label is known.
        positive_patients: Patients with a positive unit.
        negative_patients: Patients with a negative unit.
    """

    units: int
    positives: int
    negatives: int
    unknown: int
    patients: int
    positive_patients: int
    negative_patients: int


@dataclass(frozen=True)
class CalibrationMeasures:
    """Measures of calibration.

    Attributes:
        brier: Mean squared difference between probability and target.
        log_loss: Mean binary cross-entropy, probabilities clipped to [1e-15, 1 - 1e-15].
        slope: Slope of the logistic recalibration ``logit P(target) = intercept + slope * logit(prob)``; 1 is
            ideal, and below 1 the probabilities are too extreme.
        intercept: Its intercept; 0 is ideal with a slope of 1.
        in_the_large: The intercept with the slope fixed at 1. Above 0, the probabilities are too low on the
            whole.
        expected_error: Expected calibration error over bins of equal width.
    """

    brier: Estimate
    log_loss: Estimate
    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate
    expected_error: Estimate


@dataclass(frozen=True)
class PredictiveValues:
    """Predictive values at a given prevalence.

    Attributes:
        prevalence: Share of units that have the label.
        ppv: Share of positive results that are correct.
        npv: Share of negative results that are correct.
    """

    prevalence: float
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True)
class OperatingFigures:
    """Figures of a label at its operating point: positive if the calibrated probability reaches it.

    With ``Evaluation.folds``, each fold is judged by the calibration and the threshold of the other folds.
    ``threshold``, ``chosen_sensitivity`` and ``chosen_specificity`` are then those of all folds together.

    Attributes:
        threshold: Threshold on the calibrated probability; NaN without an operating point.
        rule: Rule that chose it, such as ``sensitivity>=0.95``; empty without an operating point.
        chosen_sensitivity: Sensitivity on the data that chose the operating point, and so too good.
        chosen_specificity: Specificity on the same data.
        true_positives: Positive units at or above the threshold.
        false_positives: Negative units at or above it.
        true_negatives: Negative units below it.
        false_negatives: Positive units below it.
        sensitivity: Share of positive units at or above the threshold.
        specificity: Share of negative units below it.
        ppv: Positive predictive value at the table's own prevalence.
        npv: Negative predictive value at the table's own prevalence.
        f1: Harmonic mean of sensitivity and ``ppv``.
        at_prevalences: Predictive values at each requested prevalence.
    """

    threshold: float
    rule: str
    chosen_sensitivity: float
    chosen_specificity: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    f1: Estimate
    at_prevalences: tuple[PredictiveValues, ...]


@dataclass(frozen=True)
class LabelFigures:
    """Figures of one label at one level.

    Attributes:
        counts: Counts behind the figures.
        prevalence: Share of the known units that have the label.
        auroc: Area under the receiver operating characteristic of the raw probabilities.
        auroc_delong: The same area with DeLong's interval, for units that cluster within patients.
        average_precision: Sum over thresholds of the gain in recall times the precision, of the raw
            probabilities.
        raw: Calibration of the raw probabilities of the model.
        calibrated: The same after calibration.
        operating_point: Figures at the operating point.
    """

    counts: Counts
    prevalence: Estimate
    auroc: Estimate
    auroc_delong: Estimate
    average_precision: Estimate
    raw: CalibrationMeasures
    calibrated: CalibrationMeasures
    operating_point: OperatingFigures


@dataclass(frozen=True)
class LevelFigures:
    """Figures of all labels by slice, series, study or patient.

    Attributes:
        pooling: Method that pools slices to units, one of ``ich.evaluate.pooling.METHODS``.
        units: Slices, series, studies or patients in the table.
        labels: Figures of each label.
        auroc_mean_subtypes: Mean over the subtypes that have an AUROC.
        weighted_log_loss: The RSNA 2019 metric of the raw probabilities; with other labels their own weights.
        weighted_log_loss_calibrated: The same after calibration.
        constant_log_loss: The same for a predictor that always predicts the prevalences; NaN if unknown.
    """

    pooling: str
    units: int
    labels: dict[str, LabelFigures]
    auroc_mean_subtypes: Estimate
    weighted_log_loss: Estimate
    weighted_log_loss_calibrated: Estimate
    constant_log_loss: float


@dataclass(frozen=True)
class Areas:
    """The areas under one label's curves, of the raw probabilities."""

    auroc: Estimate
    average_precision: Estimate


@dataclass(frozen=True)
class Evaluation:
    """All figures of a predictions table.

    Attributes:
        slices: Rows of the table.
        patients: Distinct PatientID.
        replicates: Number of bootstrap samples behind the intervals.
        seed: Random seed for the resampling.
        levels: Figures of each requested level.
        pooling_effect: Areas of each label by study, for each of ``METHODS``; empty unless the level
            ``study`` was requested.
        folds: Number of folds, if each was judged by decisions of the others; 0 otherwise.
        labels: The labels of the table; not part of ``to_dict``, like the curves.
        curves: Data for pictures, by level and label.
    """

    slices: int
    patients: int
    replicates: int
    seed: int
    levels: dict[str, LevelFigures]
    pooling_effect: dict[str, dict[str, Areas]]
    folds: int
    labels: LabelSet
    curves: dict[str, dict[str, Curves]] = field(repr=False, compare=False)

    @property
    def decided_on(self) -> str:
        """The data that calibration and operating points were fitted on, in words."""
        return f"the other folds ({self.folds} in all)" if self.folds else "the validation set"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values fit for JSON, as the docstring of this module describes them."""
        figures = {name: each for name, each in vars(self).items() if name not in ("labels", "curves")}
        return {"schema": SCHEMA, "note": DISCLAIMER, "few": FEW, **to_plain(figures)}


def to_plain(value: Any) -> Any:
    """Returns figures as plain values fit for JSON: dataclasses as dictionaries, None for NaN."""
    if isinstance(value, Estimate):
        return value.to_dict()
    if is_dataclass(value):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
