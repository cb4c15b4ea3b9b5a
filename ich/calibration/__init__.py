"""Calibrates a model's probabilities, and turns them into decisions.

Everything is fitted once on the validation set, and then applied unchanged. Targets that are NaN are left
out. If there are too few data to fit, nothing is fitted and the reason is kept.

A decision is stored in the file of a model or in its own file. The origin of such a file is unknown, so the
types of the fields define its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Len
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from ich.calibration.choice import CLIP
from ich.calibration.fits import MAX_KNOTS, Floats, fit_isotonic, fit_logistic
from ich.calibration.points import OperatingPoint, choose_operating_point
from ich.calibration.sample import find_shortage, take_known
from ich.schema import LABELS, UserError
from ich.schema.formats import (
    STRICT,
    ChosenBy,
    Expected,
    Explanation,
    Number,
    Positive,
    Share,
    check_keys,
)

__all__ = ["Decision", "Isotonic", "Platt", "Temperature", "fit_calibrator", "fit_decision"]

DECIDED_LEVELS = ("slice", "study")
"""Levels for which a model has decisions."""


@dataclass(frozen=True)
class Temperature:
    """sigmoid(logit(p) / temperature), where logit(p) = log(p / (1 - p)).

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017; here with one temperature for each label.
    """

    method: Literal["temperature"] = field(default="temperature", kw_only=True)
    temperature: Positive

    def apply(self, prob: ArrayLike) -> Floats:
        """(N,) probabilities -> (N,) calibrated ones."""
        return _sigmoid(to_logits(prob) / self.temperature)


@dataclass(frozen=True)
class Platt:
    """sigmoid(slope * logit(p) + intercept), by maximum likelihood.

    Platt, Probabilistic Outputs for Support Vector Machines, 1999. His smoothing of targets is left out
    where classes overlap, so that it is logistic recalibration. It gives a curve where they do not.
    """

    method: Literal["platt"] = field(default="platt", kw_only=True)
    slope: Positive
    intercept: Number

    def apply(self, prob: ArrayLike) -> Floats:
        """(N,) probabilities -> (N,) calibrated ones."""
        return _sigmoid(self.slope * to_logits(prob) + self.intercept)


def _is_rising(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _never_falls(values: Sequence[float]) -> bool:
    return all(a <= b for a, b in pairwise(values))


_Knots = Annotated[tuple[Share, ...], Len(1, MAX_KNOTS)]


@dataclass(frozen=True)
class Isotonic:
    """Linear between the points ``probs`` and ``values``, and constant beyond them.

    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD
    2002. It ties probabilities on its constant stretches, so operating points on it are coarser.
    """

    method: Literal["isotonic"] = field(default="isotonic", kw_only=True)
    probs: Annotated[_Knots, Expected(f"1 to {MAX_KNOTS} rising numbers from 0 to 1", _is_rising)]
    values: Annotated[
        _Knots, Expected(f"1 to {MAX_KNOTS} numbers from 0 to 1 that do not fall", _never_falls)
    ]

    def __post_init__(self) -> None:
        if len(self.probs) != len(self.values):
            raise ValueError("probs and values differ in length")

    def apply(self, prob: ArrayLike) -> Floats:
        """(N,) probabilities -> (N,) calibrated ones."""
        return np.asarray(np.interp(np.asarray(prob, np.float64), self.probs, self.values), np.float64)


Calibrator = Temperature | Platt | Isotonic
"""A rising function from probability to probability."""

METHODS: dict[str, type[Calibrator]] = {"temperature": Temperature, "platt": Platt, "isotonic": Isotonic}
"""Kinds of calibrators."""


@dataclass(frozen=True)
class NotFitted:
    """Replaces a fit if there were too few data.

    Attributes:
        missing: The reason.
    """

    missing: Explanation


def fit_calibrator(
    target: ArrayLike, prob: ArrayLike, method: str, *, patients: ArrayLike | None = None
) -> Calibrator | None:
    """Fits one label.

    Args:
        target: (N,) 0 or 1; NaN where unknown, and then the row is left out.
        prob: (N,) probabilities.
        method: One of ``METHODS``.
        patients: (N,) the patient of each row; with them a class needs several patients.

    Returns:
        None if ``find_obstacle`` names an obstacle.

    Raises:
        UserError: If the method is unknown.
    """
    if find_obstacle(target, prob, method, patients=patients):
        return None
    known, probs = take_known(target, prob)
    if method == "isotonic":
        places, values = fit_isotonic(probs, known)
        return Isotonic(tuple(places), tuple(values))
    x = to_logits(probs)
    if method == "platt" and _are_parted(x, known):
        positives = known.sum()
        known = np.where(known == 1, (positives + 1) / (positives + 2), 1 / (len(known) - positives + 2))
    slope, intercept = fit_logistic(x, known, with_intercept=method == "platt")
    if method == "temperature":
        return Temperature(1 / slope)
    return Platt(slope, intercept)


def find_obstacle(
    target: ArrayLike, prob: ArrayLike, method: str, *, patients: ArrayLike | None = None
) -> str | None:
    """Says why a label cannot be calibrated, without names; None if it can.

    Beside ``find_shortage``: classes that one half parts have no temperature of highest likelihood, and where
    probabilities are not higher with the label than without, the best curve would fall.

    Raises:
        UserError: If the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f"calibration={method}: expected one of {', '.join(METHODS)}")
    if shortage := find_shortage(target, patients):
        return shortage
    known, probs = take_known(target, prob)
    if method == "isotonic":
        return None
    x = to_logits(probs)
    middle = known.mean() if method == "platt" else 0.5
    if (known - middle) @ x <= 0:  # the likelihood falls from slope 0 on, and it has one peak
        return "probabilities are not higher with the label than without it"
    if method == "temperature" and x[known == 1].min() >= 0 >= x[known == 0].max():
        return "the probabilities separate the two classes without overlap, so any steeper curve fits better"
    return None


def _are_parted(x: Floats, known: Floats) -> bool:
    """Whether the classes do not overlap, so any steeper curve fits better."""
    return bool(x[known == 1].min() >= x[known == 0].max())


def _choose_calibrator(found: Mapping[str, Any]) -> str | None:
    kind = NotFitted if "missing" in found else METHODS.get(str(found.get("method")))
    return None if kind is None else kind.__name__


def _choose_point(found: Mapping[str, Any]) -> str:
    return "NotFitted" if "missing" in found else "OperatingPoint"


_Calibrator = Annotated[
    Temperature | Platt | Isotonic | NotFitted,
    ChosenBy(_choose_calibrator, f"a method, one of {', '.join(METHODS)}"),
]
_Point = Annotated[OperatingPoint | NotFitted, ChosenBy(_choose_point, "fields")]
_Pooling = Annotated[str, Expected("the name of a pooling", pattern="^[a-z0-9_]{1,200}$")]


@dataclass(frozen=True)
class Decision:
    """Calibration and operating points of one level.

    Attributes:
        pooling: Name of the pooling method in ``ich.evaluate.pooling``; at level ``slice`` it changes
            nothing.
        calibration: The calibrator of the pooled probabilities, for each label in its order. A label that was
            not fitted keeps its probabilities.
        operating_points: For each label, on the calibrated probabilities.
    """

    __pydantic_config__ = STRICT

    pooling: _Pooling
    calibration: Mapping[str, _Calibrator]
    operating_points: Mapping[str, _Point]

    def __post_init__(self) -> None:
        check_keys(self.calibration, self.operating_points, "calibration")

    def calibrate(self, probs: ArrayLike) -> Floats:
        """(N, L) probabilities -> (N, L) calibrated ones."""
        calibrated = np.array(probs, np.float64)
        for i, calibrator in enumerate(self.calibration.values()):
            if not isinstance(calibrator, NotFitted):
                calibrated[:, i] = calibrator.apply(calibrated[:, i])
        return calibrated

    def find_point(self, label: str) -> OperatingPoint | None:
        """Finds the operating point of a label; None if there is none."""
        point = self.operating_points[label]
        return None if isinstance(point, NotFitted) else point


Level = Annotated[str, Expected("a level", DECIDED_LEVELS.__contains__)]


def fit_decision(
    target: ArrayLike,
    probs: ArrayLike,
    patients: ArrayLike,
    *,
    pooling: str,
    method: str,
    rule: str,
    names: Sequence[str] = LABELS,
) -> Decision:
    """Fits the calibration of one level, and chooses the operating points on calibrated probabilities.

    Args:
        target: (N, L) 0 or 1; NaN where unknown.
        probs: (N, L) pooled probabilities.
        patients: (N,) PatientID.
        pooling: Method that pooled them.
        method: One of ``METHODS``.
        rule: Rule as in ``choose_operating_point``.
        names: The L labels.

    Raises:
        UserError: If method or rule is unknown.
    """
    targets = dict(zip(names, np.asarray(target, np.float64).T, strict=True))
    raw = dict(zip(names, np.asarray(probs, np.float64).T, strict=True))
    calibration: dict[str, Calibrator | NotFitted] = {}
    points: dict[str, OperatingPoint | NotFitted] = {}
    for label, known in targets.items():
        calibrator = fit_calibrator(known, raw[label], method, patients=patients)
        calibration[label] = calibrator or NotFitted(
            str(find_obstacle(known, raw[label], method, patients=patients))
        )
        prob = raw[label] if calibrator is None else calibrator.apply(raw[label])
        points[label] = choose_operating_point(known, prob, rule, patients=patients) or NotFitted(
            find_shortage(known, patients) or f"no threshold fulfills {rule}"
        )
    return Decision(pooling, calibration, points)


def order_decisions(
    decisions: Mapping[str, Decision], names: Sequence[str], source: str
) -> dict[str, Decision]:
    """Brings decisions, by level, into the order of a model's labels.

    Raises:
        UserError: If they are for other labels.
    """
    ordered = {}
    for level, each in decisions.items():
        try:
            check_keys(each.calibration, names, f"{source}.{level}.calibration")
        except ValueError as error:
            raise UserError(str(error)) from error
        ordered[level] = Decision(
            each.pooling,
            {name: each.calibration[name] for name in names},
            {name: each.operating_points[name] for name in names},
        )
    return ordered


def to_logits(prob: ArrayLike) -> Floats:
    """log(p / (1 - p)) of probabilities, clipped."""
    logits: Floats = logit(np.clip(np.asarray(prob, np.float64), CLIP, 1 - CLIP))
    return logits


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(expit(logits), np.float64)
