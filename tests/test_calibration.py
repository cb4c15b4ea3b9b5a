"""Calibration against scikit-learn and scipy, operating points by hand and against a plain search."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ich.calibration import (
    METHODS,
    Decision,
    Isotonic,
    Level,
    NotFitted,
    choose_operating_point,
    find_obstacle,
    fit_calibrator,
    fit_decision,
)
from ich.calibration.sample import find_shortage
from ich.schema import LABELS, UserError
from ich.schema.formats import read_plain, to_plain


def make_cases(seed: int = 0, n: int = 400, decimals: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and probabilities that are too sure of themselves; rounded, so that many are tied."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 1.5, n)
    target = (rng.random(n) < expit(0.6 * x + 0.3)).astype(float)
    return target, expit(1.4 * x).round(decimals)


def log_likelihood(target: np.ndarray, prob: np.ndarray) -> float:
    return float(np.sum(target * np.log(prob) + (1 - target) * np.log1p(-prob)))


@pytest.mark.parametrize("seed", range(4))
def test_temperature_is_that_of_a_grid_search(seed: int) -> None:
    target, prob = make_cases(seed)
    x = logit(prob.clip(1e-7, 1 - 1e-7))
    found = minimize_scalar(
        lambda t: -log_likelihood(target, expit(x / t)), bounds=(0.05, 20), options={"xatol": 1e-12}
    )
    calibrator = fit_calibrator(target, prob, "temperature")
    assert calibrator.temperature == pytest.approx(found.x, rel=1e-6)
    assert calibrator.apply(prob) == pytest.approx(expit(x / found.x), abs=1e-6)


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("seed", range(4))
def test_platt_is_logistic_regression_without_penalty(seed: int, scale: int) -> None:
    target, prob = make_cases(seed)
    prob = expit(logit(prob.clip(1e-3, 1 - 1e-3)) / scale)  # far from the best slope, all on one side
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    reference.fit(scale * logit(prob)[:, None], target)  # scaled, or the reference does not converge
    calibrator = fit_calibrator(target, prob, "platt")
    assert calibrator.slope == pytest.approx(scale * reference.coef_[0, 0], rel=1e-6)
    assert calibrator.intercept == pytest.approx(reference.intercept_[0], abs=1e-6)
    expected = reference.predict_proba(scale * logit(prob)[:, None])[:, 1]
    assert calibrator.apply(prob) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("seed", range(4))
def test_isotonic_is_that_of_scikit_learn(seed: int, decimals: int) -> None:
    target, prob = make_cases(seed, decimals=decimals)
    reference = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(prob, target)
    everywhere = np.concatenate([np.linspace(0, 1, 1001), prob])
    calibrator = fit_calibrator(target, prob, "isotonic")
    assert calibrator.apply(everywhere) == pytest.approx(reference.predict(everywhere), abs=1e-9)


def test_isotonic_curve_of_many_steps_is_kept_short_and_close() -> None:
    target, prob = make_cases(n=200_000, decimals=9)
    full = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(prob, target)
    assert len(full.X_thresholds_) > 64
    calibrator = fit_calibrator(target, prob, "isotonic")
    assert len(calibrator.probs) == len(calibrator.values) <= 64
    assert read_plain(Isotonic, to_plain(calibrator), "here") == calibrator
    assert np.abs(calibrator.apply(prob) - full.predict(prob)).mean() < 0.005
    assert calibrator.apply(prob).mean() == pytest.approx(target.mean(), abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_calibration_keeps_order_and_range_and_passes_by_the_unknown(method: str) -> None:
    target, prob = make_cases(n=60)
    calibrator = fit_calibrator(target, prob, method)
    calibrated = calibrator.apply(np.linspace(0, 1, 999))
    assert (np.diff(calibrated) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()
    more_target, more_prob = np.append(target, [math.nan] * 5), np.append(prob, [0, 1, 0.5, 0.9, math.nan])
    assert fit_calibrator(more_target, more_prob, method) == calibrator
    point = choose_operating_point(target, prob, "sensitivity>=0.9")
    assert choose_operating_point(more_target, more_prob, "sensitivity>=0.9") == point


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_calibration_lowers_the_log_loss_it_is_fitted_to(method: str) -> None:
    target, prob = make_cases()
    clipped = prob.clip(1e-7, 1 - 1e-7)
    after = fit_calibrator(target, prob, method).apply(prob)
    assert log_likelihood(target, after) > log_likelihood(target, clipped) + 5


TEN = [1.0] * 10 + [0.0] * 10
OVERLAP = [*np.linspace(0.4, 0.9, 10), *np.linspace(0.1, 0.6, 10)]


@pytest.mark.parametrize(
    ("target", "prob", "method", "reason"),
    [
        ([1.0] * 9 + [0.0] * 50, [0.5] * 59, "platt", "only 9 positives; at least 10 needed"),
        ([0.0] * 9 + [1.0] * 50, [0.5] * 59, "isotonic", "only 9 negatives; at least 10 needed"),
        ([0.0] * 50, [0.5] * 50, "temperature", "only 0 positives; at least 10 needed"),
        ([math.nan] * 50, [0.5] * 50, "platt", "only 0 positives; at least 10 needed"),
        ([], [], "platt", "only 0 positives; at least 10 needed"),
        (TEN, [0.5] * 20, "platt", "not higher with the label than without it"),
        (TEN, OVERLAP[::-1], "platt", "not higher with the label than without it"),
        (TEN, OVERLAP[::-1], "temperature", "not higher with the label than without it"),
        (TEN, [0.9] * 10 + [0.1] * 10, "platt", None),
        (TEN, [0.9] * 5 + [0.4] * 5 + [0.4] * 5 + [0.1] * 5, "platt", None),
        (TEN, [0.9] * 10 + [0.1] * 10, "temperature", "without overlap"),
        (TEN, [0.9] * 10 + [0.1] * 10, "isotonic", None),
        (TEN, OVERLAP, "platt", None),
        (TEN, OVERLAP, "temperature", None),
        # Parted at another place than one half: a temperature alone has its best value.
        (TEN, [0.4] * 9 + [0.9] + [0.1] * 10, "temperature", None),
    ],
)
def test_what_cannot_be_fitted_is_missing_with_its_reason(target, prob, method, reason) -> None:
    found = find_obstacle(target, prob, method)
    assert (found is None) if reason is None else (reason in found)
    assert (fit_calibrator(target, prob, method) is None) == (reason is not None)


def test_classes_without_overlap_are_fitted_to_platts_smoothed_targets() -> None:
    prob = np.concatenate([np.linspace(0.6, 0.99, 25), np.linspace(0.01, 0.5, 40)])
    target = np.repeat([1.0, 0.0], [25, 40])
    scikit = _SigmoidCalibration().fit(logit(prob), target)  # it smooths always
    calibrator = fit_calibrator(target, prob, "platt")
    assert calibrator.apply(prob) == pytest.approx(scikit.predict(logit(prob)), abs=1e-4)


def test_positives_of_two_patients_are_too_few() -> None:
    target, prob = np.array(TEN), np.array(OVERLAP)
    patients = np.array(["P1", "P2"] * 10)
    patients[target == 0] = [f"P{i}" for i in range(10)]
    assert find_shortage(target, patients) == "only 2 positive patients; at least 3 needed"
    assert fit_calibrator(target, prob, "platt", patients=patients) is None
    assert choose_operating_point(target, prob, "cost:5", patients=patients) is None
    patients[0] = "P3"
    assert find_shortage(target, patients) is None
    assert fit_calibrator(target, prob, "platt", patients=patients) == fit_calibrator(target, prob, "platt")


@pytest.mark.parametrize(
    ("target", "prob", "message"),
    [
        (TEN, [0.5] * 19, "expected"),
        ([*TEN, 2], [0.5] * 21, "targets other than 0, 1"),
        (TEN, [*OVERLAP[:-1], 1.5], r"outside \[0, 1\]"),
        (TEN, [*OVERLAP[:-1], math.nan], r"outside \[0, 1\]"),
    ],
)
def test_impossible_values_are_refused(target, prob, message) -> None:
    with pytest.raises(UserError, match=message):
        fit_calibrator(target, prob, "platt")
    with pytest.raises(UserError, match=message):
        choose_operating_point(target, prob, "cost:1")


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(UserError, match="calibration=beta: expected one of temperature, platt, isotonic"):
        fit_calibrator(TEN, OVERLAP, "beta")


# Twenty positives at 0.05, 0.10 ... 1.00, and ten negatives at 0.00, 0.05 ... 0.45.
POSITIVES = [i / 20 for i in range(1, 21)]
NEGATIVES = [i / 20 for i in range(10)]
HAND = [1.0] * 20 + [0.0] * 10, POSITIVES + NEGATIVES


@pytest.mark.parametrize(
    ("rule", "threshold", "sensitivity", "specificity"),
    [
        ("sensitivity>=0.95", 0.10, 0.95, 0.2),  # 19 of 20; 0.00 and 0.05 are below
        ("sensitivity>=0.951", 0.05, 1.0, 0.1),
        ("sensitivity>=1", 0.05, 1.0, 0.1),
        (
            "sensitivity >= .5",
            0.50,
            0.55,
            1.0,
        ),  # 0.55 has one more false negative
        ("specificity>=0.9", 0.45, 0.6, 0.9),  # 0.45 is the only false positive
        ("specificity>=0.91", 0.50, 0.55, 1.0),
        ("specificity>=1.0", 0.50, 0.55, 1.0),
        ("cost:1", 0.05, 1.0, 0.1),  # 9 false positives; up to 0.50 each one less costs a false negative
        ("cost:5", 0.05, 1.0, 0.1),  # 9 false positives; 0.10 has 8 and a false negative
        ("cost: 0.6", 0.50, 0.55, 1.0),
    ],
)
def test_operating_points_by_hand(rule, threshold, sensitivity, specificity) -> None:
    point = choose_operating_point(*HAND, rule)
    found = point.threshold, point.sensitivity, point.specificity
    assert found == pytest.approx((threshold, sensitivity, specificity))
    assert point.rule == rule


@pytest.mark.parametrize("decimals", [1, 8])
@pytest.mark.parametrize("seed", range(5))
def test_operating_points_are_the_best_of_all(seed: int, decimals: int) -> None:
    target, prob = make_cases(seed, n=150, decimals=decimals)
    rows = []
    for t in np.unique(prob):
        positive = prob >= t
        rows.append((t, positive[target == 1].mean(), 1 - positive[target == 0].mean()))
    for least in (0.5, 0.8, 0.95, 1.0):
        point = choose_operating_point(target, prob, f"sensitivity>={least}")
        best = max((specificity, sensitivity) for _, sensitivity, specificity in rows if sensitivity >= least)
        assert (point.specificity, point.sensitivity) == best
        point = choose_operating_point(target, prob, f"specificity>={least}")
        reached = [t for t, _, specificity in rows if specificity >= least]
        assert point.threshold == min(reached) if reached else point is None
    for cost in (1, 5, 20):
        costs = [
            (cost * (target[prob < t] == 1).sum() + (target[prob >= t] == 0).sum(), t) for t, _, _ in rows
        ]
        assert choose_operating_point(target, prob, f"cost:{cost}").threshold == min(costs)[1]


def test_no_threshold_that_serves() -> None:
    target = [0.0] * 10 + [1.0] * 10
    prob = [1.0] * 10 + [0.5] * 10
    assert choose_operating_point(target, prob, "specificity>=0.5") is None
    assert choose_operating_point(target, prob, "cost:0.5") is None
    assert choose_operating_point(target, prob, "cost:2").threshold == 0.5
    # All level: one threshold, all are positive.
    point = choose_operating_point(target, [0.3] * 20, "sensitivity>=0.9")
    assert (point.threshold, point.sensitivity, point.specificity) == (0.3, 1, 0)


@pytest.mark.parametrize(
    "rule",
    [
        *("", "sensitivity", "sensitivity>=", "sensitivity>0.9", "sensitivity>=0", "sensitivity>=1.01"),
        *(
            "sensitivity>=95",
            "sensitivity>=-0.9",
            "sensitivity>=nan",
            "specificity>=inf",
            "cost:0",
            "cost:-1",
        ),
        *(
            "cost:inf",
            "cost=5",
            "cost:5 ; rm",
            "cost:1e9",
            "f1",
            "cost:" + "9" * 100,
            "sensitivity>=\u0660.\u0669",
        ),
    ],
)
def test_rule_that_is_none_says_what_a_rule_is(rule: str) -> None:
    with pytest.raises(UserError, match=r"expected sensitivity>=X or specificity>=X.*cost:C"):
        choose_operating_point(*HAND, rule)


def make_levels(method: str = "platt", rule: str = "sensitivity>=0.9") -> dict[str, Any]:
    """Decisions as plain values: five labels to fit, and one that nobody has."""
    columns = [make_cases(seed, n=120) for seed in range(6)]
    target, probs = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    target[:, 0] = 0
    patients = np.arange(120) // 4
    decision = fit_decision(target, probs, patients, pooling="max", method=method, rule=rule)
    return {"slice": to_plain(decision), "study": to_plain(decision)}


@pytest.mark.parametrize("method", METHODS)
def test_decisions_come_back_from_json_as_they_were(method: str) -> None:
    columns = [make_cases(seed, n=120) for seed in range(6)]
    target, probs = (np.stack(each, axis=1) for each in zip(*columns, strict=True))
    target[:, 0] = 0
    given = {"pooling": "max", "method": method, "rule": "sensitivity>=0.9"}
    decision = fit_decision(target, probs, np.arange(120) // 4, **given)
    back = read_plain(dict[Level, Decision], json.loads(json.dumps({"study": to_plain(decision)})), "here")
    assert back == {"study": decision}
    nothing = NotFitted("only 0 positives; at least 10 needed")
    assert decision.calibration["epidural"] == decision.operating_points["epidural"] == nothing
    calibrated = back["study"].calibrate(probs)
    assert (calibrated[:, 0] == probs[:, 0]).all()
    for i, label in enumerate(LABELS[1:], start=1):
        assert calibrated[:, i] == pytest.approx(
            fit_calibrator(target[:, i], probs[:, i], method).apply(probs[:, i])
        )
        point = decision.operating_points[label]
        positive = calibrated[:, i] >= point.threshold
        assert positive[target[:, i] == 1].mean() == pytest.approx(point.sensitivity)
        assert (~positive)[target[:, i] == 0].mean() == pytest.approx(point.specificity)
        assert point.sensitivity >= 0.9


POINT = "slice.operating_points.any"
CURVE = "slice.calibration.any"


@pytest.mark.parametrize(
    ("method", "place", "value", "message"),
    [
        ("platt", "patient", {}, "here has the unknown field 'patient'"),
        ("platt", "slice", [], "here: slice is .*; expected fields"),
        ("platt", "slice.code", "x", "unknown field 'code'"),
        ("platt", "slice.pooling", "../x", "expected the name of a pooling"),
        ("platt", "slice.pooling", "a" * 201, "expected the name of a pooling"),
        ("platt", "slice.calibration", None, "expected fields"),
        ("platt", "slice.calibration.epidual", {"missing": "x"}, "unknown field 'epidual'"),
        ("platt", CURVE, [1], "any is \\[1\\]; expected a method"),
        ("platt", CURVE, {}, "expected a method, one of temperature"),
        ("platt", f"{CURVE}.method", "pickle", "expected a method"),
        ("platt", f"{CURVE}.method", ["platt"], "expected a method"),
        ("platt", f"{CURVE}.method", "isotonic", "lacks probs"),
        ("platt", f"{CURVE}.slope", 0, "slope is 0; expected a number above 0"),
        ("platt", f"{CURVE}.slope", math.nan, "slope is nan; expected a number"),
        ("platt", f"{CURVE}.intercept", -math.inf, "intercept is -inf; expected a number"),
        ("platt", f"{CURVE}.intercept", 10**400, "expected a number"),
        ("platt", f"{CURVE}.intercept", True, "expected a number"),
        ("platt", f"{CURVE}._target_", "os.system", "unknown field '_target_'"),
        ("temperature", f"{CURVE}.temperature", -1.0, "expected a number above 0"),
        ("temperature", f"{CURVE}.temperature", "1", "expected a number above 0"),
        ("isotonic", f"{CURVE}.probs", [0.1] * 3, "expected 1 to 64 rising numbers"),
        ("isotonic", f"{CURVE}.probs", [i / 10**6 for i in range(10**5)], "expected 1 to 64 rising numbers"),
        ("isotonic", f"{CURVE}.probs", [0.5], "probs and values differ in length"),
        ("isotonic", f"{CURVE}.values", [0.5, 0.4], "that do not fall"),
        ("isotonic", f"{CURVE}.values", [0.5, math.nan], "that do not fall"),
        ("isotonic", f"{CURVE}.values", [], "expected 1 to 64"),
        ("platt", f"{POINT}.threshold", math.nan, "threshold is nan; expected a number from 0 to 1"),
        ("platt", f"{POINT}.threshold", math.inf, "threshold is inf; expected a number from 0 to 1"),
        ("platt", f"{POINT}.threshold", "0.5", "threshold is '0.5'; expected a number from 0 to 1"),
        ("platt", f"{POINT}.threshold", None, "expected a number from 0 to 1"),
        ("platt", f"{POINT}.threshold", 1.5, "expected a number from 0 to 1"),
        ("platt", f"{POINT}.sensitivity", [1], "expected a number from 0 to 1"),
        ("platt", f"{POINT}.rule", "exec", "expected a rule such as"),
        ("platt", f"{POINT}.rule", 5, "expected a rule such as"),
        ("platt", f"{POINT}.patient", "x", "unknown field 'patient'"),
        ("platt", POINT, {"missing": "x\n<script>"}, "expected a reason"),
        ("platt", POINT, {"missing": "x" * 201}, "expected a reason"),
        ("platt", POINT, {"missing": "x", "threshold": 1}, "unknown field 'threshold'"),
    ],
)
def test_plain_values_of_others_are_checked(method, place, value, message) -> None:
    levels = copy.deepcopy(make_levels(method))
    *parents, last = place.split(".")
    fields = levels
    for name in parents:
        fields = fields[name]
    fields[last] = value
    with pytest.raises(UserError, match=message):
        read_plain(dict[Level, Decision], levels, "here")


@pytest.mark.parametrize("found", [None, [], "slice", 3])
def test_other_values_are_not_decisions(found) -> None:
    with pytest.raises(UserError, match=r"here is .*; expected fields"):
        read_plain(dict[Level, Decision], found, "here")
