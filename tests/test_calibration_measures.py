"""Calibration measures against statsmodels, scikit-learn and by hand, for the table and its samples."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, log_loss

from ich.evaluate.calibration_error import measure_calibration
from ich.evaluate.estimate import draw_patients
from ich.evaluate.recalibration import recalibrate


def make_units(seed=0, units=3000, patients=60, sharpness=1.0, decimals=12):
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.5, units)
    target = (rng.random(units) < expit(truth)).astype(float)
    prob = expit(sharpness * (truth + 0.4)).round(decimals)
    return target, prob, rng.integers(patients, size=units)


def fit_reference(target, prob, weight):
    x = logit(prob.clip(1e-7, 1 - 1e-7))
    family = sm.families.Binomial()
    both = sm.GLM(target, sm.add_constant(x), family=family, freq_weights=weight).fit(tol=1e-13)
    large = sm.GLM(target, np.ones_like(x), family=family, offset=x, freq_weights=weight).fit(tol=1e-13)
    return both.params[1], both.params[0], large.params[0]


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 3.0])
def test_slope_and_intercepts_equal_statsmodels_for_the_table_and_every_sample(sharpness):
    target, prob, codes = make_units(sharpness=sharpness)
    counts = draw_patients(60, 6, seed=1)
    found = np.stack(recalibrate(target, prob, codes, counts), axis=1)
    for row, drawn in zip(found, counts, strict=True):
        np.testing.assert_allclose(row, fit_reference(target, prob, drawn[codes]), rtol=1e-6, atol=1e-6)


def test_slope_of_few_units_with_certain_probabilities_equals_statsmodels():
    target, prob, codes = make_units(units=200, sharpness=4, decimals=3)
    assert {0.0, 1.0} <= set(prob)
    counts = draw_patients(60, 3, seed=1)
    found = np.stack(recalibrate(target, prob, codes, counts), axis=1)
    for row, drawn in zip(found, counts, strict=True):
        np.testing.assert_allclose(row, fit_reference(target, prob, drawn[codes]), rtol=1e-6, atol=1e-6)


def test_samples_with_separated_classes_have_no_slope():
    target = np.array([0, 0, 0, 1, 1, 1.0])
    prob = np.array([0.1, 0.2, 0.6, 0.4, 0.7, 0.8])
    counts = np.array(
        [[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1], [2, 1, 1, 1, 1, 2]], np.int32
    )
    slope, intercept, large = recalibrate(target, prob, np.arange(6), counts)
    assert np.isnan(slope).tolist() == np.isnan(intercept).tolist() == [False, True, True, False]
    assert np.isnan(large).tolist() == [False, False, True, False]
    apart = recalibrate(target, np.sort(prob), np.arange(6), counts)
    assert np.isnan(apart[0]).all()
    assert not np.isnan(apart[2][0])


def test_measures_equal_scikit_learn_on_the_table_and_its_samples():
    target, prob, codes = make_units(units=400, patients=20, sharpness=1.7, decimals=2)
    counts = draw_patients(20, 50, seed=4)
    found, reliability = measure_calibration(target, prob, codes, counts, "")
    samples = [np.repeat(np.arange(400), drawn[codes]) for drawn in counts]
    briers = [brier_score_loss(target[rows], prob[rows]) for rows in samples]
    losses = [log_loss(target[rows], prob[rows].clip(1e-15, 1 - 1e-15)) for rows in samples]
    errors = [expected_error(target[rows], prob[rows]) for rows in samples]
    for estimate, values in ((found.brier, briers), (found.log_loss, losses), (found.expected_error, errors)):
        expected = (values[0], *np.percentile(values[1:], [2.5, 97.5]))
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)
    bins = np.minimum((prob * 10).astype(int), 9)
    for i in range(10):
        inside = bins == i
        assert reliability.units[i] == inside.sum()
        assert reliability.predicted[i] == pytest.approx(prob[inside].mean())
        assert reliability.observed[i] == pytest.approx(target[inside].mean())
        assert reliability.low[i] <= reliability.observed[i] <= reliability.high[i]


def expected_error(target, prob):
    bins = np.minimum((prob * 10).astype(int), 9)
    return sum(abs((target - prob)[bins == i].sum()) for i in range(10)) / len(target)


def test_expected_error_and_an_empty_bin_by_hand():
    target, prob = np.array([0, 1, 1, 1.0]), np.array([0.2, 0.25, 0.9, 1.0])
    counts = np.ones((3, 4), np.int32)
    found, reliability = measure_calibration(target, prob, np.arange(4), counts, "")
    assert found.expected_error.value == pytest.approx((abs(1 - 0.45) + abs(2 - 1.9)) / 4)
    assert reliability.units.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert math.isnan(reliability.observed[0])
    assert math.isnan(reliability.predicted[0])
    assert math.isnan(found.slope.value)
    assert "separate the two classes" in found.slope.reason
    assert not math.isnan(found.brier.value)
