"""Figures and intervals against scikit-learn, pandas and hand calculation."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from ich.evaluate import compare, render_summary, summarize
from ich.evaluate.areas import auroc, average_precision
from ich.schema import LABELS, SUBTYPES, UserError

WEIGHTS = np.array([1, 1, 1, 1, 1, 2]) / 7


def make_table(patients=30, seed=0, prevalence=0.3, signal=1.5):
    """Patients of 1 to 8 slices; probabilities rounded, so that many are tied."""
    rng = np.random.default_rng(seed)
    slices = rng.integers(1, 9, size=patients)
    table = pd.DataFrame(
        {
            "SOPInstanceUID": [f"ID_{i}" for i in range(slices.sum())],
            "PatientID": np.repeat([f"P{i}" for i in range(patients)], slices),
        }
    )
    for label in LABELS:
        target = (rng.random(len(table)) < prevalence).astype(float)
        logits = rng.normal(size=len(table)) + signal * target - 1
        table[f"prob_{label}"] = (1 / (1 + np.exp(-logits))).round(1)
        table[f"target_{label}"] = target
    return table


@pytest.mark.parametrize("decimals", [1, 8])
@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_scikit_learn_with_ties_and_weights(seed, decimals):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 2, 300)
    prob = (rng.random(300) + 0.3 * target).round(decimals)
    weight = rng.integers(0, 4, 300)
    assert auroc(target, prob) == pytest.approx(roc_auc_score(target, prob), abs=1e-12)
    assert average_precision(target, prob) == pytest.approx(average_precision_score(target, prob), abs=1e-12)
    assert auroc(target, prob, weight) == pytest.approx(
        roc_auc_score(target, prob, sample_weight=weight), abs=1e-12
    )
    assert average_precision(target, prob, weight) == pytest.approx(
        average_precision_score(target, prob, sample_weight=weight), abs=1e-12
    )


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
    ],
)
def test_areas_by_hand(target, prob, area, precision):
    assert auroc(target, prob) == pytest.approx(area, nan_ok=True)
    assert average_precision(target, prob) == pytest.approx(precision, nan_ok=True)


def test_intervals_equal_those_of_tables_resampled_row_by_row():
    table = make_table(patients=12, prevalence=0.5)
    table.loc[table.PatientID == "P3", "target_subdural"] = np.nan
    summary = summarize(table, replicates=40, seed=3)

    by_patient = dict(list(table.groupby("PatientID")))
    names = table["PatientID"].unique()
    rng = np.random.default_rng(3)
    resampled = [
        pd.concat([by_patient[names[i]] for i in rng.integers(12, size=12)], ignore_index=True)
        for _ in range(40)
    ]
    for label in LABELS:
        known = [rows[rows[f"target_{label}"].notna()] for rows in resampled]
        areas = [roc_auc_score(rows[f"target_{label}"], rows[f"prob_{label}"]) for rows in known]
        precisions = [
            average_precision_score(rows[f"target_{label}"], rows[f"prob_{label}"]) for rows in known
        ]
        figures = summary.labels[label]
        assert (figures.auroc.low, figures.auroc.high) == pytest.approx(np.percentile(areas, [2.5, 97.5]))
        assert (figures.average_precision.low, figures.average_precision.high) == pytest.approx(
            np.percentile(precisions, [2.5, 97.5])
        )
    losses = [reference_loss(rows) for rows in resampled]
    assert (summary.weighted_log_loss.low, summary.weighted_log_loss.high) == pytest.approx(
        np.percentile(losses, [2.5, 97.5])
    )


def reference_loss(table):
    """The metric in scikit-learn's terms: known labels of all slices as one weighted log loss."""
    target = table[[f"target_{label}" for label in LABELS]].to_numpy()
    prob = table[[f"prob_{label}" for label in LABELS]].to_numpy().clip(1e-15, 1 - 1e-15)
    weight = np.broadcast_to(WEIGHTS, target.shape)
    known = ~np.isnan(target)
    return log_loss(target[known], prob[known], sample_weight=weight[known], labels=[0, 1])


def test_log_loss_and_the_constant_predictor_equal_scikit_learn():
    table = make_table()
    table.loc[5:20, "target_epidural"] = np.nan
    table.loc[3, [f"target_{label}" for label in LABELS]] = np.nan
    prevalences = {label: 0.1 + 0.05 * i for i, label in enumerate(LABELS)}
    summary = summarize(table, prevalences=prevalences, replicates=2)
    assert summary.weighted_log_loss.value == pytest.approx(reference_loss(table))

    constant = table.assign(**{f"prob_{label}": value for label, value in prevalences.items()})
    assert summary.constant_log_loss == pytest.approx(reference_loss(constant))
    assert summarize(table, prevalences=list(prevalences.values()), replicates=2) == summary

    own = {f"prob_{label}": table[f"target_{label}"].mean() for label in LABELS}
    assert summarize(table, replicates=2).constant_log_loss == pytest.approx(
        reference_loss(table.assign(**own))
    )


def test_a_certain_mistake_costs_the_clipped_logarithm():
    table = make_table(patients=2)
    table = table.iloc[[0, -1]].copy()
    table[[f"target_{label}" for label in LABELS]] = 0.0
    table[[f"prob_{label}" for label in LABELS]] = 0.0
    table.iloc[0, table.columns.get_loc("target_any")] = 1.0
    summary = summarize(table, replicates=5)
    assert summary.weighted_log_loss.value == pytest.approx(-math.log(1e-15) * 2 / 7 / 2)


def test_counts_and_labels_that_have_no_figure():
    table = make_table(patients=20, seed=1)
    table["target_epidural"] = 0.0
    table["target_subdural"] = np.nan
    table["target_intraventricular"] = 0.0
    table.loc[table.PatientID.isin(["P4", "P7"]), "target_intraventricular"] = 1.0
    summary = summarize(table, replicates=200)
    plain = json.loads(json.dumps(summary.to_dict(), allow_nan=False))

    assert (plain["slices"], plain["patients"]) == (len(table), 20)
    for label, known in (("epidural", len(table)), ("subdural", 0)):
        figures = plain["labels"][label]
        assert (figures["slices"], figures["positives"], figures["positive_patients"]) == (known, 0, 0)
        assert figures["auroc"] is None
        assert figures["auroc_interval"] == figures["average_precision_interval"] == [None, None]
    rare = plain["labels"]["intraventricular"]
    assert rare["positive_patients"] == 2
    assert rare["few"]
    assert not plain["labels"]["any"]["few"]
    # Some samples draw neither patient; the interval comes from the others.
    assert 0 <= rare["auroc_interval"][0] <= rare["auroc"] <= rare["auroc_interval"][1] <= 1
    with_area = [plain["labels"][s]["auroc"] for s in SUBTYPES if plain["labels"][s]["auroc"] is not None]
    assert len(with_area) == 3
    assert plain["auroc_mean_subtypes"] == pytest.approx(np.mean(with_area))
    assert plain["weighted_log_loss_interval"][0] < plain["weighted_log_loss"]


def test_slices_of_one_patient_are_drawn_together():
    """Copies of a patient's slices carry no information: the interval must not shrink."""
    table = make_table(patients=15, prevalence=0.5)
    copies = pd.concat([table.assign(SOPInstanceUID=table.SOPInstanceUID + f"_{i}") for i in range(10)])
    once, often = (summarize(t, replicates=200, seed=5).labels["any"].auroc for t in (table, copies))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


def test_a_single_patient_and_a_seed():
    table = make_table(patients=25)
    assert summarize(table, replicates=30, seed=1) == summarize(table, replicates=30, seed=1)
    assert summarize(table, replicates=30, seed=1) != summarize(table, replicates=30, seed=2)
    alone = summarize(table.assign(PatientID="P"), replicates=5)
    assert alone.weighted_log_loss.low == alone.weighted_log_loss.high == alone.weighted_log_loss.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="target_any"), "lacks the columns target_any"),
        (lambda t: t.iloc[:0], "empty"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 slices more than once"),
        (lambda t: t.assign(PatientID=t.PatientID.where(t.index > 2)), "PatientID of 3 slices"),
        (lambda t: t.assign(prob_any=1.5), "outside"),
        (lambda t: t.assign(prob_any=np.nan), "missing"),
        (lambda t: t.assign(target_any=0.5), "other than 0, 1"),
    ],
)
def test_bad_tables_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        summarize(change(make_table()), replicates=2)


@pytest.mark.parametrize("prevalences", [[0.1] * 5, [2.0] * 6, {"any": 0.1}])
def test_bad_prevalences_are_refused(prevalences):
    with pytest.raises(UserError, match="prevalences"):
        summarize(make_table(), prevalences=prevalences, replicates=2)


def render(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_rendered_table_fits_80_columns_and_says_what_matters():
    table = make_table(patients=300, seed=2)
    table["target_epidural"] = 0.0
    table.loc[table.PatientID == "P4", "target_epidural"] = 1.0
    table["target_subdural"] = 0.0
    summary = summarize(table, prevalences=[0.3] * 6, replicates=20)
    text = render(render_summary(summary, "test"))
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}

    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    area = summary.labels["any"].auroc
    assert f"{area.value:.3f} ({area.low:.3f}-{area.high:.3f})" in rows["any"]
    assert f"{summary.labels['any'].positives} ({summary.labels['any'].positive_patients})" in rows["any"]
    assert "(1)*" in rows["epidural"]
    assert rows["subdural"].count("n/a") == 2
    assert f"{summary.weighted_log_loss.value:.4f}" in rows["log"]
    assert f"{summary.constant_log_loss:.4f}" in rows["log"]
    assert "Research use only; not a medical device" in text


def test_comparison_is_paired_and_signed():
    better, worse = make_table(patients=40, signal=3), make_table(patients=40, signal=1)
    comparison = compare(better, worse.sample(frac=1, random_state=0), replicates=200)
    areas = [roc_auc_score(t.target_any, t.prob_any) for t in (better, worse)]
    difference = comparison.auroc["any"]
    assert (difference.a, difference.b) == pytest.approx(areas)
    assert difference.difference.value == pytest.approx(areas[0] - areas[1])
    assert 0 < difference.difference.low < difference.difference.value < difference.difference.high
    assert comparison.weighted_log_loss.difference.high < 0
    assert comparison.weighted_log_loss.difference.value == pytest.approx(
        reference_loss(better) - reference_loss(worse)
    )
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert plain["auroc"]["any"]["difference_interval"][0] == difference.difference.low

    same = compare(better, better, replicates=50).weighted_log_loss.difference
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_paired_interval_equals_differences_of_resampled_tables():
    a, b = make_table(patients=10, signal=2), make_table(patients=10, signal=1)
    rng = np.random.default_rng(7)
    differences = []
    for _ in range(30):
        drawn = [f"P{i}" for i in rng.integers(10, size=10)]
        losses = [reference_loss(pd.concat([t[t.PatientID == name] for name in drawn])) for t in (a, b)]
        differences.append(losses[0] - losses[1])
    interval = compare(a, b, replicates=30, seed=7).weighted_log_loss.difference
    assert (interval.low, interval.high) == pytest.approx(np.percentile(differences, [2.5, 97.5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[3:], "3 are in the first only"),
        (lambda t: t.assign(SOPInstanceUID="x" + t.SOPInstanceUID), "different slices"),
        (lambda t: t.assign(target_any=1 - t.target_any), "differ in the targets"),
        (lambda t: t.assign(target_any=t.target_any.where(t.index > 0)), "targets of 1 slices"),
        (lambda t: t.assign(PatientID="P"), "other patients"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(change, message):
    table = make_table()
    with pytest.raises(UserError, match=message):
        compare(table, change(table), replicates=2)
