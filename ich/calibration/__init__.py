"""What turns a model's probabilities into honest ones, and those into decisions.

All of it is fitted on the validation part, once, and carried to whatever comes after. Targets that are NaN
are left out. Where there is too little to fit on, nothing is fitted and the reason is kept.

``to_dict`` gives plain values for the card of a model; ``from_dict`` takes them back and believes nothing in
them: they may come out of a file that somebody else has made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit

from ich.calibration.fits import MAX_KNOTS, Floats, fit_isotonic, fit_logistic
from ich.calibration.points import OperatingPoint, choose_operating_point
from ich.calibration.sample import find_shortage, take_known
from ich.schema import LABELS, UserError
from ich.schema.fields import Check, check_fields, is_number, is_share, is_text, show

METHODS = ("temperature", "platt", "isotonic")
"""How a probability is calibrated; see ``Calibrator``."""

DECIDED_LEVELS = ("slice", "study")
"""Levels that a model carries decisions for."""

T = TypeVar("T")

CLIP = 1e-7
"""Probabilities are clipped to [CLIP, 1 - CLIP] before their logit; float32 tells none apart nearer to 1."""


@dataclass(frozen=True)
class Calibrator:
    """A rising map from probability to probability.

    With p the probability and logit(p) = log(p / (1 - p)):

    - ``temperature``: sigmoid(logit(p) / temperature). Guo et al., On Calibration of Modern Neural Networks,
      ICML 2017; here with one temperature a label.
    - ``platt``: sigmoid(slope * logit(p) + intercept), by maximum likelihood. Platt, Probabilistic Outputs
      for Support Vector Machines, 1999; his smoothing of targets is left out where the classes overlap, which
      makes it the same as logistic recalibration, and gives a curve where they do not.
    - ``isotonic``: straight between ``probs``, where it has ``values``, and level beyond them. Zadrozny and
      Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates, KDD 2002. It ties
      what lies on one of its level stretches, so that operating points on it are coarser.

    Attributes:
        method: One of ``METHODS``.
        parameters: By name: ``temperature``; ``slope`` and ``intercept``; or ``probs`` and ``values``.
    """

    method: str
    parameters: dict[str, Any]

    def apply(self, prob: ArrayLike) -> Floats:
        """(N,) probabilities -> (N,) calibrated ones."""
        values = np.asarray(prob, np.float64)
        if self.method == "isotonic":
            calibrated = np.interp(values, self.parameters["probs"], self.parameters["values"])
        elif self.method == "temperature":
            calibrated = expit(to_logits(values) / self.parameters["temperature"])
        else:
            calibrated = expit(self.parameters["slope"] * to_logits(values) + self.parameters["intercept"])
        return np.asarray(calibrated, np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"method": self.method, **self.parameters}

    @classmethod
    def from_dict(cls, found: Any, source: str) -> Self:
        """Takes back what ``to_dict`` gave.

        Raises:
            UserError: Naming ``source`` and the first field that is not as it was written.
        """
        method = found.get("method") if isinstance(found, dict) else None
        if method not in METHODS:  # a list, too, is not in it
            raise UserError(f"{source} is {show(found)}; expected a method, one of {', '.join(METHODS)}")
        check_fields(found, _METHOD | _PARAMETERS[method], source)
        parameters = {name: found[name] for name in _PARAMETERS[method]}
        if method == "isotonic" and len(parameters["probs"]) != len(parameters["values"]):
            raise UserError(f"{source}: probs and values differ in length")
        return cls(method, parameters)


def fit_calibrator(
    target: ArrayLike, prob: ArrayLike, method: str, *, patients: ArrayLike | None = None
) -> Calibrator | None:
    """Fits one label.

    Args:
        target: (N,) 0 or 1; NaN where unknown, which leaves the row out.
        prob: (N,) probabilities.
        method: One of ``METHODS``.
        patients: (N,) whose each row is; with them a class needs several patients.

    Returns:
        None where ``find_obstacle`` names one.

    Raises:
        UserError: If the method is unknown.
    """
    if find_obstacle(target, prob, method, patients=patients):
        return None
    known, probs = take_known(target, prob)
    if method == "isotonic":
        places, values = fit_isotonic(probs, known)
        return Calibrator(method, {"probs": places, "values": values})
    x = to_logits(probs)
    if method == "platt" and _are_parted(x, known):
        positives = known.sum()
        known = np.where(known == 1, (positives + 1) / (positives + 2), 1 / (len(known) - positives + 2))
    slope, intercept = fit_logistic(x, known, with_intercept=method == "platt")
    if method == "temperature":
        return Calibrator(method, {"temperature": 1 / slope})
    return Calibrator(method, {"slope": slope, "intercept": intercept})


def find_obstacle(
    target: ArrayLike, prob: ArrayLike, method: str, *, patients: ArrayLike | None = None
) -> str | None:
    """Why a label cannot be calibrated, in words that name nobody; None where it can.

    Beside ``find_shortage``: classes that one half parts have no temperature of highest likelihood, and where
    probabilities are no higher with the label than without, the best curve would fall.

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
        return "the probabilities are no higher where the label is present"
    if method == "temperature" and x[known == 1].min() >= 0 >= x[known == 0].max():
        return "the probabilities part the two classes without overlap: any steeper curve fits better"
    return None


def _are_parted(x: Floats, known: Floats) -> bool:
    """Whether the classes do not overlap, so that any steeper curve fits better."""
    return bool(x[known == 1].min() >= x[known == 0].max())


@dataclass(frozen=True)
class Calibration:
    """A calibrator a label.

    Attributes:
        calibrators: For each of ``LABELS``; None leaves its probabilities as they are.
        reasons: Why there is none, for the labels that have none.
    """

    calibrators: Mapping[str, Calibrator | None]
    reasons: Mapping[str, str]

    def apply(self, probs: ArrayLike) -> Floats:
        """(N, 6) probabilities in the order of ``LABELS`` -> (N, 6) calibrated ones."""
        calibrated = np.array(probs, np.float64)
        for i, label in enumerate(LABELS):
            if (calibrator := self.calibrators[label]) is not None:
                calibrated[:, i] = calibrator.apply(calibrated[:, i])
        return calibrated

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values: a calibrator, or why it is missing, by label."""
        return _to_dict(self.calibrators, self.reasons)

    @classmethod
    def from_dict(cls, found: Any, source: str) -> Self:
        """Takes back what ``to_dict`` gave.

        Raises:
            UserError: Naming ``source`` and the first field that is not as it was written.
        """
        return cls(*_from_dict(found, Calibrator.from_dict, source))


@dataclass(frozen=True)
class Decision:
    """How the probabilities of one level are calibrated and what counts as positive.

    Attributes:
        pooling: How slices become a unit, by its name in ``ich.evaluate.pooling``; at level ``slice`` it
            changes nothing.
        calibration: Fitted on the pooled probabilities.
        operating_points: For each of ``LABELS``, on the calibrated probabilities; None where there is none.
        reasons: Why, for those.
    """

    pooling: str
    calibration: Calibration
    operating_points: Mapping[str, OperatingPoint | None]
    reasons: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for a checkpoint that loads with ``weights_only`` and for JSON."""
        return {
            "pooling": self.pooling,
            "calibration": self.calibration.to_dict(),
            "operating_points": _to_dict(self.operating_points, self.reasons),
        }

    @classmethod
    def from_dict(cls, found: Any, source: str) -> Self:
        """Takes back what ``to_dict`` gave.

        Raises:
            UserError: Naming ``source`` and the first field that is not as it was written.
        """
        check_fields(found, _DECISION, source)
        calibration = Calibration.from_dict(found["calibration"], f"{source}.calibration")
        points = _from_dict(found["operating_points"], OperatingPoint.from_dict, f"{source}.operating_points")
        return cls(found["pooling"], calibration, *points)


def fit_decision(
    target: ArrayLike, probs: ArrayLike, patients: ArrayLike, *, pooling: str, method: str, rule: str
) -> Decision:
    """Fits the calibration of one level, and on what it gives chooses the operating points.

    Args:
        target: (N, 6) 0 or 1; NaN where unknown.
        probs: (N, 6) pooled probabilities.
        patients: (N,) PatientID.
        pooling: How they were pooled.
        method: One of ``METHODS``.
        rule: As ``choose_operating_point`` takes it.

    Raises:
        UserError: If method or rule is unknown.
    """
    targets = dict(zip(LABELS, np.asarray(target, np.float64).T, strict=True))
    raw = np.asarray(probs, np.float64)
    calibrators, obstacles = {}, {}
    for label, column in zip(LABELS, raw.T, strict=True):
        calibrators[label] = fit_calibrator(targets[label], column, method, patients=patients)
        if calibrators[label] is None:
            found = find_obstacle(targets[label], column, method, patients=patients)
            obstacles[label] = str(found)
    calibration = Calibration(calibrators, obstacles)
    points, reasons = {}, {}
    for label, column in zip(LABELS, calibration.apply(raw).T, strict=True):
        points[label] = choose_operating_point(targets[label], column, rule, patients=patients)
        if points[label] is None:
            reasons[label] = find_shortage(targets[label], patients) or f"no threshold serves {rule}"
    return Decision(pooling, calibration, points, reasons)


def parse_decisions(found: Any, source: str) -> dict[str, Decision]:
    """Makes decisions, by level, of plain values that a file holds.

    Args:
        found: ``Decision.to_dict`` by level, if it is what it should be; of none, one or more levels.
        source: Names its place in the message.

    Raises:
        UserError: Naming the first field that is not as it was written.
    """
    if not isinstance(found, dict) or not found.keys() <= set(DECIDED_LEVELS):
        known = " and ".join(DECIDED_LEVELS)
        raise UserError(f"{source} is {show(found)}; expected decisions for the levels {known}")
    return {level: Decision.from_dict(found[level], f"{source}.{level}") for level in found}


def to_logits(prob: Floats) -> Floats:
    """log(p / (1 - p)) of probabilities, clipped."""
    logits: Floats = logit(np.clip(prob, CLIP, 1 - CLIP))
    return logits


def _to_dict(things: Mapping[str, Any], reasons: Mapping[str, str]) -> dict[str, Any]:
    return {
        label: {"missing": reasons[label]} if thing is None else thing.to_dict()
        for label, thing in things.items()
    }


def _from_dict(
    found: Any, make: Callable[[Any, str], T], source: str
) -> tuple[dict[str, T | None], dict[str, str]]:
    """What stands there by label, and the reasons of those that are missing."""
    check_fields(found, dict.fromkeys(LABELS, _FIELDS), source)
    things: dict[str, T | None] = {}
    reasons = {}
    for label in LABELS:
        if "missing" in found[label]:
            check_fields(found[label], _MISSING, f"{source}.{label}")
            reasons[label] = found[label]["missing"]
            things[label] = None
        else:
            things[label] = make(found[label], f"{source}.{label}")
    return things, reasons


def _are_shares(value: Any, rising: Callable[[float, float], bool]) -> bool:
    listed = isinstance(value, list) and 1 <= len(value) <= MAX_KNOTS and all(map(is_share, value))
    return listed and all(rising(a, b) for a, b in pairwise(value))


_FIELDS: tuple[Check, str] = (lambda value: isinstance(value, dict), "fields")
_POSITIVE: tuple[Check, str] = (lambda value: is_number(value) and value > 0, "a number above 0")
_MISSING: dict[str, tuple[Check, str]] = {
    "missing": (lambda value: is_text(value) and value.isprintable(), "a reason")
}
_DECISION: dict[str, tuple[Check, str]] = {
    "pooling": (
        lambda value: is_text(value) and re.fullmatch(r"[a-z0-9_]+", value) is not None,
        "the name of a pooling",
    ),
    "calibration": _FIELDS,
    "operating_points": _FIELDS,
}
_METHOD: dict[str, tuple[Check, str]] = {"method": (is_text, "a method")}
_PARAMETERS: dict[str, dict[str, tuple[Check, str]]] = {
    "temperature": {"temperature": _POSITIVE},
    "platt": {"slope": _POSITIVE, "intercept": (is_number, "a number")},
    "isotonic": {
        "probs": (
            lambda value: _are_shares(value, lambda a, b: a < b),
            f"1 to {MAX_KNOTS} rising numbers from 0 to 1",
        ),
        "values": (
            lambda value: _are_shares(value, lambda a, b: a <= b),
            f"1 to {MAX_KNOTS} numbers from 0 to 1 that do not fall",
        ),
    },
}
