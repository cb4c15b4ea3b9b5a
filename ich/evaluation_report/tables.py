"""The figures of an evaluation as tables for a reader. Each says how many units and patients it covers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from ich.evaluate.comparison import Comparison
from ich.evaluate.figures import FEW, Estimate, Evaluation, LabelFigures
from ich.report.document import Table
from ich.schema.shares import show_number, show_percent
from ich.tables import PLURALS, say


def describe_basis(evaluation: Evaluation, level: str) -> str:
    """Says how many units and patients the figures of a level cover."""
    units, patients = evaluation.levels[level].units, evaluation.patients
    of = "" if level == "patient" else f" of {say(patients, 'patient')}"
    return (
        f"{say(units, level)}{of}. In brackets: 95 % interval (bootstrap over patients, "
        f"{evaluation.replicates:,} samples). n/a: not available"
    )


def show_signed(estimate: Estimate, spec: str = "+.3f") -> str:
    """Formats a figure that may be negative, with its interval: ``+0.082 (-0.002 to +0.162)``."""
    if math.isnan(estimate.value):
        return "n/a"
    interval = "" if math.isnan(estimate.low) else f" ({estimate.low:{spec}} to {estimate.high:{spec}})"
    return f"{estimate.value:{spec}}{interval}"


def list_reasons(estimates: Mapping[str, Estimate]) -> list[str]:
    """Lists why figures of labels are not available: one line per reason, with its labels."""
    labels: dict[str, list[str]] = {}
    for label, estimate in estimates.items():
        if estimate.reason:
            labels.setdefault(estimate.reason, []).append(label)
    return [f"{', '.join(names)}: {reason}" for reason, names in labels.items()]


def make_counts(evaluation: Evaluation) -> Table:
    """Tabulates the positives of each label at each level, and their patients."""
    rows = []
    for label in next(iter(evaluation.levels.values())).labels:
        cells = []
        for figures in evaluation.levels.values():
            found = figures.labels[label].counts
            patients = f" ({found.positive_patients:,})" if found.positives else ""
            cells.append(f"{found.positives:,} of {found.units:,}{patients}")
        few = evaluation.levels[next(iter(evaluation.levels))].labels[label].counts.positive_patients < FEW
        rows.append([label, *cells, "few" if few else ""])
    header = ["label", *(f"positive {PLURALS[level]}" for level in evaluation.levels), "note"]
    caption = (
        "Positives among the units with a known label, and in brackets the number of patients that they "
        f"come from; {say(evaluation.patients, 'patient')} in all. few: fewer than {FEW} patients, too few "
        "for an interval"
    )
    return Table(header, rows, caption)


def make_main(evaluation: Evaluation, level: str) -> Table:
    """Tabulates the figures that matter most, with the deciding label first."""
    figures, headline = evaluation.levels[level].labels, evaluation.labels.headline
    rows = []
    for label in [headline, *(label for label in figures if label != headline)]:
        each = figures[label]
        point = each.operating_point
        cells = [f"{figure:.3f}" for figure in (each.auroc, point.sensitivity, point.specificity)]
        rows.append([label, _positives(each), *cells])
    header = ["label", f"positive {PLURALS[level]} (patients)", "AUROC", "sensitivity", "specificity"]
    return Table(header, rows, f"Main figures by {level}: {describe_basis(evaluation, level)}")


def make_discrimination(evaluation: Evaluation, level: str) -> Table:
    """Tabulates AUROC, with intervals by bootstrap and by DeLong, and average precision."""
    figures = evaluation.levels[level]
    rows = [
        [
            label,
            _positives(each),
            f"{each.auroc:.3f}",
            f"{each.auroc_delong:.3f}",
            f"{each.average_precision:.3f}",
        ]
        for label, each in figures.labels.items()
    ]
    rows.append(["mean of the subtypes given", "", f"{figures.auroc_mean_subtypes:.3f}", "", ""])
    header = ["label", "positives (patients)", "AUROC", "AUROC, interval by DeLong", "average precision"]
    return Table(header, rows, f"Discrimination by {level}: {describe_basis(evaluation, level)}")


def make_losses(evaluation: Evaluation) -> Table:
    """Tabulates the weighted log loss at each level."""
    rows = [
        [
            f"by {level}",
            f"{figures.weighted_log_loss:.4f}",
            f"{figures.weighted_log_loss_calibrated:.4f}",
            "n/a" if math.isnan(figures.constant_log_loss) else f"{figures.constant_log_loss:.4f}",
        ]
        for level, figures in evaluation.levels.items()
    ]
    caption = (
        "Weighted log loss of the RSNA 2019 challenge; lower is better. constant: a predictor that always "
        f"predicts the prevalences. {say(evaluation.patients, 'patient')}. In brackets: 95 % interval "
        f"(bootstrap over patients, {evaluation.replicates:,} samples)"
    )
    return Table(["level", "as predicted", "calibrated", "constant"], rows, caption)


def make_operating(evaluation: Evaluation, level: str) -> Table:
    """Tabulates the figures at the operating points."""
    rows = []
    for label, each in evaluation.levels[level].labels.items():
        point = each.operating_point
        known = not math.isnan(point.threshold)
        counts = (point.true_positives, point.false_negatives, point.true_negatives, point.false_positives)
        rows.append(
            [
                label,
                show_number(point.threshold) if known else "n/a",
                f"{point.sensitivity:.3f}",
                f"{point.specificity:.3f}",
                f"{point.ppv:.3f}",
                f"{point.npv:.3f}",
                f"{point.f1:.3f}",
                " / ".join(f"{number:,}" for number in counts) if known else "n/a",
            ]
        )
    rule = next(
        (p.rule for each in evaluation.levels[level].labels.values() if (p := each.operating_point).rule), ""
    )
    chosen = f"chosen on {evaluation.decided_on} with {rule}" if rule else "none was chosen"
    header = ["label", "threshold", "sensitivity", "specificity", "PPV", "NPV", "F1", "TP / FN / TN / FP"]
    return Table(
        header, rows, f"At the operating points by {level}, {chosen}: {describe_basis(evaluation, level)}"
    )


def make_predictive(evaluation: Evaluation, level: str) -> Table:
    """Tabulates predictive values at given prevalences; labels without an operating point are left out."""
    rows = [
        [f"{label}, {show_percent(value.prevalence)}", f"{value.ppv:.3f}", f"{value.npv:.3f}"]
        for label, each in evaluation.levels[level].labels.items()
        for value in each.operating_point.at_prevalences
        if not math.isnan(value.ppv.value) or not math.isnan(value.npv.value)
    ]
    header = ["label, prevalence", "PPV", "NPV"]
    caption = f"Predictive values by {level} at the given prevalences"
    return Table(header, rows, f"{caption}: {describe_basis(evaluation, level)}")


def make_calibration(evaluation: Evaluation, level: str) -> Table:
    """Tabulates calibration, before and after calibration."""
    rows = []
    for label, each in evaluation.levels[level].labels.items():
        for name, found in (("as predicted", each.raw), ("calibrated", each.calibrated)):
            figures = (found.brier, found.slope, found.intercept, found.in_the_large, found.expected_error)
            if not all(math.isnan(figure.value) for figure in figures):
                rows.append([f"{label}, {name}", *(show_signed(figure, ".3f") for figure in figures)])
    header = ["label", "Brier score", "slope", "intercept", "in the large", "expected error"]
    caption = (
        "Calibration by {level}: slope 1 and intercept 0 are ideal. A slope below 1 means that "
        "probabilities are too extreme. A value above 0 in the large means that they are too low on the "
        "whole"
    )
    return Table(header, rows, f"{caption.format(level=level)}. {describe_basis(evaluation, level)}")


def make_pooling(evaluation: Evaluation) -> Table:
    """Tabulates the AUROC by study for each pooling method."""
    effect = evaluation.pooling_effect
    labels = list(next(iter(effect.values())))
    rows = [[label, *(f"{by_label[label].auroc:.3f}" for by_label in effect.values())] for label in labels]
    basis = describe_basis(evaluation, "study")
    return Table(["label", *effect], rows, f"AUROC by study, for each method to pool slices: {basis}")


def make_subgroups(groups: pd.DataFrame, level: str) -> Table:
    """Tabulates figures of subgroups, one row per group."""
    rows = []
    for _, found in groups.groupby(["column", "group", "label"], sort=False):
        first = found.iloc[0]
        by_name = {row["figure"]: to_estimate(row) for _, row in found.iterrows()}
        positives = f"{first['positives']:,} of {first['units']:,}"
        figures = (f"{by_name[name]:.3f}" for name in ("auroc", "sensitivity", "specificity"))
        rows.append(
            [
                f"{first['column']}: {first['group']}",
                str(first["label"]),
                positives,
                f"{first['patients']:,}",
                *figures,
            ]
        )
    header = [
        "group",
        "label",
        f"positive {PLURALS[level]}",
        "patients",
        "AUROC",
        "sensitivity",
        "specificity",
    ]
    return Table(
        header,
        rows,
        f"Subgroups by {level}. In brackets: 95 % interval (bootstrap over the group's patients)",
    )


def to_estimate(row: pd.Series) -> Estimate:
    """Reads an estimate from a row of ``subgroups``."""
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), str(row["reason"]))


def make_models(comparison: Comparison) -> Table:
    """Tabulates the AUROC of each label, and the log loss, of each model."""
    models = comparison.models.values()
    rows = [
        [label, *(f"{model.labels[label].auroc:.3f}" for model in models)]
        for label in next(iter(models)).labels
    ]
    rows.append(["mean of subtypes", *(f"{model.auroc_mean_subtypes:.3f}" for model in models)])
    rows.append(["weighted log loss", *(f"{model.weighted_log_loss:.4f}" for model in models)])
    caption = f"AUROC by {comparison.level} of each model, and the weighted log loss: {_basis(comparison)}"
    return Table(["label", *comparison.models], rows, caption)


def make_pairs(comparison: Comparison) -> Iterable[Table]:
    """Tabulates the differences of every two models."""
    for pair in comparison.pairs:
        rows = [
            [
                label,
                show_signed(each.auroc),
                "n/a" if math.isnan(each.auroc_delong.p_value) else f"{each.auroc_delong.p_value:.3g}",
                show_signed(each.average_precision),
            ]
            for label, each in pair.labels.items()
        ]
        rows.append(["mean of subtypes", show_signed(pair.auroc_mean_subtypes), "", ""])
        rows.append(["weighted log loss", show_signed(pair.weighted_log_loss), "", ""])
        header = ["label", "difference in AUROC", "p by DeLong", "difference in average precision"]
        caption = (
            f"{pair.a} minus {pair.b} by {comparison.level}, paired: {_basis(comparison)}. p-values are not "
            "corrected for multiple testing"
        )
        yield Table(header, rows, caption)


def _basis(comparison: Comparison) -> str:
    return (
        f"{say(comparison.slices, 'slice')} of {say(comparison.patients, 'patient')}. In brackets: 95 % "
        f"interval (bootstrap over patients, {comparison.replicates:,} samples)"
    )


def _positives(figures: LabelFigures) -> str:
    found = figures.counts
    return f"{found.positives:,} ({found.positive_patients:,})"
