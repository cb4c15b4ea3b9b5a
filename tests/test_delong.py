"""DeLong's variance against a published example, a plain computation and the bootstrap."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from ich.evaluate.delong import compare_delong, delong, estimate_delong

# Albumin, total protein, K-G score and outcome of 43 patients with ovarian cancer: the example of DeLong et
# al., Biometrics 1988;44:837, as printed in the SAS/STAT User's Guide, "Comparing Receiver Operating
# Characteristic Curves". There, an event is an outcome of 0, and the score counts down from 10.
OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""


def test_the_published_example():
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    target = (outcome == 0).astype(float)
    patients = np.arange(len(target))
    tests = {"albumin": -albumin, "protein": -protein, "score": score}
    areas, covariance = delong(target, np.stack(list(tests.values())), patients)
    assert areas.round(4).tolist() == [0.7366, 0.6478, 0.7258]
    assert np.sqrt(np.diag(covariance)).round(4).tolist() == [0.0927, 0.1000, 0.1028]
    interval = estimate_delong(target, tests["albumin"], patients)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.5549, 0.9182)

    found = compare_delong(target, tests["albumin"], tests["score"], patients)
    assert round(found.difference.value, 4) == 0.0108
    assert round(found.standard_error, 4) == 0.0953
    assert (round(found.difference.low, 4), round(found.difference.high, 4)) == (-0.1761, 0.1976)
    assert round(found.z**2, 4) == 0.0127
    assert round(found.p_value, 4) == 0.9102
    found = compare_delong(target, tests["protein"], tests["score"], patients)
    assert (round(found.difference.value, 4), round(found.standard_error, 4)) == (-0.0780, 0.1046)
    assert (round(found.z**2, 4), round(found.p_value, 4)) == (0.5554, 0.4561)


def plain(target, probs, clusters):
    """Obuchowski's covariance, pair by pair and cluster by cluster; DeLong's where clusters are single."""
    hits, misses = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    areas, at_hits, at_misses = [], [], []
    for prob in probs:
        wins = np.array([[(prob[i] > prob[j]) + (prob[i] == prob[j]) / 2 for j in misses] for i in hits])
        areas.append(wins.mean())
        at_hits.append(wins.mean(axis=1))
        at_misses.append(wins.mean(axis=0))
    names = sorted(set(clusters))
    with_hits = {clusters[i] for i in hits}
    with_misses = {clusters[j] for j in misses}
    covariance = np.zeros((len(probs), len(probs)))
    for a in range(len(probs)):
        for b in range(len(probs)):
            s10 = s01 = s11 = 0.0
            for name in names:
                own_hits = [k for k, i in enumerate(hits) if clusters[i] == name]
                own_misses = [k for k, j in enumerate(misses) if clusters[j] == name]
                x = [at_hits[m][own_hits].sum() - len(own_hits) * areas[m] for m in (a, b)]
                y = [at_misses[m][own_misses].sum() - len(own_misses) * areas[m] for m in (a, b)]
                s10 += x[0] * x[1]
                s01 += y[0] * y[1]
                s11 += x[0] * y[1] + x[1] * y[0]
            n10, n01, n = len(with_hits), len(with_misses), len(names)
            covariance[a, b] = (
                n10 / (n10 - 1) * s10 / len(hits) ** 2
                + n01 / (n01 - 1) * s01 / len(misses) ** 2
                + n / (n - 1) * s11 / (len(hits) * len(misses))
            )
    return np.array(areas), covariance


@pytest.mark.parametrize("clusters", [120, 25])
@pytest.mark.parametrize("decimals", [1, 9])
def test_ranks_give_what_pairs_give(clusters, decimals):
    rng = np.random.default_rng(clusters)
    target = rng.integers(0, 2, 120).astype(float)
    probs = (rng.normal(size=(3, 120)) + target).round(decimals)
    owner = np.arange(120) if clusters == 120 else rng.integers(clusters, size=120)
    areas, covariance = delong(target, probs, [f"P{each}" for each in owner])
    expected_areas, expected = plain(target, probs, owner)
    np.testing.assert_allclose(areas, expected_areas, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


def test_copies_of_a_patients_slices_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, 80).astype(float)
    prob = rng.normal(size=80) + target
    patients = rng.integers(40, size=80)
    once = estimate_delong(target, prob, patients)
    often = estimate_delong(np.tile(target, 9), np.tile(prob, 9), np.tile(patients, 9))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


def test_unknown_targets_are_left_out_and_the_interval_stays_within_0_and_1():
    target = np.array([0, 0, 1, 1, 0, 1, math.nan, 1])
    prob = np.array([0.1, 0.2, 0.3, 0.7, 0.6, 0.9, 0.5, 0.8])
    found = estimate_delong(target, prob, np.arange(8))
    known = ~np.isnan(target)
    assert found == estimate_delong(target[known], prob[known], np.arange(7))
    assert found.high == 1.0


def test_what_has_no_variance_says_so():
    target, prob = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.8, 0.9])
    apart = estimate_delong(target, prob, np.arange(4))
    assert apart.value == 1
    assert math.isnan(apart.low)
    assert "variance is 0" in apart.reason
    alone = estimate_delong(target, prob, np.zeros(4))
    assert math.isnan(alone.value)
    assert alone.reason
    rng = np.random.default_rng(0)
    target, prob = rng.integers(0, 2, 50).astype(float), rng.random(50)
    same = compare_delong(target, prob, 2 * prob, np.arange(50))
    assert same.difference.value == 0
    assert "rank alike" in same.difference.reason
    assert math.isnan(same.p_value)


def test_the_p_value_is_that_of_a_normal_z():
    rng = np.random.default_rng(1)
    target = rng.integers(0, 2, 200).astype(float)
    a, b = rng.normal(size=200) + target, rng.normal(size=200) + 0.3 * target
    found = compare_delong(target, a, b, np.arange(200))
    assert found.z == pytest.approx(found.difference.value / found.standard_error)
    assert found.p_value == pytest.approx(2 * norm.cdf(-abs(found.z)))
    assert found.p_value < 0.05
