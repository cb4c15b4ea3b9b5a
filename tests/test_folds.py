"""Out-of-fold predictions: pooling, decisions, and figures that do not come from the data that chose them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from predictions import keep_any, make_table

from ich.calibration import NotFitted
from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.folds import evaluate_folds, fit_held_out, pool_folds
from ich.evaluate.pooling import pool
from ich.schema import UserError


def deal(folds: int = 3, patients: int = 60, **settings) -> dict[str, pd.DataFrame]:
    """The test sets of folds; names of patients and slices as in one table."""
    table = keep_any(make_table(patients, **settings))
    fold = table["PatientID"].str.removeprefix("P").astype(int) % folds
    return {f"fold_{n}": table[fold == n].reset_index(drop=True) for n in range(folds)}


def test_figures_of_each_fold_come_from_decisions_of_the_others() -> None:
    tables = deal()
    found = evaluate_folds(tables, replicates=20)
    pooled = pd.concat(tables.values(), ignore_index=True)
    pd.testing.assert_frame_equal(found.table, pooled)
    assert found.decisions == fit_decisions(pooled)
    for level in ("slice", "study"):
        hits, positives, right, negatives, losses = 0, 0, 0, 0, []
        for name, table in tables.items():
            others = pd.concat([each for other, each in tables.items() if other != name])
            decision = fit_decisions(others, levels=[level])[level]
            units = pool(table, level)
            prob = decision.calibration["any"].apply(units["prob_any"])
            called = prob >= decision.operating_points["any"].threshold
            target = units["target_any"].to_numpy() == 1
            hits, positives = hits + (called & target).sum(), positives + target.sum()
            right, negatives = right + (~called & ~target).sum(), negatives + (~target).sum()
            losses.append((prob - target) ** 2)
        figures = found.evaluation.levels[level].labels["any"]
        point, chosen = figures.operating_point, found.decisions[level].operating_points["any"]
        assert point.sensitivity.value == pytest.approx(hits / positives)
        assert point.specificity.value == pytest.approx(right / negatives)
        assert point.true_positives == hits
        assert figures.calibrated.brier.value == pytest.approx(np.concatenate(losses).mean())
        assert point.threshold == chosen.threshold
        assert (point.chosen_sensitivity, point.chosen_specificity) == (
            chosen.sensitivity,
            chosen.specificity,
        )
    assert found.evaluation.to_dict()["folds"] == 3
    plain = evaluate(pooled, replicates=20)
    assert found.evaluation.levels["study"].labels["any"].auroc == plain.levels["study"].labels["any"].auroc
    assert plain.to_dict()["folds"] == 0


def test_a_fold_without_enough_others_has_no_held_out_figures() -> None:
    tables = deal(2, 24, prevalence=0.15)
    tables["fold_1"] = tables["fold_1"].assign(target_any=0.0)
    tables["fold_0"].loc[:30, "target_any"] = 1.0
    held_out = fit_held_out(tables)["slice"]
    assert isinstance(held_out.decisions["fold_0"].operating_points["any"], NotFitted)
    point = evaluate_folds(tables, replicates=20).evaluation.levels["slice"].labels["any"].operating_point
    assert point.sensitivity.reason == (
        "without one of the folds no operating point was chosen: only 0 positives; at least 10 needed"
    )


def test_tables_that_are_not_folds_of_one_split_are_refused() -> None:
    tables = deal()
    with pytest.raises(UserError, match="1 folds: expected"):
        pool_folds({"fold_0": tables["fold_0"]})
    with pytest.raises(UserError, match="20 patients are in the test sets of several folds"):
        pool_folds({"a": tables["fold_0"], "b": tables["fold_0"]})
    renamed = tables["fold_1"].rename(columns={"prob_any": "prob_bleed", "target_any": "target_bleed"})
    with pytest.raises(UserError, match="the predictions table of fold_1 has the labels"):
        pool_folds(tables | {"fold_1": renamed})
    twin = tables["fold_1"].assign(SOPInstanceUID=tables["fold_0"]["SOPInstanceUID"].iloc[0])
    with pytest.raises(UserError, match=r"the predictions table of fold_1 has .* slices more than once"):
        pool_folds(tables | {"fold_1": twin})
