"""Every figure of a predictions table, by level, against scikit-learn, pandas and by hand."""

import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from predictions import draw_tables, make_table
from rich.console import Console
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

from ich.calibration import METHODS as CALIBRATIONS
from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.figures import Estimate, to_plain
from ich.evaluate.pooling import LEVELS, METHODS, pool
from ich.evaluate.terminal import render_evaluation
from ich.schema import LABELS, SUBTYPES, UserError
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS

WEIGHTS = np.array([1, 1, 1, 1, 1, 2]) / 7


def reference_loss(table):
    """The metric in scikit-learn's terms: known labels of all slices as one weighted log loss."""
    target = table[list(TARGET_COLUMNS)].to_numpy()
    prob = table[list(PROB_COLUMNS)].to_numpy().clip(1e-15, 1 - 1e-15)
    weight = np.broadcast_to(WEIGHTS, target.shape)
    known = ~np.isnan(target)
    return log_loss(target[known], prob[known], sample_weight=weight[known], labels=[0, 1])


def interval(values):
    return pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)


def ends(estimate):
    return estimate.low, estimate.high


@pytest.mark.parametrize("level", LEVELS)
def test_intervals_equal_those_of_tables_resampled_row_by_row(level):
    table = make_table(patients=24, prevalence=0.12)
    table.loc[table.PatientID == "P3", "target_subdural"] = np.nan
    figures = evaluate(table, levels=[level], pooling="mean", replicates=12, seed=3).levels[level]

    own = pool(table, level, "mean")
    samples = list(draw_tables(own, 12, 3))
    for label in LABELS:
        known = [rows[rows[f"target_{label}"].notna()] for rows in (own, *samples)]
        pairs = [(rows[f"target_{label}"], rows[f"prob_{label}"]) for rows in known]
        areas, precisions = (
            [score(*pair) for pair in pairs if 0 < pair[0].mean() < 1]
            for score in (roc_auc_score, average_precision_score)
        )
        found = figures.labels[label]
        assert found.auroc.value == pytest.approx(areas[0])
        assert ends(found.auroc) == interval(areas[1:])
        assert found.average_precision.value == pytest.approx(precisions[0])
        assert ends(found.average_precision) == interval(precisions[1:])
        shares = [rows[f"target_{label}"].mean() for rows in known]
        assert found.prevalence.value == pytest.approx(shares[0])
        assert ends(found.prevalence) == interval(shares[1:])
        assert found.auroc_delong.value == pytest.approx(areas[0])
    losses = [reference_loss(rows) for rows in (own, *samples)]
    assert sum(not label.auroc.reason for label in figures.labels.values()) >= 3
    assert figures.weighted_log_loss.value == pytest.approx(losses[0])
    assert ends(figures.weighted_log_loss) == interval(losses[1:])


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("level", ["slice", "study"])
def test_operating_points_are_chosen_on_validation_and_carried_over(level, calibration):
    table = make_table(patients=40, prevalence=0.2)
    validation = make_table(patients=60, seed=1, prevalence=0.2, part="val")
    options = {"rule": "specificity>=0.7", "calibration": calibration}
    figures = evaluate(
        table, validation=validation, levels=[level], prevalences=[0.1], replicates=10, seed=2, **options
    ).levels[level]
    decision = fit_decisions(validation, levels=[level], method=calibration, rule="specificity>=0.7")[level]
    own = pool(table, level)
    own[list(PROB_COLUMNS)] = decision.calibrate(own[list(PROB_COLUMNS)])
    samples = [own, *draw_tables(own, 10, 2)]
    assert figures.weighted_log_loss_calibrated.value == pytest.approx(reference_loss(own))
    for label in ("subdural", "any"):
        point, found = decision.operating_points[label], figures.labels[label].operating_point
        assert (found.threshold, found.rule) == (point.threshold, "specificity>=0.7")
        assert (found.chosen_sensitivity, found.chosen_specificity) == (point.sensitivity, point.specificity)
        pairs = [(rows[f"target_{label}"], rows[f"prob_{label}"] >= point.threshold) for rows in samples]
        cells = (found.true_negatives, found.false_positives, found.false_negatives, found.true_positives)
        assert list(cells) == confusion_matrix(*pairs[0]).ravel().tolist()
        references = {
            "sensitivity": [recall_score(t, p) for t, p in pairs],
            "specificity": [recall_score(1 - t, ~p) for t, p in pairs],
            "ppv": [precision_score(t, p) for t, p in pairs],
            "npv": [precision_score(1 - t, ~p) for t, p in pairs],
            "f1": [f1_score(t, p) for t, p in pairs],
        }
        for name, values in references.items():
            estimate = getattr(found, name)
            assert estimate.value == pytest.approx(values[0])
            assert ends(estimate) == interval(values[1:])
        (at,) = found.at_prevalences
        se, sp = references["sensitivity"][0], references["specificity"][0]
        assert at.ppv.value == pytest.approx(0.1 * se / (0.1 * se + 0.9 * (1 - sp)))
        assert at.npv.value == pytest.approx(0.9 * sp / (0.9 * sp + 0.1 * (1 - se)))


def test_predictive_values_at_the_tables_own_prevalence_are_its_own():
    table, validation = make_table(patients=40), make_table(patients=60, seed=1, part="val")
    share = float(table["target_any"].mean())
    found = evaluate(
        table, validation=validation, levels=["slice"], prevalences=[share, 0.5], replicates=5
    ).levels["slice"]
    point = found.labels["any"].operating_point
    assert point.at_prevalences[0].ppv.value == pytest.approx(point.ppv.value)
    assert point.at_prevalences[0].npv.value == pytest.approx(point.npv.value)


def test_stored_decisions_go_before_those_of_the_validation_part():
    table, validation = make_table(patients=40), make_table(patients=60, seed=1, part="val")
    stored = fit_decisions(validation, pooling="mean", rule="cost:3")
    alone = evaluate(table, decisions=stored, levels=["slice", "study", "patient"], replicates=5)
    assert alone.levels["study"].pooling == "mean"
    assert alone.levels["study"].labels["any"].operating_point.rule == "cost:3"
    assert (
        "neither a validation set" in alone.levels["patient"].labels["any"].operating_point.sensitivity.reason
    )
    assert alone.levels["patient"].pooling == "max"
    both = evaluate(table, decisions=stored, validation=validation, replicates=5)
    assert to_plain(both.levels["study"]) == to_plain(alone.levels["study"])  # where NaN equals NaN
    assert both.levels["patient"].labels["any"].operating_point.rule == "sensitivity>=0.95"


def test_without_validation_nothing_is_calibrated_and_the_reason_is_given():
    label = evaluate(make_table(), levels=["slice"], replicates=5).levels["slice"].labels["any"]
    assert "neither a validation set nor a stored calibration" in label.calibrated.slope.reason
    assert (
        "neither a validation set nor a stored calibration"
        in label.operating_point.at_prevalences[0].ppv.reason
    )
    assert math.isnan(label.operating_point.threshold)
    assert not label.raw.slope.reason


def test_platt_on_the_table_itself_would_be_ideal():
    """Fitted on the same slices under other names, slope and intercept become 1 and 0."""
    table = make_table(patients=80)
    twin = table.assign(SOPInstanceUID="twin" + table.SOPInstanceUID)
    found = evaluate(table, validation=twin, levels=["study"], replicates=5).levels["study"].labels["any"]
    assert found.calibrated.slope.value == pytest.approx(1, abs=1e-6)
    assert found.calibrated.intercept.value == pytest.approx(0, abs=1e-6)
    assert found.calibrated.in_the_large.value == pytest.approx(0, abs=1e-6)
    assert found.raw.slope.value != pytest.approx(1, abs=0.01)


def test_the_effect_of_pooling_is_shown_for_every_way():
    table = make_table(patients=30)
    evaluation = evaluate(table, levels=["study"], replicates=20, seed=1)
    for method in METHODS:
        alone = evaluate(table, levels=["study"], pooling=method, replicates=20, seed=1).levels["study"]
        for label in LABELS:
            areas = evaluation.pooling_effect[method][label]
            assert areas.auroc == alone.labels[label].auroc
            assert areas.average_precision == alone.labels[label].average_precision
    assert evaluate(table, levels=["slice"], replicates=5).pooling_effect == {}


def test_log_loss_of_the_constant_predictor_equals_scikit_learn():
    table = make_table()
    table.loc[5:20, "target_epidural"] = np.nan
    table.loc[3, list(TARGET_COLUMNS)] = np.nan
    prevalences = [0.1 + 0.05 * i for i in range(6)]
    evaluation = evaluate(table, training_prevalences=prevalences, replicates=2)
    constant = table.assign(**dict(zip(PROB_COLUMNS, prevalences, strict=True)))
    assert evaluation.levels["slice"].constant_log_loss == pytest.approx(reference_loss(constant))
    for level in ("slice", "study"):
        own = pool(table, level)
        expected = reference_loss(own.assign(**{f"prob_{k}": own[f"target_{k}"].mean() for k in LABELS}))
        found = evaluate(table, levels=[level], replicates=2).levels[level].constant_log_loss
        assert found == pytest.approx(expected)
    # By study the share of slices in the training set says nothing.
    assert evaluation.levels["study"].constant_log_loss == pytest.approx(expected)


def test_a_certain_mistake_costs_the_clipped_logarithm():
    table = make_table(patients=2).iloc[[0, -1]].copy()
    table[list(TARGET_COLUMNS)] = 0.0
    table[list(PROB_COLUMNS)] = 0.0
    table.iloc[0, table.columns.get_loc("target_any")] = 1.0
    loss = evaluate(table, levels=["slice"], replicates=5).levels["slice"].weighted_log_loss
    assert loss.value == pytest.approx(-math.log(1e-15) * 2 / 7 / 2)
    assert loss.reason == "only 2 patients in all; at least 5 needed"
    assert math.isnan(loss.low)


def test_labels_with_too_few_patients_have_a_reason_instead_of_an_interval():
    table = make_table(patients=20, seed=1)
    table["target_epidural"] = 0.0
    table["target_subdural"] = np.nan
    table["target_intraventricular"] = 0.0
    table.loc[table.PatientID.isin(["P4", "P7"]), "target_intraventricular"] = 1.0
    table["target_subarachnoid"] = 1.0
    validation = make_table(patients=60, seed=3, part="val")
    evaluation = evaluate(table, validation=validation, replicates=20)
    json.dumps(evaluation.to_dict(), allow_nan=False)
    labels = evaluation.levels["slice"].labels
    expected = {
        "epidural": "only 0 patients with a positive slice; at least 5 needed",
        "subdural": "its targets are unknown",
        "intraventricular": "only 2 patients with a positive slice; at least 5 needed",
        "subarachnoid": "only 0 patients with a negative slice; at least 5 needed",
    }
    for label, reason in expected.items():
        figures = labels[label]
        for estimate in (figures.auroc, figures.average_precision, figures.operating_point.f1):
            assert math.isnan(estimate.low)
            assert math.isnan(estimate.high)
            assert estimate.reason == reason
        for estimate in (figures.auroc_delong, figures.raw.slope, figures.calibrated.brier):
            assert math.isnan(estimate.value)
            assert estimate.reason == reason
        two_classes = label == "intraventricular"
        assert math.isnan(figures.auroc.value) != two_classes
        assert evaluation.curves["slice"][label].roc is None
    # A sensitivity needs no negatives, a specificity no positives.
    assert not math.isnan(labels["subarachnoid"].operating_point.sensitivity.value)
    assert not math.isnan(labels["epidural"].operating_point.specificity.value)
    assert labels["epidural"].prevalence.value == 0
    counts = labels["intraventricular"].counts
    assert (counts.positive_patients, counts.patients) == (2, 20)
    assert labels["subdural"].counts.unknown == len(table)
    known = [labels[s].auroc.value for s in SUBTYPES if not math.isnan(labels[s].auroc.value)]
    assert len(known) == 2
    mean = evaluation.levels["slice"].auroc_mean_subtypes
    assert mean.value == pytest.approx(np.mean(known))
    assert math.isnan(mean.low)
    assert mean.reason == "fewer than 5 patients with, or without, intraventricular"


def test_predictions_without_any_target_give_an_evaluation_that_says_so():
    table = make_table()
    table[list(TARGET_COLUMNS)] = np.nan
    evaluation = evaluate(table, validation=make_table(seed=1, part="val"), replicates=5)
    plain = json.dumps(evaluation.to_dict(), allow_nan=False)
    assert "its targets are unknown" in plain
    for figures in evaluation.levels.values():
        assert math.isnan(figures.weighted_log_loss.value)
        assert math.isnan(figures.constant_log_loss)
        assert figures.auroc_mean_subtypes.reason == "no subtype has an AUROC"


def test_shares_of_0_and_1_get_the_interval_of_clopper_and_pearson_over_patients():
    table = make_table(patients=25, signal=40)
    validation = make_table(patients=40, seed=1, signal=40, part="val")
    found = evaluate(table, validation=validation, levels=["slice"], calibration="isotonic", replicates=20)
    label = found.levels["slice"].labels["any"]
    point, patients = label.operating_point, label.counts.positive_patients
    assert point.sensitivity.value == point.specificity.value == label.auroc.value == 1
    assert ends(point.sensitivity) == (pytest.approx(0.025 ** (1 / patients)), 1.0)
    assert "every bootstrap sample gives the same" in label.auroc.reason
    assert math.isnan(label.auroc.low)
    assert f"{label.auroc:.3f}" == "1.000"


def test_slices_of_one_patient_are_drawn_together():
    """Copies of a patient's slices carry no information: the interval must not shrink."""
    table = make_table(patients=15, prevalence=0.5)
    copies = pd.concat([table.assign(SOPInstanceUID=table.SOPInstanceUID + f"_{i}") for i in range(10)])
    once, often = (
        evaluate(t, levels=["slice"], replicates=100, seed=5).levels["slice"].labels["any"].auroc
        for t in (table, copies)
    )
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))


def test_the_same_seed_gives_the_same_evaluation():
    table = make_table(patients=25)
    first = evaluate(table, replicates=30, seed=1)
    assert first.to_dict() == evaluate(table, replicates=30, seed=1).to_dict()
    assert first.to_dict() != evaluate(table, replicates=30, seed=2).to_dict()


def test_curves_are_those_of_the_table_with_bands_around_them():
    table, validation = make_table(patients=40), make_table(patients=60, seed=1, part="val")
    evaluation = evaluate(table, validation=validation, levels=["slice"], replicates=200)
    curves, figures = evaluation.curves["slice"]["any"], evaluation.levels["slice"].labels["any"]
    for band in (curves.roc, curves.precision_recall):
        assert band.x.shape == band.y.shape == band.low.shape == band.high.shape == (101,)
        assert (band.low <= band.high).all()
        assert ((band.low <= band.y) & (band.y <= band.high)).mean() > 0.95
    # The grid joins ties by a line, so that the area under it is the AUROC but for the grid's width.
    assert np.trapezoid(curves.roc.y, curves.roc.x) == pytest.approx(figures.auroc.value, abs=0.01)
    assert curves.roc.y[-1] == 1
    histogram = curves.histogram
    assert histogram.positives.sum() == figures.counts.positives
    assert histogram.negatives.sum() == figures.counts.negatives
    assert curves.reliability.units.sum() == curves.reliability_calibrated.units.sum() == len(table)


ESTIMATE = {"value", "low", "high", "reason"}
SCHEMA = {
    "schema": None,
    "note": None,
    "few": None,
    "slices": None,
    "patients": None,
    "replicates": None,
    "seed": None,
    "levels": {"pooling", "units", "labels", "auroc_mean_subtypes", "weighted_log_loss"}
    | {"weighted_log_loss_calibrated", "constant_log_loss"},
    "pooling_effect": set(METHODS),
    "folds": None,
}
MEASURES = {"brier", "log_loss", "slope", "intercept", "in_the_large", "expected_error"}
LABEL = {
    "counts": {"units", "positives", "negatives", "unknown", "patients", "positive_patients"}
    | {"negative_patients"},
    "prevalence": ESTIMATE,
    "auroc": ESTIMATE,
    "auroc_delong": ESTIMATE,
    "average_precision": ESTIMATE,
    "raw": MEASURES,
    "calibrated": MEASURES,
    "operating_point": {"threshold", "rule", "chosen_sensitivity", "chosen_specificity", "true_positives"}
    | {"false_positives", "true_negatives", "false_negatives", "sensitivity", "specificity", "ppv", "npv"}
    | {"f1", "at_prevalences"},
}


def test_the_form_of_metrics_json_stays_as_it_is():
    """Whoever reads metrics.json relies on these keys: a change of them needs another name of the schema."""
    plain = evaluate(make_table(), replicates=2).to_dict()
    assert plain["schema"] == "ich evaluation 1"
    assert plain["note"] == "Research use only; not a medical device"
    assert plain.keys() == SCHEMA.keys()
    assert plain["pooling_effect"].keys() == SCHEMA["pooling_effect"]
    assert plain["pooling_effect"]["max"]["any"].keys() == {"auroc", "average_precision"}
    assert plain["levels"].keys() == {"slice", "study", "patient"}
    for level in plain["levels"].values():
        assert level.keys() == SCHEMA["levels"]
        assert level["labels"].keys() == set(LABELS)
        for label in level["labels"].values():
            assert label.keys() == LABEL.keys()
            for name, keys in LABEL.items():
                assert label[name].keys() == keys
            assert label["raw"]["slope"].keys() == ESTIMATE
            for values in label["operating_point"]["at_prevalences"]:
                assert values.keys() == {"prevalence", "ppv", "npv"}
    assert plain["levels"]["slice"]["labels"]["any"]["auroc"]["reason"] is None
    assert plain["levels"]["slice"]["labels"]["any"]["calibrated"]["slope"]["value"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="target_any"), "lacks the columns target_any"),
        (lambda t: t.iloc[:0], "empty"),
        (lambda t: pd.concat([t, t.iloc[:2]]), "2 slices more than once"),
        (lambda t: t.assign(PatientID=t.PatientID.where(t.index > 2)), "PatientID of 3 slices"),
        (lambda t: t.assign(PatientID=t.PatientID.where(t.index > 2, "")), "PatientID of 3 slices"),
        (lambda t: t.assign(prob_any=1.5), "outside"),
        (lambda t: t.assign(prob_any=np.nan), "missing"),
        (lambda t: t.assign(target_any=0.5), "other than 0, 1"),
        (lambda t: t.assign(StudyInstanceUID=""), "lacks the StudyInstanceUID"),
    ],
)
def test_bad_tables_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        evaluate(change(make_table()), replicates=2)


def test_a_validation_set_that_is_the_evaluated_set_is_refused():
    table = make_table()
    with pytest.raises(UserError, match="holds all slices"):
        evaluate(table, validation=table, replicates=2)
    with pytest.raises(UserError, match="the validation table is empty"):
        evaluate(table, validation=table.iloc[:0], replicates=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": ["organ"]}, "levels=organ"),
        ({"pooling": "median"}, "pooling=median"),
        ({"prevalences": [0.0]}, "prevalences=.* between 0 and 1"),
        ({"training_prevalences": [0.1] * 5}, "training_prevalences"),
        ({"training_prevalences": [2.0] * 6}, "training_prevalences"),
        ({"replicates": 0}, "replicates=0"),
        ({"rule": "best", "validation": make_table(part="val")}, "rule=best"),
        ({"calibration": "magic", "validation": make_table(part="val")}, "magic"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        evaluate(make_table(), **{"replicates": 2} | arguments)


def render(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_rendered_table_fits_80_columns_and_says_what_matters():
    table = make_table(patients=300, seed=2)
    table["target_epidural"] = 0.0
    table.loc[table.PatientID == "P4", "target_epidural"] = 1.0
    evaluation = evaluate(table, training_prevalences=[0.3] * 6, replicates=20)
    text = render(render_evaluation(evaluation, "test"))
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}

    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    figures = evaluation.levels["slice"]
    any_ = figures.labels["any"]
    assert f"{any_.auroc.value:.3f} ({any_.auroc.low:.3f}-{any_.auroc.high:.3f})" in rows["any"]
    assert f"{any_.counts.positives:,} ({any_.counts.positive_patients})" in rows["any"]
    assert "(1)" in rows["epidural"]
    assert f"{figures.labels['epidural'].auroc.value:.3f}" in rows["epidural"]
    assert "-" not in rows["epidural"]
    assert "fewer than 5 patients" in text
    assert f"{figures.weighted_log_loss.value:.4f}" in rows["log"]
    assert f"{figures.constant_log_loss:.4f}" in rows["log"]
    assert "Research use only; not a medical device" in text
    assert f"{evaluation.levels['study'].units:,} studies of 300" in render(
        render_evaluation(evaluation, "test", "study")
    )


def test_an_estimate_formats_like_a_number():
    assert f"{Estimate(0.91234, 0.88, 0.94):.3f}" == "0.912 (0.880-0.940)"
    assert f"{Estimate(0.91234, math.nan, math.nan, 'few'):.2f}" == "0.91"
    assert f"{Estimate(math.nan, math.nan, math.nan, 'few'):.2f}" == "n/a"
