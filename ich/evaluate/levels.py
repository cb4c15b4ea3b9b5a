"""The figures of one level: slices, or pooled series, studies or patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ich.calibration import Decision
from ich.evaluate.calibration_error import measure_calibration, weigh_losses, without_calibration
from ich.evaluate.curves import Band, Curves, Histogram
from ich.evaluate.delong import estimate_delong
from ich.evaluate.estimate import divide, estimate, estimate_share, say_too_few, sum_by_patient
from ich.evaluate.figures import (
    FEW,
    Areas,
    Estimate,
    LabelFigures,
    LevelFigures,
    OperatingFigures,
    unavailable,
    without_interval,
)
from ich.evaluate.roc import GRID, find_auroc, find_average_precision, find_precision_recall, find_roc
from ich.evaluate.thresholds import measure_at_point, without_point
from ich.evaluate.units import NO_DECISION, Column, Units
from ich.schema.labels import LabelSet

Floats = NDArray[np.float64]

HISTOGRAM_BINS = 50


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
    columns = {label: units.column(label) for label in labels.names}
    by_label, curves, areas = {}, {}, {}
    for label, column in columns.items():
        by_label[label], curves[label], areas[label] = _measure_label(column, counts, decision, prevalences)
    if training_prevalences is None:
        known = (~np.isnan(units.target)).sum(axis=0)
        training_prevalences = divide(np.nansum(units.target, axis=0), known)
    constant = np.broadcast_to(training_prevalences, units.target.shape)
    patients = counts.shape[1]
    figures = LevelFigures(
        pooling=pooling,
        units=len(units.target),
        labels=by_label,
        auroc_mean_subtypes=average_subtypes(areas, labels, columns),
        weighted_log_loss=estimate_loss(sample_losses(units, units.probs, labels, counts), patients),
        weighted_log_loss_calibrated=unavailable(NO_DECISION)
        if decision is None
        else estimate_loss(sample_losses(units, units.calibrated, labels, counts), patients),
        constant_log_loss=float(divide(*weigh_losses(units.target, constant, labels.weights).sum(axis=0))),
    )
    return figures, curves


def estimate_areas(column: Column, area: Floats, precision: Floats) -> Areas:
    """Estimates from the samples of ``Column.score_areas``."""
    return Areas(*(estimate(samples, column.shortage, bounds=(0.0, 1.0)) for samples in (area, precision)))


def average_subtypes(
    areas: Mapping[str, Floats], labels: LabelSet, columns: Mapping[str, Column]
) -> Estimate:
    """Averages over the subtypes that have an AUROC.

    Args:
        areas: (R,) AUROC of samples, or differences of them, by label.
        labels: The mean is over ``LabelSet.averaged``.
        columns: The units of each label.
    """
    subtypes = [label for label in labels.averaged if not math.isnan(areas[label][0])]
    if not subtypes:
        return unavailable("no subtype has an AUROC")
    few = [label for label in subtypes if columns[label].shortage]
    shortage = f"fewer than {FEW} patients with, or without, {', '.join(few)}" if few else ""
    return estimate(np.mean([areas[label] for label in subtypes], axis=0), shortage, bounds=(0.0, 1.0))


def sample_losses(units: Units, probs: Floats, labels: LabelSet, counts: NDArray[np.int32]) -> Floats:
    """Returns the (R,) weighted log losses of samples, from (N, L) probabilities of the units."""
    terms = weigh_losses(units.target, probs, labels.weights)
    loss, weight = (counts @ sum_by_patient(units.codes, counts.shape[1], terms)).T
    return divide(loss, weight)


def estimate_loss(samples: Floats, patients: int) -> Estimate:
    """Estimates the weighted log loss; without an interval if there are fewer than ``FEW`` patients."""
    figure = estimate(samples)
    few = say_too_few(patients, "in all")
    return figure if math.isnan(figure.value) or not few else without_interval(figure.value, few)


def _measure_label(
    column: Column, counts: NDArray[np.int32], decision: Decision | None, prevalences: Sequence[float]
) -> tuple[LabelFigures, Curves, Floats]:
    """Measures a label; returns its figures, its curves, and the AUROC of every sample."""
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
    obstacle = shortage or column.uncalibrated
    calibrated, reliability_calibrated = (
        (without_calibration(obstacle), None)
        if obstacle
        else measure_calibration(column.target, column.calibrated, column.codes, counts, shortage)
    )
    areas = estimate_areas(column, area, precision)
    figures = LabelFigures(
        counts=column.counts,
        prevalence=_measure_prevalence(column, counts),
        auroc=areas.auroc,
        auroc_delong=estimate_delong(column.target, column.prob, column.codes, shortage),
        average_precision=areas.average_precision,
        raw=raw,
        calibrated=calibrated,
        operating_point=measure_point(column, counts, decision, prevalences),
    )
    curves = Curves(roc, precision_recall, reliability, reliability_calibrated, _count_bins(column))
    return figures, curves, area


def measure_point(
    column: Column, counts: NDArray[np.int32], decision: Decision | None, prevalences: Sequence[float]
) -> OperatingFigures:
    """Measures one label at the operating point of a decision, or says why there is none."""
    point = None if decision is None else decision.find_point(column.label)
    if point is None or column.undecided:
        return without_point(column.undecided, prevalences)
    return measure_at_point(
        column.target, column.called, column.codes, counts, point, prevalences, column.shortages
    )


def _measure_prevalence(column: Column, counts: NDArray[np.int32]) -> Estimate:
    terms = np.stack([column.target, np.ones_like(column.target)], axis=1)
    positives, known = (counts @ sum_by_patient(column.codes, counts.shape[1], terms)).T
    patients = column.counts.patients
    few = say_too_few(patients, f"with a {column.level} whose label is known")
    return estimate_share(divide(positives, known), patients, few)


def _band(samples: Floats) -> Band:
    """Returns the curve of the table with its band, from (R, G) curves of samples with the table's first."""
    drawn = samples[1:][~np.isnan(samples[1:, 0])]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0) if len(drawn) else np.full((2, len(GRID)), math.nan)
    return Band(GRID, samples[0], low, high)


def _count_bins(column: Column) -> Histogram:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    positives, negatives = (
        np.histogram(column.prob[column.target == value], edges)[0].astype(np.int64) for value in (1, 0)
    )
    return Histogram(edges, positives, negatives)
