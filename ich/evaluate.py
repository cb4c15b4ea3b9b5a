"""Predictions table -> figures with intervals.

Everything here is a function of the predictions table of ``ich.tables`` alone: no model, no GPU, no disk.
Intervals are 95 % percentile intervals of a bootstrap over patients (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, chapter 13): the slices of one patient are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from rich import box
from rich.table import Table

from ich.schema import LABEL_WEIGHTS, LABELS, SUBTYPES, UserError
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS, require_columns

FEW = 5
"""With fewer patients than this behind a label's positives its interval is marked ``few``."""

EPSILON = 1e-15
"""Probabilities are clipped to [EPSILON, 1 - EPSILON] before the logarithm, as the RSNA 2019 metric does."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where it is not available.

    It formats like a float, ``f"{estimate:.3f}"``: ``0.912 (0.880-0.940)``, or ``n/a``.
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "n/a"
        return f"{self.value:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


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
        return _plain_fields(self)


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
        return _plain_fields(self)


def auroc(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Area under the receiver operating characteristic, exact with ties.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the slice out.
        prob: (N,) scores, higher for 1.
        weight: (N,) weights of 0 or more; each slice once without it.

    Returns:
        The area, or NaN where one class is absent.
    """
    return _score(target, prob, weight)[0]


def average_precision(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Average precision, the sum over thresholds of the gain in recall times the precision.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the slice out.
        prob: (N,) scores, higher for 1.
        weight: (N,) weights of 0 or more; each slice once without it.

    Returns:
        The average precision, or NaN where one class is absent.
    """
    return _score(target, prob, weight)[1]


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
    estimates = _bootstrap(scores, scores.patients, replicates, seed)
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
    estimates = _bootstrap(
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
        caption=f"95 % intervals by bootstrap over patients\n{note}Research use only; not a medical device",
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


class _Ranking:
    """The known slices of a label from the highest probability down, with the ties of each positive.

    Only sums up to the first slice of a positive's probability and past the last one enter the figures, so
    that another weighting costs one gather and one running sum.
    """

    def __init__(self, target: Floats, prob: Floats) -> None:
        known = np.flatnonzero(~np.isnan(target))
        self.rows = known[np.argsort(-prob[known], kind="stable")]
        falling, positive = -prob[self.rows], target[self.rows] == 1
        self.positives = np.flatnonzero(positive)
        self.start = np.searchsorted(falling, falling[self.positives], "left")
        self.stop = np.searchsorted(falling, falling[self.positives], "right")
        before = np.concatenate([[0], np.cumsum(positive)])
        self.positive_start, self.positive_stop = before[self.start], before[self.stop]

    def score(self, weight: Floats) -> tuple[float, float]:
        """Returns AUROC and average precision for (K,) weights in the order of ``rows``."""
        own = weight[self.positives]
        total, hits = (np.concatenate([[0.0], np.cumsum(values)]) for values in (weight, own))
        positives, negatives = hits[-1], total[-1] - hits[-1]
        if not (positives > 0 and negatives > 0):
            return math.nan, math.nan
        above = total[self.start] - hits[self.positive_start]  # negatives that rank higher
        reached = total[self.stop]
        above_or_level = reached - hits[self.positive_stop]
        precision = np.divide(hits[self.positive_stop], reached, out=np.zeros_like(own), where=reached > 0)
        area = 1 - own @ (above + above_or_level) / (2 * positives * negatives)
        return float(area), float(own @ precision / positives)


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
        self.rankings = [_Ranking(self.target[:, i], probs[:, i]) for i in range(len(LABELS))]
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


def _bootstrap(
    statistic: Callable[[Floats], Floats], patients: int, replicates: int, seed: int
) -> list[Estimate]:
    if replicates < 1:
        raise UserError(f"replicates={replicates}: expected at least 1")
    rng = np.random.default_rng(seed)
    draws = (rng.integers(patients, size=patients) for _ in range(replicates))
    samples = np.array([statistic(np.bincount(d, minlength=patients).astype(np.float64)) for d in draws])
    values = statistic(np.ones(patients))
    return [_estimate(value, sample) for value, sample in zip(values, samples.T, strict=True)]


def _estimate(value: float, sample: Floats) -> Estimate:
    sample = sample[~np.isnan(sample)]
    if math.isnan(value) or not sample.size:
        return Estimate(float(value), math.nan, math.nan)
    low, high = np.percentile(sample, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))


def _loss_terms(target: Floats, probs: Floats) -> tuple[Floats, Floats]:
    """(N,) weighted cross-entropy of each slice over its known labels, and (N,) the sum of their weights."""
    known = ~np.isnan(target)
    clipped = np.clip(probs, EPSILON, 1 - EPSILON)
    entropy = -np.where(target == 1, np.log(clipped), np.log1p(-clipped))
    weights = np.where(known, np.asarray(LABEL_WEIGHTS), 0.0)
    return np.where(known, weights * entropy, 0.0).sum(axis=1), weights.sum(axis=1)


def _score(target: ArrayLike, prob: ArrayLike, weight: ArrayLike | None) -> tuple[float, float]:
    ranking = _Ranking(np.asarray(target, np.float64), np.asarray(prob, np.float64))
    weights = np.ones(np.shape(target)) if weight is None else np.asarray(weight, np.float64)
    return ranking.score(weights[ranking.rows])


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


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return _plain_fields(value) if is_dataclass(value) else value


def _plain_fields(figures: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name in (field.name for field in fields(figures)):
        value = getattr(figures, name)
        if isinstance(value, Estimate):
            plain[name] = _plain(value.value)
            plain[f"{name}_interval"] = [_plain(value.low), _plain(value.high)]
        else:
            plain[name] = _plain(value)
    return plain
