"""Models on the same slices: paired, signed, and averaged."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from predictions import draw_tables, make_table
from sklearn.metrics import average_precision_score, roc_auc_score

from ich.evaluate.comparison import compare, ensemble
from ich.evaluate.delong import compare_delong
from ich.evaluate.pooling import pool
from ich.schema import LABELS, UserError
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS


def make_models(patients=40, **signals):
    """Models of the same slices: the targets are those of the first."""
    tables = {name: make_table(patients=patients, signal=signal) for name, signal in signals.items()}
    first = next(iter(tables.values()))
    assert all(t[list(TARGET_COLUMNS)].equals(first[list(TARGET_COLUMNS)]) for t in tables.values())
    return tables


def test_comparison_is_paired_and_signed():
    tables = make_models(better=3, worse=1)
    shuffled = tables["worse"].sample(frac=1, random_state=0)
    comparison = compare({"better": tables["better"], "worse": shuffled}, replicates=200)
    (pair,) = comparison.pairs
    assert (pair.a, pair.b) == ("better", "worse")
    areas = {name: roc_auc_score(t.target_any, t.prob_any) for name, t in tables.items()}
    for name, area in areas.items():
        assert comparison.models[name].labels["any"].auroc.value == pytest.approx(area)
    difference = pair.labels["any"].auroc
    assert difference.value == pytest.approx(areas["better"] - areas["worse"])
    assert 0 < difference.low < difference.value < difference.high
    assert pair.weighted_log_loss.high < 0
    assert pair.weighted_log_loss.value == pytest.approx(
        comparison.models["better"].weighted_log_loss.value
        - comparison.models["worse"].weighted_log_loss.value
    )
    assert pair.auroc_mean_subtypes.value == pytest.approx(
        comparison.models["better"].auroc_mean_subtypes.value
        - comparison.models["worse"].auroc_mean_subtypes.value
    )
    test = pair.labels["any"].auroc_delong
    table, other = tables["better"], tables["worse"]
    expected = compare_delong(table.target_any, table.prob_any, other.prob_any, table.PatientID)
    assert (test.z, test.difference.low) == pytest.approx((expected.z, expected.difference.low))
    assert test.p_value < 0.01


@pytest.mark.parametrize("level", ["slice", "study"])
def test_paired_interval_equals_differences_of_resampled_tables(level):
    tables = make_models(patients=12, a=2, b=1)
    pooled = {name: pool(table, level) for name, table in tables.items()}
    samples = {name: list(draw_tables(table, 30, 7)) for name, table in pooled.items()}
    (pair,) = compare(tables, level=level, replicates=30, seed=7).pairs
    for score, name in ((roc_auc_score, "auroc"), (average_precision_score, "average_precision")):
        differences = [
            score(a.target_any, a.prob_any) - score(b.target_any, b.prob_any)
            for a, b in zip(samples["a"], samples["b"], strict=True)
            if 0 < a.target_any.mean() < 1
        ]
        found = getattr(pair.labels["any"], name)
        assert (found.low, found.high) == pytest.approx(np.percentile(differences, [2.5, 97.5]))


def test_three_models_make_three_pairs_and_equal_ones_do_not_differ():
    tables = make_models(a=2, b=1, c=2)
    comparison = compare(tables, replicates=20)
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    same = comparison.pairs[1]
    assert (same.weighted_log_loss.value, same.weighted_log_loss.low, same.weighted_log_loss.high) == (
        0,
        0,
        0,
    )
    assert same.labels["any"].auroc.value == 0
    assert "rank alike" in same.labels["any"].auroc_delong.difference.reason
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert plain["schema"] == "ich comparison 1"
    assert plain["pairs"][0]["labels"]["any"]["auroc_delong"].keys() == {
        "difference",
        "standard_error",
        "z",
        "p_value",
    }
    assert plain["models"].keys() == {"a", "b", "c"}


def test_labels_with_too_few_patients_are_not_compared():
    tables = make_models(a=2, b=1)
    for table in tables.values():
        table["target_epidural"] = 0.0
    (pair,) = compare(tables, replicates=5).pairs
    figures = pair.labels["epidural"]
    for estimate in (figures.auroc, figures.average_precision, figures.auroc_delong.difference):
        assert math.isnan(estimate.value)
        assert estimate.reason == "only 0 patients with a positive slice; at least 5 needed"


def test_an_ensemble_is_the_mean_in_the_order_of_the_first():
    tables = make_models(a=2, b=1, c=0)
    shuffled = {"a": tables["a"], "b": tables["b"].sample(frac=1, random_state=0), "c": tables["c"]}
    mean = ensemble(shuffled)
    expected = sum(tables[name][list(PROB_COLUMNS)] for name in tables) / 3
    pd.testing.assert_frame_equal(mean[list(PROB_COLUMNS)], expected)
    others = [column for column in mean if column not in PROB_COLUMNS]
    pd.testing.assert_frame_equal(mean[others], tables["a"][others])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[3:], "3 are in one only"),
        (lambda t: t.assign(SOPInstanceUID="x" + t.SOPInstanceUID), "different slices"),
        (lambda t: t.assign(target_any=1 - t.target_any), "differ in the targets"),
        (lambda t: t.assign(target_any=t.target_any.where(t.index > 0)), "targets of 1 slices"),
        (lambda t: t.assign(PatientID="P"), "different patients"),
        (lambda t: t.iloc[:0], "table two is empty"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(change, message):
    table = make_table()
    for function in (ensemble, lambda tables: compare(tables, replicates=2)):
        with pytest.raises(UserError, match=message):
            function({"one": table, "two": change(table)})


def test_one_table_is_none_to_compare():
    with pytest.raises(UserError, match="two or more"):
        compare({"one": make_table()})
    assert set(compare(make_models(a=1, b=2), replicates=2).models["a"].labels) == set(LABELS)
