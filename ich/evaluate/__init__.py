"""Predictions table -> figures with intervals.

Everything here is a function of the predictions table of ``ich.tables`` alone: no model, no GPU, no disk.
Intervals are 95 % percentile intervals of a bootstrap over patients (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 13): the slices of one patient are not independent of each other.

``areas`` computes AUROC and average precision, ``estimate`` draws the patients; what a table and two tables
are summed up to stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from rich import box
from rich.table import Table

from ich.evaluate.areas import Ranking
from ich.evaluate.estimate import Estimate, bootstrap, to_plain
from ich.schema import DISCLAIMER, LABEL_WEIGHTS, LABELS, SUBTYPES, UserError
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS, require_columns

FEW = 5
"""With fewer patients than this behind a label's positives its interval is marked ``few``."""

EPSILON = 1e-15
"""Probabilities are clipped to [EPSILON, 1 - EPSILON] before the logarithm, as the RSNA 2019 metric does."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelSummary:
    """How well one label is told from its absence.

    Attributes:
        slices: Slices of which the label is known.
        positives: Slices that have it.
        positive_patients: Patients with at least one such slice.
        few: Fewer than ``FEW`` patients have it, so that the intervals mean little.
        auroc: Area under the receiver operating characteristic.
        average_precision: Sum over thresholds of the gain in recall times the precision.
    """

    slices: int
    positives: int
    positive_patients: int
    few: bool
    auroc: Estimate
    average_precision: Estimate


@dataclass(frozen=True)
class Summary:
    """The figures of a predictions table.

    Attributes:
        slices: Rows of the table.
        patients: Distinct PatientID.
        replicates: Bootstrap samples behind the intervals.
        labels: A summary for each of ``LABELS``.
        auroc_mean_subtypes: Mean over the subtypes that have an AUROC.
        weighted_log_loss: The RSNA 2019 metric.
        constant_log_loss: The same for a predictor that always says the prevalences.
    """

    slices: int
    patients: int
    replicates: int
    labels: dict[str, LabelSummary]
    auroc_mean_subtypes: Estimate
    weighted_log_loss: Estimate
    constant_log_loss: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values fit for JSON: an estimate as ``x`` and ``x_interval``, None for NaN."""
        return to_plain(self)


@dataclass(frozen=True)
class Difference:
    """One figure of two predictors on the same slices, and their difference ``a - b``."""

    a: float
    b: float
    difference: Estimate


@dataclass(frozen=True)
class Comparison:
    """Two predictions tables of the same slices, figure by figure."""

    slices: int
    patients: int
    replicates: int
    auroc: dict[str, Difference]
    average_precision: dict[str, Difference]
    auroc_mean_subtypes: Difference
    weighted_log_loss: Difference

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values fit for JSON: an estimate as ``x`` and ``x_interval``, None for NaN."""
        return to_plain(self)


def summarize(
    predictions: pd.DataFrame,
    *,
    prevalences: Mapping[str, float] | ArrayLike | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Summary:
    """Summarises a predictions table, with intervals by bootstrap over patients.

    Args:
        predictions: A predictions table; targets are NaN where unknown, and are then left out.
        prevalences: What the constant predictor says, by label or in the order of ``LABELS``; those of the
            training part, that the comparison be fair. Without them, those of the table itself.
        replicates: Bootstrap samples. Those in which a label lacks a class are left out of its interval.
        seed: Of the resampling.

    Raises:
        UserError: If the table is none, is empty, has a slice twice or holds impossible values.
    """
    scores = _Scores(predictions)
    estimates = bootstrap(scores, scores.patients, replicates, seed)
    constant = scores.prevalences if prevalences is None else _check_prevalences(prevalences)
    loss, weight = _loss_terms(scores.target, np.broadcast_to(constant, scores.target.shape))
    labels = {
        label: _summarize_label(scores.target[:, i], scores.codes, estimates[i], estimates[len(LABELS) + i])
        for i, label in enumerate(LABELS)
    }
    return Summary(
        slices=len(predictions),
        patients=scores.patients,
        replicates=replicates,
        labels=labels,
        auroc_mean_subtypes=estimates[-2],
        weighted_log_loss=estimates[-1],
        constant_log_loss=_ratio(loss.sum(), weight.sum()),
    )


def compare(a: pd.DataFrame, b: pd.DataFrame, *, replicates: int = 1000, seed: int = 0) -> Comparison:
    """Compares two predictions tables of the same slices by a paired bootstrap over patients.

    Every resample of patients is scored by both tables, so that what makes a patient hard for both does
    not widen the interval. Tables of several folds are compared concatenated.

    Args:
        a: A predictions table.
        b: Another, of the same slices in any order.
        replicates: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        Each figure of ``a`` and of ``b``, and their difference ``a - b`` with its 95 % interval.

    Raises:
        UserError: If the tables differ in slices, patients or targets, or one of them is no such table.
    """
    scores_a = _Scores(a)
    scores_b = _Scores(_align(a, b))
    target_a, target_b = (np.nan_to_num(scores.target, nan=-1) for scores in (scores_a, scores_b))
    if others := int((target_a != target_b).any(axis=1).sum()):
        raise UserError(
            f"the two predictions tables differ in the targets of {others} slices: "
            "make both from the same labels"
        )
    estimates = bootstrap(
        lambda counts: scores_a(counts) - scores_b(counts), scores_a.patients, replicates, seed
    )
    once = np.ones(scores_a.patients)
    differences = [
        Difference(float(value_a), float(value_b), estimate)
        for value_a, value_b, estimate in zip(scores_a(once), scores_b(once), estimates, strict=True)
    ]
    return Comparison(
        slices=len(a),
        patients=scores_a.patients,
        replicates=replicates,
        auroc=dict(zip(LABELS, differences, strict=False)),
        average_precision=dict(zip(LABELS, differences[len(LABELS) :], strict=False)),
        auroc_mean_subtypes=differences[-2],
        weighted_log_loss=differences[-1],
    )


def render_summary(summary: Summary, title: str) -> Table:
    """Lays a summary out as the table that ends a run; it fits into 80 columns."""
    few = any(label.few for label in summary.labels.values())
    note = f"* positives from fewer than {FEW} patients: the interval says little\n" if few else ""
    table = Table(
        title=f"{title}: {summary.slices:,} slices of {summary.patients:,} patients",
        caption=f"95 % intervals by bootstrap over patients\n{note}{DISCLAIMER}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("label", no_wrap=True)
    table.add_column("positives\n(patients)", no_wrap=True)
    table.add_column("AUROC\n(95 %)", no_wrap=True)
    table.add_column("average precision\n(95 %)", no_wrap=True)
    for label, figures in summary.labels.items():
        mark = "*" if figures.few else ""
        table.add_row(
            label,
            f"{figures.positives:,} ({figures.positive_patients:,}){mark}",
            f"{figures.auroc:.3f}",
            f"{figures.average_precision:.3f}",
            end_section=label == LABELS[-1],
        )
    constant = summary.constant_log_loss
    table.add_row("mean of subtypes", "", f"{summary.auroc_mean_subtypes:.3f}", "")
    versus = "n/a" if math.isnan(constant) else f"{constant:.4f}"
    table.add_row("log loss", "", f"{summary.weighted_log_loss:.4f}", f"constant: {versus}")
    return table


def _summarize_label(
    target: Floats, codes: NDArray[np.intp], area: Estimate, precision: Estimate
) -> LabelSummary:
    patients = len(np.unique(codes[target == 1]))
    return LabelSummary(
        slices=int(np.count_nonzero(~np.isnan(target))),
        positives=int(np.count_nonzero(target == 1)),
        positive_patients=patients,
        few=patients < FEW,
        auroc=area,
        average_precision=precision,
    )


class _Scores:
    """A predictions table made ready to be scored again and again with patients drawn anew.

    Calling it with the times that each patient was drawn gives the AUROC of each label, the average
    precision of each label, the mean AUROC of the subtypes and the weighted log loss.
    """

    def __init__(self, predictions: pd.DataFrame) -> None:
        _check(predictions)
        self.target = predictions[list(TARGET_COLUMNS)].to_numpy(np.float64)
        self.codes, names = pd.factorize(predictions["PatientID"])
        self.patients = len(names)
        probs = predictions[list(PROB_COLUMNS)].to_numpy(np.float64)
        self.rankings = [Ranking(self.target[:, i], probs[:, i]) for i in range(len(LABELS))]
        self.ranked_codes = [self.codes[ranking.rows] for ranking in self.rankings]
        self.loss, self.weight = (
            np.bincount(self.codes, weights=terms, minlength=self.patients)
            for terms in _loss_terms(self.target, probs)
        )
        subtypes = self.rankings[: len(SUBTYPES)]
        self.two_classes = [i for i, r in enumerate(subtypes) if 0 < len(r.positives) < len(r.rows)]

    @property
    def prevalences(self) -> Floats:
        """(6,) share of positives among the known slices of each label; NaN where none is known."""
        return np.array([_ratio(len(r.positives), len(r.rows)) for r in self.rankings])

    def __call__(self, counts: Floats) -> Floats:
        pairs = np.array(
            [
                ranking.score(counts[codes])
                for ranking, codes in zip(self.rankings, self.ranked_codes, strict=True)
            ]
        )
        mean = pairs[self.two_classes, 0].mean() if self.two_classes else math.nan
        loss = _ratio(float(counts @ self.loss), float(counts @ self.weight))
        return np.concatenate([pairs[:, 0], pairs[:, 1], [mean, loss]])


def _loss_terms(target: Floats, probs: Floats) -> tuple[Floats, Floats]:
    """(N,) weighted cross-entropy of each slice over its known labels, and (N,) the sum of their weights."""
    known = ~np.isnan(target)
    clipped = np.clip(probs, EPSILON, 1 - EPSILON)
    entropy = -np.where(target == 1, np.log(clipped), np.log1p(-clipped))
    weights = np.where(known, np.asarray(LABEL_WEIGHTS), 0.0)
    return np.where(known, weights * entropy, 0.0).sum(axis=1), weights.sum(axis=1)


def _check(predictions: pd.DataFrame) -> None:
    columns = ("SOPInstanceUID", "PatientID", *PROB_COLUMNS, *TARGET_COLUMNS)
    require_columns(predictions, columns, "the predictions table")
    if predictions.empty:
        raise UserError("the predictions table is empty: there is nothing to evaluate")
    if twice := int(predictions["SOPInstanceUID"].duplicated().sum()):
        raise UserError(f"the predictions table has {twice} slices more than once: give it one row a slice")
    if nameless := int(predictions["PatientID"].isna().sum()):
        raise UserError(f"the predictions table lacks the PatientID of {nameless} slices")
    probs = predictions[list(PROB_COLUMNS)].to_numpy(np.float64)
    if not ((probs >= 0) & (probs <= 1)).all():
        raise UserError("the predictions table holds probabilities that are missing or outside [0, 1]")
    target = predictions[list(TARGET_COLUMNS)].to_numpy(np.float64)
    if not (np.isnan(target) | (target == 0) | (target == 1)).all():
        raise UserError("the predictions table holds targets other than 0, 1 and unknown (empty)")


def _check_prevalences(prevalences: Mapping[str, float] | ArrayLike) -> Floats:
    if isinstance(prevalences, Mapping):
        if missing := [label for label in LABELS if label not in prevalences]:
            raise UserError(f"prevalences lack {', '.join(missing)}: expected one for each of {LABELS}")
        prevalences = [prevalences[label] for label in LABELS]
    values = np.asarray(prevalences, np.float64)
    if values.shape != (len(LABELS),) or ((values < 0) | (values > 1)).any():
        raise UserError(f"prevalences={values.tolist()}: expected {len(LABELS)} values in [0, 1]")
    return values


def _align(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``b`` in the order of ``a``."""
    _check(b)
    only_a, only_b = (
        int((~one["SOPInstanceUID"].isin(other["SOPInstanceUID"])).sum()) for one, other in ((a, b), (b, a))
    )
    if only_a or only_b:
        raise UserError(
            f"the two predictions tables are of different slices: {only_a} are in the first only, "
            f"{only_b} in the second only"
        )
    aligned = b.set_index("SOPInstanceUID").loc[a["SOPInstanceUID"]].reset_index()
    if others := int((aligned["PatientID"].to_numpy() != a["PatientID"].to_numpy()).sum()):
        raise UserError(f"the two predictions tables name other patients for {others} of their slices")
    return aligned


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else math.nan
