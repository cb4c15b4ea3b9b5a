"""The figures of one level: slices, or pooled series, studies or patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision, NotFitted
from ich.evaluate.calibration_error import measure_calibration, weigh_losses, without_calibration
from ich.evaluate.curves import Band, Curves, Histogram
from ich.evaluate.delong import estimate_delong
from ich.evaluate.estimate import divide, estimate, estimate_share, say_too_few, sum_by_patient
from ich.evaluate.figures import (
    FEW,
    Areas,
    Counts,
    Estimate,
    LabelFigures,
    LevelFigures,
    OperatingFigures,
    unavailable,
)
from ich.evaluate.pooling import pool
from ich.evaluate.roc import (
    GRID,
    Ranking,
    Statistic,
    find_auroc,
    find_average_precision,
    find_precision_recall,
    find_roc,
)
from ich.evaluate.thresholds import measure_at_point, without_point
from ich.schema.labels import LabelSet
from ich.tables import find_names, name_columns

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

HISTOGRAM_BINS = 50

NO_DECISION = "neither a validation set nor a stored calibration was given"


class Patients:
    """The patients of a table, and how often each sample draws them; the same for all levels.

    Args:
        predictions: A predictions table.
    """

    def __init__(self, predictions: pd.DataFrame) -> None:
        self._names = pd.Index(predictions["PatientID"].unique())

    def __len__(self) -> int:
        return len(self._names)

    def locate(self, table: pd.DataFrame) -> Ints:
        """Returns the (N,) place of each row's patient."""
        return np.asarray(self._names.get_indexer(pd.Index(table["PatientID"])), np.intp)


@dataclass(frozen=True)
class Column:
    """One label over the units where it is known.

    Attributes:
        label: Its name.
        target: (K,) 0 or 1.
        prob: (K,) raw probabilities.
        calibrated: (K,) calibrated probabilities.
        codes: (K,) place of each unit's patient.
        unknown: Units left out.
        level: Level of the units.
    """

    label: str
    target: Floats
    prob: Floats
    calibrated: Floats
    codes: Ints
    unknown: int
    level: str

    @cached_property
    def counts(self) -> Counts:
        """Counts behind its figures."""
        positive = self.target == 1
        patients, with_label, without = (
            len(np.unique(codes)) for codes in (self.codes, self.codes[positive], self.codes[~positive])
        )
        hits = int(positive.sum())
        return Counts(len(positive), hits, len(positive) - hits, self.unknown, patients, with_label, without)

    @property
    def shortages(self) -> tuple[str, str]:
        """Why figures from positives, and from negatives, have no interval; empty if they have one."""
        if not len(self.target):
            return ("its targets are unknown",) * 2
        found = self.counts
        return (
            say_too_few(found.positive_patients, f"with a positive {self.level}"),
            say_too_few(found.negative_patients, f"with a negative {self.level}"),
        )

    @property
    def shortage(self) -> str:
        """Why figures from both have no interval."""
        with_label, without = self.shortages
        return with_label or without

    def score(self, counts: NDArray[np.int32], statistics: Sequence[Statistic]) -> list[Floats]:
        """As ``Ranking.score``, of the raw probabilities."""
        return Ranking(self.target, self.prob, self.codes).score(counts, statistics)

    def score_areas(self, counts: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Returns the (R,) AUROC and average precisions of samples, of the raw probabilities."""
        area, precision = self.score(counts, [find_auroc, find_average_precision])
        return area, precision


class Units:
    """The units of one level, with their probabilities before and after calibration.

    Args:
        predictions: A checked predictions table.
        patients: The patients in that table.
        level: One of ``ich.evaluate.pooling.LEVELS``.
        pooling: One of ``ich.evaluate.pooling.METHODS``.
        decision: The decision with the calibration, if there is one.
    """

    def __init__(
        self,
        predictions: pd.DataFrame,
        patients: Patients,
        level: str,
        pooling: str,
        decision: Decision | None = None,
    ) -> None:
        table = pool(predictions, level, pooling)
        self.level = level
        self.names = find_names(table)
        self.target = table[name_columns("target", self.names)].to_numpy(np.float64)
        self.probs = table[name_columns("prob", self.names)].to_numpy(np.float64)
        self.calibrated = self.probs if decision is None else decision.calibrate(self.probs)
        self.codes = patients.locate(table)

    def column(self, label: str) -> Column:
        """Selects one label, over the units where it is known."""
        i = self.names.index(label)
        known = ~np.isnan(self.target[:, i])
        return Column(
            label=label,
            target=self.target[known, i],
            prob=self.probs[known, i],
            calibrated=self.calibrated[known, i],
            codes=self.codes[known],
            unknown=int((~known).sum()),
            level=self.level,
        )


def measure_level(
    units: Units,
    labels: LabelSet,
    pooling: str,
    counts: NDArray[np.int32],
    decision: Decision | None,
    prevalences: Sequence[float],
    training_prevalences: Floats | None,
) -> tuple[LevelFigures, dict[str, Curves]]:
    """Measures every label of a level.

    Args:
        units: The units of this level: slices, series, studies or patients.
        labels: The predicted labels, with their weights.
        pooling: Method that pooled them.
        counts: (R, P) how often each patient counts, from ``draw_patients``.
        decision: The calibration and the operating points, if there are any.
        prevalences: Prevalences at which predictive values are given.
        training_prevalences: (L,) what the constant predictor says; the table's own without them.
    """
    by_label, curves, areas = {}, {}, {}
    for label in labels.names:
        column = units.column(label)
        by_label[label], curves[label], areas[label] = _measure_label(column, counts, decision, prevalences)
    short = [label for label in labels.names if units.column(label).shortage]
    if training_prevalences is None:
        known = (~np.isnan(units.target)).sum(axis=0)
        training_prevalences = divide(np.nansum(units.target, axis=0), known)
    constant = np.broadcast_to(training_prevalences, units.target.shape)
    missing = unavailable(NO_DECISION)
    figures = LevelFigures(
        pooling=pooling,
        units=len(units.target),
        labels=by_label,
        auroc_mean_subtypes=average_subtypes(areas, labels, short),
        weighted_log_loss=estimate_loss(units.target, units.probs, units.codes, counts, labels),
        weighted_log_loss_calibrated=missing
        if decision is None
        else estimate_loss(units.target, units.calibrated, units.codes, counts, labels),
        constant_log_loss=float(divide(*weigh_losses(units.target, constant, labels.weights).sum(axis=0))),
    )
    return figures, curves


def estimate_areas(column: Column, area: Floats, precision: Floats) -> Areas:
    """Estimates from the samples of ``Column.score_areas``."""
    return Areas(*(estimate(samples, column.shortage, bounds=(0.0, 1.0)) for samples in (area, precision)))


def average_subtypes(areas: Mapping[str, Floats], labels: LabelSet, short: Sequence[str]) -> Estimate:
    """Averages over the subtypes that have an AUROC.

    Args:
        areas: (R,) AUROC of samples, or differences of them, by label.
        labels: The mean is over ``LabelSet.averaged``.
        short: Labels with too few patients for an interval.
    """
    subtypes = [label for label in labels.averaged if not math.isnan(areas[label][0])]
    if not subtypes:
        return unavailable("no subtype has an AUROC")
    few = [label for label in subtypes if label in short]
    shortage = f"fewer than {FEW} patients with, or without, {', '.join(few)}" if few else ""
    return estimate(np.mean([areas[label] for label in subtypes], axis=0), shortage, bounds=(0.0, 1.0))


def sample_losses(
    target: Floats, probs: Floats, codes: Ints, counts: NDArray[np.int32], labels: LabelSet
) -> Floats:
    """Returns the (R,) weighted log losses of samples."""
    terms = weigh_losses(target, probs, labels.weights)
    loss, weight = (counts @ sum_by_patient(codes, counts.shape[1], terms)).T
    return divide(loss, weight)


def estimate_loss(
    target: Floats, probs: Floats, codes: Ints, counts: NDArray[np.int32], labels: LabelSet
) -> Estimate:
    """Estimates the weighted log loss; without an interval if there are fewer than ``FEW`` patients."""
    figure = estimate(sample_losses(target, probs, codes, counts, labels))
    few = say_too_few(counts.shape[1], "in all")
    if few and not math.isnan(figure.value):
        return Estimate(figure.value, math.nan, math.nan, few)
    return figure


def _measure_label(
    column: Column, counts: NDArray[np.int32], decision: Decision | None, prevalences: Sequence[float]
) -> tuple[LabelFigures, Curves, Floats]:
    """Figures, curves, and the AUROC of every sample."""
    shortage = column.shortage
    if shortage:
        area, precision = column.score_areas(counts)
        roc = precision_recall = None
    else:
        area, precision, rates, precisions = column.score(
            counts, [find_auroc, find_average_precision, find_roc, find_precision_recall]
        )
        roc, precision_recall = _band(rates), _band(precisions)
    raw, reliability = measure_calibration(column.target, column.prob, column.codes, counts, shortage)
    obstacle = shortage or find_missing_calibration(column.label, decision)
    calibrated, reliability_calibrated = (
        (without_calibration(obstacle), None)
        if obstacle
        else measure_calibration(column.target, column.calibrated, column.codes, counts, shortage)
    )
    figures = LabelFigures(
        counts=column.counts,
        prevalence=_measure_prevalence(column, counts),
        auroc=estimate(area, shortage, bounds=(0.0, 1.0)),
        auroc_delong=estimate_delong(column.target, column.prob, column.codes, shortage),
        average_precision=estimate(precision, shortage, bounds=(0.0, 1.0)),
        raw=raw,
        calibrated=calibrated,
        operating_point=measure_point(column, counts, decision, prevalences),
    )
    curves = Curves(roc, precision_recall, reliability, reliability_calibrated, _count_bins(column))
    return figures, curves, area


def find_missing_calibration(label: str, decision: Decision | None) -> str:
    """Says why a label has no calibrated probabilities; empty if it has."""
    if decision is None:
        return NO_DECISION
    if isinstance(found := decision.calibration[label], NotFitted):
        return f"not calibrated on the validation set: {found.missing}"
    return ""


def measure_point(
    column: Column, counts: NDArray[np.int32], decision: Decision | None, prevalences: Sequence[float]
) -> OperatingFigures:
    """Measures one label at the operating point of a decision, or says why there is none."""
    if decision is None:
        return without_point(NO_DECISION, prevalences)
    point = decision.operating_points[column.label]
    if isinstance(point, NotFitted):
        return without_point(f"none was chosen on the validation set: {point.missing}", prevalences)
    return measure_at_point(
        column.target, column.calibrated, column.codes, counts, point, prevalences, column.shortages
    )


def _measure_prevalence(column: Column, counts: NDArray[np.int32]) -> Estimate:
    terms = np.stack([column.target, np.ones_like(column.target)], axis=1)
    positives, known = (counts @ sum_by_patient(column.codes, counts.shape[1], terms)).T
    patients = column.counts.patients
    few = say_too_few(patients, f"with a {column.level} whose label is known")
    return estimate_share(divide(positives, known), patients, few)


def _band(samples: Floats) -> Band:
    """(R, G) curves of samples, the table's own first -> the curve with its band."""
    drawn = samples[1:][~np.isnan(samples[1:, 0])]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) else np.full((2, len(GRID)), math.nan)
    return Band(GRID, samples[0], low, high)


def _count_bins(column: Column) -> Histogram:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    positives, negatives = (
        np.histogram(column.prob[column.target == value], edges)[0].astype(np.int64) for value in (1, 0)
    )
    return Histogram(edges, positives, negatives)
