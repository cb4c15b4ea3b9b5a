"""What an evaluation says: figures with their intervals, by level and label, and their form in JSON.

``Evaluation.to_dict()`` is what ``metrics.json`` holds. Its keys are the names of the attributes below, at
every level; levels, labels and pooling methods are keys themselves. An ``Estimate`` becomes
``{"value", "low", "high", "reason"}`` with None for what is not available, and ``reason`` None where it is.
Keys are only added as long as ``"schema"`` stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from ich.evaluate.curves import Curves
from ich.schema import DISCLAIMER
from ich.schema.labels import LabelSet

SCHEMA = "ich evaluation 1"
"""Names the form of ``metrics.json``; the number rises when a key goes or changes its meaning."""

FEW = 5
"""With fewer patients than this behind the positives or negatives that it needs, a figure has no interval and
nothing is fitted or drawn."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where it is not available.

    It formats like a float, ``f"{estimate:.3f}"``: ``0.912 (0.880-0.940)``, or ``n/a``.

    Attributes:
        value: The figure.
        low: Lower end of its interval.
        high: Upper end.
        reason: Why the figure, or its interval alone, is not available; empty where both are.
    """

    value: float
    low: float
    high: float
    reason: str = ""

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "n/a"
        if math.isnan(self.low):
            return f"{self.value:{spec}}"
        return f"{self.value:{spec}} ({self.low:{spec}}-{self.high:{spec}})"

    def to_dict(self) -> dict[str, float | str | None]:
        """Returns ``value``, ``low``, ``high`` and ``reason``, None where there is none."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        return {name: to_plain(number) for name, number in numbers.items()} | {"reason": self.reason or None}


def unavailable(reason: str) -> Estimate:
    """Returns the estimate of a figure that is not available."""
    return Estimate(math.nan, math.nan, math.nan, reason)


@dataclass(frozen=True)
class Counts:
    """What a label's figures rest on.

    Attributes:
        units: Slices (series, studies, patients) of which the label is known.
        positives: Units that have it.
        negatives: Units that do not.
        unknown: Units left out because it is not known.
        patients: Patients with a unit of which it is known.
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
    """How far probabilities can be taken at their word.

    Attributes:
        brier: Mean squared difference between probability and target.
        log_loss: Mean binary cross-entropy, probabilities clipped to [1e-15, 1 - 1e-15].
        slope: Slope of the logistic recalibration ``logit P(target) = intercept + slope * logit(prob)``; 1 is
            ideal, below 1 the probabilities are too extreme.
        intercept: Its intercept; 0 is ideal with a slope of 1.
        in_the_large: The intercept with the slope fixed at 1; above 0 the probabilities are too low on the
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
    """What a positive and a negative result mean where the label is as frequent as given.

    Attributes:
        prevalence: Share of units that have the label.
        ppv: Share of positive results that are right.
        npv: Share of negative results that are right.
    """

    prevalence: float
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True)
class OperatingFigures:
    """A label at its operating point: positive where the calibrated probability reaches the threshold.

    Attributes:
        threshold: On the calibrated probability; NaN where there is no operating point.
        rule: By which it was chosen, such as ``sensitivity>=0.95``; empty where there is none.
        chosen_sensitivity: Sensitivity on the part that it was chosen on.
        chosen_specificity: Specificity there.
        true_positives: Positive units at or above the threshold.
        false_positives: Negative units at or above it.
        true_negatives: Negative units below it.
        false_negatives: Positive units below it.
        sensitivity: Share of positive units at or above the threshold.
        specificity: Share of negative units below it.
        ppv: Positive predictive value at the table's own prevalence.
        npv: Negative predictive value at the table's own prevalence.
        f1: Harmonic mean of sensitivity and ``ppv``.
        at_prevalences: Predictive values at each prevalence asked for.
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
    """One label at one level.

    Attributes:
        counts: What the figures rest on.
        prevalence: Share of the known units that have the label.
        auroc: Area under the receiver operating characteristic of the raw probabilities.
        auroc_delong: The same area with DeLong's interval, for units that cluster within patients.
        average_precision: Sum over thresholds of the gain in recall times the precision, of the raw ones.
        raw: Calibration of the probabilities as the model gave them.
        calibrated: The same after the calibration fitted on the validation part.
        operating_point: Figures at the operating point chosen on the validation part.
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
    """All labels by slice, by series, by study or by patient.

    Attributes:
        pooling: How slices became units, one of ``ich.evaluate.pooling.METHODS``.
        units: Slices, series, studies or patients in the table.
        labels: Figures of each label.
        auroc_mean_subtypes: Mean over the subtypes that have an AUROC.
        weighted_log_loss: The RSNA 2019 metric, or with other labels the like, of the raw probabilities.
        weighted_log_loss_calibrated: The same after calibration.
        constant_log_loss: The same for a predictor that always says the prevalences; NaN where unknown.
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
    """Every figure of a predictions table.

    Attributes:
        slices: Rows of the table.
        patients: Distinct PatientID.
        replicates: Bootstrap samples of patients behind the intervals.
        seed: Random seed for the resampling.
        levels: Figures of each level asked for.
        pooling_effect: For each of ``METHODS`` the areas of each label by study; empty unless the level
            ``study`` was asked for.
        labels: The labels of the table; not part of ``to_dict``, like the curves.
        curves: What is drawn, by level and label.
    """

    slices: int
    patients: int
    replicates: int
    seed: int
    levels: dict[str, LevelFigures]
    pooling_effect: dict[str, dict[str, Areas]]
    labels: LabelSet
    curves: dict[str, dict[str, Curves]] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values fit for JSON, as the docstring of this module describes them."""
        figures = {each.name: getattr(self, each.name) for each in fields(self)[:-2]}
        plain = {name: to_plain(value) for name, value in figures.items()}
        return {"schema": SCHEMA, "note": DISCLAIMER, "few": FEW} | plain


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
