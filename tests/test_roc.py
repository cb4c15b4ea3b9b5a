"""Curves and areas against scikit-learn and by hand, with ties and under many weightings."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from ich.evaluate.roc import (
    GRID,
    Ranking,
    find_auroc,
    find_average_precision,
    find_precision_recall,
    find_roc,
)


def score(target, prob, weight=None):
    targets, probs = np.asarray(target, np.float64), np.asarray(prob, np.float64)
    weights = np.ones(len(targets), np.int32) if weight is None else weight
    ranking = Ranking(targets, probs, np.arange(len(targets)))
    return [float(area) for (area,) in ranking.score(weights[None], [find_auroc, find_average_precision])]


@pytest.mark.parametrize("decimals", [1, 8])
@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_scikit_learn_with_ties_and_weights(seed, decimals):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, 300)
    prob = (rng.random(300) + 0.3 * target).round(decimals)
    weight = rng.integers(0, 4, 300) / 8
    for weights in (None, weight):
        references = [
            reference(target, prob, sample_weight=weights)
            for reference in (roc_auc_score, average_precision_score)
        ]
        assert score(target, prob, weights) == pytest.approx(references, abs=1e-12)


@pytest.mark.parametrize(
    ("target", "prob", "area", "precision"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1.0, 1.0),
        ([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9], 0.0, (1 / 3 + 2 / 4) / 2),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], 0.5, 0.5),
        ([0, 1, 1], [0.4, 0.4, 0.9], 0.75, 0.5 * 1 + 0.5 * 2 / 3),
        ([0, 1, math.nan, 1], [0.4, 0.4, 0.6, 0.9], 0.75, 0.5 * 1 + 0.5 * 2 / 3),
        ([1, 1], [0.4, 0.9], math.nan, math.nan),
        ([0, 0], [0.4, 0.9], math.nan, math.nan),
        ([math.nan], [0.4], math.nan, math.nan),
        ([], [], math.nan, math.nan),
    ],
)
def test_areas_by_hand(target, prob, area, precision):
    assert score(target, prob) == pytest.approx([area, precision], nan_ok=True)


@pytest.mark.parametrize("units", [200, 30_000])  # several weightings a block, and several blocks
@pytest.mark.parametrize("decimals", [1, 8])
def test_many_weightings_at_once_equal_scikit_learn_one_by_one(units, decimals):
    rng = np.random.default_rng(units)
    target = (rng.random(units) < 0.2).astype(float)
    prob = (0.6 * rng.random(units) + 0.3 * target).round(decimals)
    codes = rng.integers(40, size=units)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=20).astype(np.int32)
    counts[3] = 0  # nobody: neither class
    statistics = [find_auroc, find_average_precision, find_roc, find_precision_recall]
    areas, precisions, rocs, curves = Ranking(target, prob, codes).score(counts, statistics)
    assert np.isnan(areas[3])
    assert np.isnan(precisions[3])
    assert np.isnan(rocs[3]).all()
    assert np.isnan(curves[3]).all()
    for i in (0, 1, 2, 4, 19):
        weight = counts[i][codes]
        drawn = weight > 0
        assert areas[i] == pytest.approx(roc_auc_score(target, prob, sample_weight=weight), abs=1e-12)
        assert precisions[i] == pytest.approx(
            average_precision_score(target, prob, sample_weight=weight), abs=1e-12
        )
        rates, recalls, _ = roc_curve(
            target[drawn], prob[drawn], sample_weight=weight[drawn], drop_intermediate=False
        )
        np.testing.assert_allclose(rocs[i], np.interp(GRID, rates, recalls), atol=1e-12)
        precision, recall, _ = precision_recall_curve(target[drawn], prob[drawn], sample_weight=weight[drawn])
        # From the highest threshold down: the first point that reaches the recall.
        falling = list(zip(recall[::-1], precision[::-1], strict=True))[1:]
        expected = [next(p for r, p in falling if r > 0 and r >= wanted - 1e-9) for wanted in GRID]
        np.testing.assert_allclose(curves[i], expected, atol=1e-12)
