"""From the probabilities of slices to the result of their study, without a network or a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision
from ich.evaluate.pooling import DEFAULT_POOLING, pool_unit
from ich.schema.codes import Reason
from ich.schema.results import KEY_SLICES, LabelResult, Outcome, Remark, SliceResult, list_middles

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """Calibration and operating points by level, from the model metadata or a calibration file.

    Attributes:
        slice: Rule for slices; None leaves them uncalibrated.
        study: Rule for studies; None gives no outcome.
        decides: The label behind the outcome; None gives none.
    """

    slice: Decision | None
    study: Decision | None
    decides: str | None = "any"

    @property
    def pooling(self) -> str:
        """Method that pools slices to a study."""
        return DEFAULT_POOLING if self.study is None else self.study.pooling

    @property
    def rule(self) -> str:
        """Rule that chose the operating point of the label that decides; empty without one."""
        known = self.study is not None and self.decides is not None
        point = self.study.find_point(self.decides) if known else None  # type: ignore[union-attr, arg-type]
        return "" if point is None else point.rule


@dataclass(frozen=True)
class Scores:
    """Outputs of networks for the slices of a series, or for its slabs, in order.

    Attributes:
        names: The labels.
        probs: (M, N, L) probabilities of M members, not calibrated. Thin slices are averaged to N slabs.
        mean: (N, L) mean of the members' probabilities, smoothed if the ensemble smooths its mean.
        distance: (M,) distance of the study from each member's training data; NaN if a member has no
            reference.
        limit: (M,) distance above which the study is out of distribution; NaN likewise.
        series: (L,) mean of the members' probabilities of the series; None unless every member has a network
            over series.
    """

    names: Sequence[str]
    probs: Floats
    mean: Floats
    distance: Floats
    limit: Floats
    series: Floats | None = None

    @property
    def series_probs(self) -> dict[str, float] | None:
        """Probability of the series by label; None if unknown."""
        return None if self.series is None else dict(zip(self.names, self.series.tolist(), strict=True))


def list_counted(slices: int, left_out: Collection[int]) -> list[int]:
    """Lists the places of the slices that count for a study; all of them if all are left out."""
    return [place for place in range(slices) if place not in left_out] or list(range(slices))


def pool_labels(
    scores: Scores, rules: Sequence[Rules], left_out: Collection[int] = ()
) -> dict[str, LabelResult]:
    """Pools and calibrates each member, and averages probabilities and thresholds.

    Nothing is decided yet: see ``decide_labels``.

    A label is therefore present if the members are above their own thresholds on average: a soft vote. A
    label has no operating point if one member has none for it.

    Args:
        scores: Scores of the ensemble's members.
        rules: A rule for each member, or one for all: then the members' probabilities are averaged first.
        left_out: Places of slices that do not count.
    """
    found, thresholds = [], []
    counted = list_counted(scores.probs.shape[1], left_out)
    for probs, rule in _pair(scores, rules):
        pooled = pool_unit(probs[counted], rule.pooling)  # (L,)
        found.append(pooled if rule.study is None else rule.study.calibrate(pooled[None])[0])
        given = [None if rule.study is None else rule.study.find_point(label) for label in scores.names]
        thresholds.append([np.nan if point is None else point.threshold for point in given])
    prob, threshold = np.mean(found, axis=0), np.mean(thresholds, axis=0)
    return {
        label: LabelResult(float(p), None if np.isnan(t) else float(t), None)
        for label, p, t in zip(scores.names, prob, threshold, strict=True)
    }


def make_slices(
    scores: Scores,
    rules: Sequence[Rules],
    slices: pd.DataFrame,
    left_out: Mapping[int, Remark],
    slabs: Sequence[Sequence[int]],
) -> tuple[SliceResult, ...]:
    """Makes the result of each slice; calibrated if every member can calibrate slices.

    Slices of one slab have its probabilities.

    Args:
        scores: Scores of the ensemble's members.
        rules: As in ``pool_labels``.
        slices: One row per slice, in order: SOPInstanceUID, InstanceNumber and position.
        left_out: Why slices do not count, by their place.
        slabs: The places of the slices behind each of ``scores``.
    """
    slab_of = {place: number for number, slab in enumerate(slabs) for place in slab}
    is_averaged = len(slabs) < len(slices)
    calibrated = None
    if all(rule.slice is not None for rule in rules):
        each = [rule.slice.calibrate(probs) for probs, rule in _pair(scores, rules) if rule.slice is not None]
        calibrated = np.mean(each, axis=0)
    return tuple(
        SliceResult(
            SOPInstanceUID=uid,
            InstanceNumber=int(number) if np.isfinite(number) else None,
            position=float(position) if np.isfinite(position) else None,
            probs=dict(zip(scores.names, scores.mean[slab_of[row]].tolist(), strict=True)),
            calibrated=None
            if calibrated is None
            else dict(zip(scores.names, calibrated[slab_of[row]].tolist(), strict=True)),
            left_out=left_out.get(row),
            slab=slab_of[row] + 1 if is_averaged else None,
        )
        for row, (uid, number, position) in enumerate(
            zip(slices["SOPInstanceUID"], slices["InstanceNumber"], slices["position"], strict=True)
        )
    )


def find_model_reasons(scores: Scores, labels: dict[str, LabelResult], decides: str | None) -> list[Remark]:
    """Finds reasons of the model against a result."""
    remarks = []
    if decides is None:
        remarks.append(Remark(Reason.NO_DECISION, "none of the model's labels decides"))
    elif labels[decides].threshold is None:
        remarks.append(Remark(Reason.NO_DECISION, "it has no calibration or operating point for a study"))
    if np.isnan(scores.distance).any():
        remarks.append(Remark(Reason.NO_REFERENCE, "the model has no reference"))
    distance, limit = find_distance(scores)
    if distance > limit:
        remarks.append(
            Remark(
                Reason.UNLIKE_TRAINING, f"distance {distance:.2f} from the training data, limit {limit:.2f}"
            )
        )
    return remarks


def find_distance(scores: Scores) -> tuple[float, float]:
    """Finds the distance of a study and its limit; NaN without a reference.

    Members have features of their own, so the distance of an ensemble is in units of their limits. It is the
    mean over the members. Their maximum would call more studies unlike the training data the more members
    there are.
    """
    if len(scores.distance) == 1:
        return float(scores.distance[0]), float(scores.limit[0])
    shares = (scores.distance / scores.limit)[~np.isnan(scores.distance / scores.limit)]
    return (float(shares.mean()), 1.0) if len(shares) else (float("nan"), float("nan"))


def choose_key_slices(
    slices: Sequence[SliceResult], outcome: Outcome, labels: dict[str, LabelResult], decides: str | None
) -> tuple[int, ...]:
    """Chooses the slices to look at first: the most probable for the label that decides, then for others."""
    if outcome is not Outcome.POSITIVE or decides is None:
        return ()
    left_out = [place for place, each in enumerate(slices) if each.left_out is not None]
    seen = set(list_middles(slices))
    counted = np.array([place for place in list_counted(len(slices), left_out) if place in seen])
    probs = pd.DataFrame([slices[place].calibrated or slices[place].probs for place in counted])  # (M, L)
    chosen = counted[np.argsort(-probs[decides].to_numpy(), kind="stable")[:KEY_SLICES]].tolist()
    chosen += [int(counted[probs[label].argmax()]) for label in labels if labels[label].reached]
    return tuple(dict.fromkeys(chosen))


def _pair(scores: Scores, rules: Sequence[Rules]) -> list[tuple[Floats, Rules]]:
    """Pairs each member's probabilities with its rules, or the mean of all with the common rules."""
    if len(rules) == 1:
        return [(scores.mean, rules[0])]
    return list(zip(scores.probs, rules, strict=True))
