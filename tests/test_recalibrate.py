"""``ich recalibrate``: curves that are known, shrinking, figures of held-out studies, and the new bundle."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import call
from networks import make_model
from results import ALGORITHM, GAP, make_result, make_slices
from scipy.optimize import minimize
from scipy.special import expit, logit

from ich.calibration import Decision, Isotonic, NotFitted, OperatingPoint, Platt, Temperature
from ich.calibration.fits import fit_shrunk_logistic
from ich.calibration.recalibration import INTERCEPT_SD, SLOPE_SD, recalibrate_label
from ich.files import hash_file
from ich.model_files.bundle import read_bundle, write_bundle, write_ensemble
from ich.model_files.ensemble import EnsembleMetadata
from ich.outputs.records import write_json
from ich.recalibrate import require_recalibrable
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.codes import Reason
from ich.schema.results import Remark, StudyResult

POINT = OperatingPoint(0.5, "sensitivity>=0.95", 0.95, 0.8)
NONE = NotFitted("too few cases")
SLOPE, INTERCEPT = 0.6, -1.5  # of the site


def draw_site(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets and probabilities of studies at a site where the model is too sure of itself."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 3, n)
    return (rng.random(n) < expit(SLOPE * x + INTERCEPT)).astype(float), expit(x)


def fit(n: int, calibrator=NONE, point=POINT, seed: int = 0):
    target, prob = draw_site(n, seed)
    return recalibrate_label(calibrator, point, target, prob, np.arange(n), rule="sensitivity>=0.9")


@pytest.mark.parametrize("seed", range(3))
def test_peak_is_that_of_a_plain_search(seed: int) -> None:
    target, prob = draw_site(25, seed)
    x, counts = logit(prob), np.random.default_rng(seed).random(25)

    def loss(at):
        logits = at[0] * x + at[1]
        prior = ((at[0] - 1) / 0.4) ** 2 / 2 + (at[1] / 2) ** 2 / 2
        return np.sum(counts * (np.logaddexp(0, logits) - target * logits)) + prior

    found = fit_shrunk_logistic(x, target, counts, slope_sd=0.4, intercept_sd=2.0)
    assert found == pytest.approx(minimize(loss, (1, 0), tol=1e-12).x, abs=1e-4)


def test_no_study_changes_nothing_and_many_find_the_curve_of_the_site() -> None:
    empty = np.zeros(0)
    assert fit_shrunk_logistic(empty, empty, empty, slope_sd=SLOPE_SD, intercept_sd=INTERCEPT_SD) == (1, 0)
    site = fit(20_000).site
    assert (site.slope, site.intercept) == pytest.approx((SLOPE, INTERCEPT), abs=0.06)
    few = [fit(20, seed=seed).site for seed in range(200)]
    assert SLOPE + 0.02 < np.mean([each.slope for each in few]) < 1
    assert INTERCEPT + 0.05 < np.mean([each.intercept for each in few]) < 0


@pytest.mark.parametrize(
    "own", [Temperature(1.7), Platt(0.8, 0.4), Isotonic((0.1, 0.4, 0.9), (0.05, 0.3, 0.8)), NONE]
)
def test_calibrator_is_the_models_own_and_the_curve_of_the_site_in_one(own) -> None:
    found = fit(60, own)
    prob = np.array([0.1, 0.4, 0.9])
    calibrated = prob if own is NONE else own.apply(prob)
    expected = expit(found.site.slope * logit(calibrated) + found.site.intercept)
    assert found.calibrator.apply(prob) == pytest.approx(expected, abs=1e-9)


def test_operating_point_fulfills_its_rule_on_expected_counts() -> None:
    target, prob = draw_site(5000)
    found = fit(5000)
    calibrated = found.calibrator.apply(prob)
    called = calibrated >= found.point.threshold
    assert found.point.rule == POINT.rule
    assert found.point.sensitivity == pytest.approx(calibrated[called].sum() / calibrated.sum())
    assert 0.95 <= found.point.sensitivity < 0.951
    assert target[called].sum() / target.sum() == pytest.approx(0.95, abs=0.01)
    assert found.point.specificity == pytest.approx((1 - calibrated)[~called].sum() / (1 - calibrated).sum())


def test_label_without_operating_point_gets_one_from_enough_studies_only() -> None:
    assert fit(12, point=NONE).point.missing == "only 5 positives; at least 10 needed"
    assert fit(200, point=NONE).point.rule == "sensitivity>=0.9"


def test_label_keeps_its_own_where_nothing_can_be_fitted() -> None:
    target, prob = draw_site(100)
    own = Platt(1.2, 0.0)
    for targets, reason in ((np.zeros(100), "no positive among 100"), (1 - target, "not higher")):
        kept = recalibrate_label(own, POINT, targets, prob, np.arange(100), rule="cost:3")
        assert (kept.site, kept.calibrator, kept.point) == (None, own, POINT)
        assert reason in kept.kept


def test_patient_counts_as_one_however_many_studies() -> None:
    target, prob = draw_site(30)
    once = recalibrate_label(NONE, POINT, target, prob, np.arange(30), rule="cost:3")
    twice = recalibrate_label(
        NONE, POINT, np.tile(target, 2), np.tile(prob, 2), np.tile(np.arange(30), 2), rule="cost:3"
    )
    assert (twice.site.slope, twice.site.intercept) == pytest.approx((once.site.slope, once.site.intercept))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.zip"
    net = make_model(InputSpec(size=32))
    own = Decision("max", dict.fromkeys(LABELS, Platt(1.0, 0.0)), dict.fromkeys(LABELS, POINT))
    metadata = replace(net.metadata, decisions={"slice": own, "study": own})
    write_bundle(metadata, net.state_dict(), path, model_card="# Model card\n")
    return path


def make_study(number: int, prob: float, weights: str, reasons: tuple[Remark, ...] = ()) -> StudyResult:
    """Three slices of a patient; the middle one is as probable as the study."""
    index = make_slices(3).assign(PatientID=f"P{number}", StudyInstanceUID=f"2.25.{number}")
    index["SOPInstanceUID"] = [f"2.25.{number}.{place}" for place in range(3)]
    result = make_result(index, number=number, present=(), reasons=reasons)
    probs = [dict.fromkeys(LABELS, share * prob) for share in (0.2, 1.0, 0.5)]
    slices = [replace(each, probs=p) for each, p in zip(result.slices, probs, strict=True)]
    algorithm = replace(ALGORITHM, weights=(weights,), tta=())
    return replace(result, slices=tuple(slices), algorithm=algorithm)


@pytest.fixture(scope="module")
def site(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results of ``ich predict`` of 40 studies, and ``labels.csv`` of them beside it."""
    target, prob = draw_site(40)
    folder = tmp_path_factory.mktemp("site")
    (folder / "predicted" / "results").mkdir(parents=True)
    (folder / "predicted" / "done.jsonl").touch()
    for number, each in enumerate(prob, 1):
        write_study(folder / "predicted", make_study(number, each, hash_file(model)))
    studies = [f"2.25.{number}" for number in range(1, 41)]
    pd.DataFrame({"StudyInstanceUID": studies, "any": target}).to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture
def predicted(site: Path, tmp_path: Path) -> Path:
    """A copy of the folder of results."""
    return Path(shutil.copytree(site, tmp_path / "site")) / "predicted"


def write_study(folder: Path, result: StudyResult) -> None:
    write_json(result, folder / "results" / f"{result.number:04d}.json")


def recalibrate(model: Path, predicted: Path, *more: str) -> int:
    out = predicted.with_name("out")
    labels = predicted.with_name("labels.csv")
    return call("recalibrate", str(model), str(predicted), "--labels", str(labels), "--out", str(out), *more)


def test_new_bundle_has_the_sites_decisions_and_says_where_they_come_from(model, predicted, capsys) -> None:
    assert recalibrate(model, predicted, "--site", "Hospital A") == 0
    shown = capsys.readouterr().out
    out = predicted.with_name("out")
    old, new = read_bundle(model), read_bundle(out / "model.zip")
    target, prob = draw_site(40)
    expected = recalibrate_label(Platt(1.0, 0.0), POINT, target, prob, np.arange(40), rule="cost:1")
    study = new.metadata.decisions["study"]
    assert study.calibration["any"] == expected.calibrator
    assert study.operating_points["any"] == expected.point
    assert study.calibration["subdural"] == Platt(1.0, 0.0)
    assert new.metadata.decisions["slice"] == old.metadata.decisions["slice"]
    site = new.metadata.recalibration
    assert (site.site, site.studies, site.patients) == ("Hospital A", 40, 40)
    assert site.positives["any"] == target.sum()
    assert new.model_card == ""
    assert all((new.state_dict[name] == tensor).all() for name, tensor in old.state_dict.items())
    page = re.sub('base64,[^"]*', "", (out / "report.html").read_text())
    assert (out / "reliability.png").is_file()
    for text in (shown, page):
        assert "40 studies are used, of 40 patients" in text
        assert "Research use only" in text
    assert "P1" not in page
    assert "2.25.1" not in page
    assert call("bundle", str(out / "model.zip")) == 0
    assert "recalibrated on 40 studies of 40 patients of 'Hospital A'" in capsys.readouterr().out


def test_of_an_ensemble_the_mean_is_recalibrated(model, predicted) -> None:
    one = read_bundle(model)
    both = EnsembleMetadata((one.metadata,) * 2).with_decisions(one.metadata.decisions or {})
    path = predicted.with_name("both.zip")
    write_ensemble(both, one.state_dicts * 2, path)
    for number, prob in enumerate(draw_site(40)[1], 1):
        write_study(predicted, make_study(number, prob, hash_file(path)))
    assert recalibrate(path, predicted) == 0
    new = read_bundle(predicted.with_name("out") / "model.zip").ensemble
    target, prob = draw_site(40)
    expected = recalibrate_label(Platt(1.0, 0.0), POINT, target, prob, np.arange(40), rule="cost:1")
    assert new.decisions["study"].calibration["any"] == expected.calibrator
    assert [member.decisions for member in new.members] == [None, None]
    assert new.members[1].recalibration.studies == 40


def test_slices_are_recalibrated_with_labels_of_slices(model, predicted, capsys) -> None:
    target, _ = draw_site(40)
    slices = [
        (f"2.25.{n}.{place}", t if place == 1 else 0) for n, t in enumerate(target, 1) for place in range(3)
    ]
    pd.DataFrame(slices, columns=["SOPInstanceUID", "any"]).to_csv(
        predicted.with_name("labels.csv"), index=False
    )
    assert recalibrate(model, predicted) == 0
    new = read_bundle(predicted.with_name("out") / "model.zip").metadata
    assert new.decisions["slice"].calibration["any"] != Platt(1.0, 0.0)
    assert new.recalibration.positives["any"] == target.sum()
    assert "any by slice: 120 slices of 40 patients" in " ".join(capsys.readouterr().out.split())


def test_studies_with_a_reason_about_their_data_are_left_out_whatever_their_outcome(
    model, predicted, capsys
) -> None:
    unlike = Remark(Reason.UNLIKE_TRAINING, "distance 3")
    for number, reasons in enumerate([(GAP,), (unlike, GAP), (unlike,)], 1):
        write_study(predicted, make_study(number, 0.9, hash_file(model), reasons))
    assert recalibrate(model, predicted) == 0
    shown = capsys.readouterr().out
    assert "38 studies are used, of 38 patients" in shown
    assert "1 study is used although out of distribution" in shown
    assert "2 studies are left out" in shown
    assert "(gap)" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(StudyInstanceUID="1." + t["StudyInstanceUID"]), "none of 40 studies is among"),
        (lambda t: t[:9], "any is known of 9 studies that can be used, and 10 are needed"),
        (lambda t: t[t["any"].astype(float) == 0], "any is 0 in all .* studies: .* add studies with it"),
        (lambda t: t.assign(any=2), "expected 0, 1, true, false or nothing"),
        (lambda t: t.rename(columns={"any": "stroke"}), "expected StudyInstanceUID or PatientID with some"),
    ],
)
def test_labels_that_do_not_serve_are_refused(model, predicted, capsys, change, message) -> None:
    path = predicted.with_name("labels.csv")
    change(pd.read_csv(path, dtype="str")).to_csv(path, index=False)
    assert recalibrate(model, predicted) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (predicted.with_name("out") / "model.zip").exists()


def test_labels_of_patients_serve_if_each_has_one_study(model, predicted, capsys) -> None:
    path = predicted.with_name("labels.csv")
    target, prob = draw_site(40)
    pd.DataFrame({"PatientID": [f"P{n}" for n in range(1, 41)], "any": target}).to_csv(path, index=False)
    assert recalibrate(model, predicted, "--site", "x" * 201) == 2
    assert recalibrate(model, predicted) == 0
    second = replace(make_study(41, prob[0], hash_file(model)), PatientID="P1")
    write_study(predicted, second)
    (predicted.with_name("out") / "model.zip").unlink()
    assert recalibrate(model, predicted) == 2
    assert "1 patients have several studies" in " ".join(capsys.readouterr().err.split())


def test_models_and_results_that_do_not_serve_are_refused(model, predicted, capsys) -> None:
    assert recalibrate(model, predicted) == 0
    assert recalibrate(model, predicted) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
    again = predicted.with_name("out").rename(predicted.with_name("first")) / "model.zip"
    assert recalibrate(again, predicted) == 2
    assert "was recalibrated already" in capsys.readouterr().err
    write_study(predicted, make_study(1, 0.5, "0" * 64))
    assert recalibrate(model, predicted) == 2
    assert "results are those of another model file" in capsys.readouterr().err
    with pytest.raises(UserError, match="export the new bundle"):
        require_recalibrable([object()])


def test_labels_that_contradict_the_model_are_refused(model, predicted, capsys) -> None:
    path = predicted.with_name("labels.csv")
    table = pd.read_csv(path)
    table.assign(any=1 - table["any"]).to_csv(path, index=False)
    assert recalibrate(model, predicted) == 2
    assert "Check the labels" in capsys.readouterr().err
