"""Operating points: the lowest probability that counts as positive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike

from ich.calibration.fits import Floats
from ich.calibration.sample import find_shortage, take_known
from ich.schema import UserError
from ich.schema.formats import Expected, Share

_LIMIT = r"(?P<kind>sensitivity|specificity)\s*>=\s*"
_COST = r"(?P<cost>cost)\s*:\s*"
_RULE = re.compile(rf"\s*(?:{_LIMIT}|{_COST})(?P<value>\d+(?:\.\d*)?|\.\d+)\s*", re.ASCII)

_ROUNDING = 1e-9
"""Tolerance: 0.95 of 20 positives are 19, whatever the rounding of the quotient."""


@dataclass(frozen=True)
class OperatingPoint:
    """An operating point: positive means a calibrated probability of at least ``threshold``.

    Attributes:
        threshold: Threshold on the calibrated probability.
        rule: Rule that chose it.
        sensitivity: Sensitivity on the data that chose it.
        specificity: Specificity on the same data.
    """

    threshold: Share
    rule: Annotated[str, Expected("a rule such as sensitivity>=0.95", _is_rule)]
    sensitivity: Share
    specificity: Share


def choose_operating_point(
    target: ArrayLike, prob: ArrayLike, rule: str, *, patients: ArrayLike | None = None
) -> OperatingPoint | None:
    """Chooses a threshold among the given probabilities.

    With P positives, N negatives, and TP(t) and FP(t) of each at or above the threshold t:

    - ``sensitivity>=x``: the t with TP(t) / P >= x and the fewest false positives. Of several, it is the
      lowest, which misses the fewest.
    - ``specificity>=x``: the lowest t with 1 - FP(t) / N >= x, which misses the fewest.
    - ``cost:c``: the t with the smallest c * (P - TP(t)) + FP(t), where a miss costs as much as c false
      positives. Of several, it is the lowest.

    Args:
        target: (N,) 0 or 1; NaN where unknown, and then the row is left out.
        prob: (N,) calibrated probabilities.
        rule: One of these.
        patients: (N,) the patient of each row; with them a class needs several patients.

    Returns:
        None if ``find_shortage`` finds too few data, no probability has the specificity, or calling every
        case negative costs less than any threshold.

    Raises:
        UserError: If the rule is not valid.
    """
    parse_rule(rule)
    if find_shortage(target, patients):
        return None
    known, probs = take_known(target, prob)
    return _choose(probs, known, 1 - known, rule)


def choose_expected_point(prob: Floats, counts: Floats, rule: str) -> OperatingPoint | None:
    """Chooses a threshold as ``choose_operating_point`` does, on expected counts instead of targets.

    A unit of probability p counts as p positives and 1 - p negatives, so sensitivity and specificity follow
    from the distribution of calibrated probabilities. They vary less than those of few targets do. Source:
    Huang, Pepe and Feng, Evaluating the Predictiveness of a Continuous Marker, Biometrics 2007;63:1181.

    Args:
        prob: (N,) calibrated probabilities, N at least 1.
        counts: (N,) how much each unit counts.
        rule: Rule as in ``choose_operating_point``.

    Returns:
        The point with its expected sensitivity and specificity; None if no threshold fulfills the rule.

    Raises:
        UserError: If the rule is not valid.
    """
    return _choose(prob, counts * prob, counts * (1 - prob), rule)


def _choose(prob: Floats, positive: Floats, negative: Floats, rule: str) -> OperatingPoint | None:
    """Chooses among (N,) probabilities, of units that count as (N,) positives and (N,) negatives."""
    kind, value = parse_rule(rule)
    thresholds, rows = np.unique(prob, return_inverse=True)
    found = np.bincount(rows, weights=positive)[::-1].cumsum()[::-1]  # positives at or above each threshold
    alarms = np.bincount(rows, weights=negative)[::-1].cumsum()[::-1]
    positives, negatives = found[0], alarms[0]
    sensitivity, specificity = found / positives, 1 - alarms / negatives
    if kind == "sensitivity":
        fewest = alarms[np.flatnonzero(sensitivity >= value - _ROUNDING)[-1]]
        i = int(np.flatnonzero(alarms == fewest)[0])
    elif kind == "specificity":
        if not (reached := np.flatnonzero(specificity >= value - _ROUNDING)).size:
            return None
        i = int(reached[0])
    else:
        cost = value * (positives - found) + alarms
        i = int(cost.argmin())
        if value * positives < cost[i]:
            return None
    return OperatingPoint(float(thresholds[i]), rule, float(sensitivity[i]), float(specificity[i]))


def parse_rule(rule: str) -> tuple[str, float]:
    """Parses a rule.

    Returns:
        ``sensitivity``, ``specificity`` or ``cost``, and its number.

    Raises:
        UserError: If it is not a rule.
    """
    match = _RULE.fullmatch(rule) if isinstance(rule, str) and len(rule) <= 40 else None
    if match is not None:
        kind, value = match["kind"] or match["cost"], float(match["value"])
        if value > 0 and (kind == "cost" or value <= 1):
            return kind, value
    raise UserError(
        f"rule={rule}: expected sensitivity>=X or specificity>=X, X above 0 and at most 1, or cost:C with C "
        "above 0, the number of false positives that a miss costs; for instance sensitivity>=0.95"
    )


def _is_rule(value: str) -> bool:
    try:
        parse_rule(value)
    except UserError:
        return False
    return True
