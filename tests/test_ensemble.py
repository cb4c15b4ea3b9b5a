"""Ensembles in one file: the members and what they decide by, from the bundle to ONNX, and stacking."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import call
from networks import draw_slices
from predictions import keep_any, make_table
from scipy.optimize import minimize
from test_predict import make_decision, write_model

from ich.calibration.files import write_calibration
from ich.calibration.smoothing import TIED, Kernel, smooth
from ich.evaluate.comparison import ensemble
from ich.evaluate.folds import evaluate_folds
from ich.evaluate.stacking import fit_shares
from ich.model_files.bundle import read_bundle, write_bundle, write_ensemble
from ich.model_files.ensemble import EnsembleMetadata
from ich.models import hash_weights, load_ensemble, load_slice_net
from ich.networks import load_members, load_network
from ich.networks.bundling import bundle_models
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.formats import to_plain
from ich.schema.labels import RSNA_LABELS
from ich.tables import WEIGHTS_COLUMN

DECISIONS = {"slice": make_decision(0.4), "study": make_decision(0.4, pooling="mean")}
KERNELS = dict.fromkeys(LABELS, TIED) | {"any": Kernel(5.0, 2.0, 0.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of two models of one input, of one of another, and of the first two as an ensemble.

    ``smooth.zip`` is this ensemble with a smoothing of the mean.
    """
    folder = tmp_path_factory.mktemp("ensemble")
    write_model(folder / "a.zip", 0.3, limit=2.0)
    write_model(folder / "b.zip", 0.6, limit=8.0, seed=1)
    write_model(folder / "large.zip", 0.6, seed=2, spec=InputSpec(size=96))
    write_calibration(DECISIONS, folder / "calibration.json")
    given = ["--calibration", str(folder / "calibration.json")]
    assert call("bundle", *(str(folder / name) for name in ("a.zip", "b.zip", "both.zip")), *given) == 0
    both = read_bundle(folder / "both.zip")
    write_ensemble(replace(both.ensemble, smoothing=KERNELS), both.state_dicts, folder / "smooth.zip")
    return folder


def predict(study: Path, *paths: Path, **settings):
    (result,) = Predictor.load(*paths, **settings).predict(study)
    return result


def compare(ours, theirs) -> None:
    """Results are alike in all but the description of the algorithm, and the times."""
    one, other = (asdict(replace(result, timing=None)) for result in (ours, theirs))
    assert one.pop("algorithm") != other.pop("algorithm")
    assert one == other


@pytest.mark.trains
def test_bundle_gives_the_results_of_its_members(folder: Path, study: Path) -> None:
    members = folder / "a.zip", folder / "b.zip"
    both = predict(study, folder / "both.zip")
    compare(both, predict(study, *members, decisions=DECISIONS))
    assert both.labels["any"].threshold == 0.4
    assert both.algorithm.name == "2 x test_resnet"
    assert len(both.algorithm.weights) == 1  # the file's
    assert both.algorithm.pooling == "mean"
    share = np.mean(
        [predict(study, path).distance / limit for path, limit in zip(members, (2, 8), strict=True)]
    )
    assert (both.distance, both.distance_limit) == (pytest.approx(share), 1.0)


@pytest.mark.trains
def test_members_of_several_inputs_and_with_decisions_of_their_own(
    folder: Path, study: Path, tmp_path: Path, capsys
) -> None:
    members = folder / "a.zip", folder / "large.zip"
    assert call("bundle", *map(str, members), str(tmp_path / "mixed.zip")) == 0
    assert "calibration and operating points: those of each model" in capsys.readouterr().out
    compare(predict(study, tmp_path / "mixed.zip"), predict(study, *members))
    with pytest.raises(UserError, match="its members have different inputs"):
        load_network(tmp_path / "mixed.zip")
    assert [each.input.size for each in load_members(tmp_path / "mixed.zip").networks] == [64, 96]
    # An ensemble can be a member: its models are, and its decisions are not.
    command = ("bundle", str(folder / "both.zip"), str(members[1]), str(tmp_path / "three.zip"))
    assert call(*command) == 0
    assert "none, so that every study will be INDETERMINATE" in capsys.readouterr().out
    assert len(load_ensemble(tmp_path / "three.zip").nets) == 3
    assert call("bundle", str(folder / "smooth.zip"), str(members[1]), str(tmp_path / "own.zip")) == 0
    metadata = load_ensemble(tmp_path / "own.zip").metadata
    assert [member.smoothing for member in metadata.members] == [KERNELS, KERNELS, None]
    assert metadata.smoothing is None


def change_description(source: Path, out: Path, format_: str | None = None, **changes: object) -> None:
    """Writes a bundle that says something else of its ensemble."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    description = json.loads(members["model.json"])
    description["ensemble"] |= changes
    description["format"] = format_ or description["format"]
    members["model.json"] = json.dumps(description).encode()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def list_any(result) -> np.ndarray:
    return np.array([each.probs["any"] for each in result.slices])


@pytest.mark.trains
def test_the_mean_is_smoothed_once(folder: Path, study: Path) -> None:
    plain, result = predict(study, folder / "both.zip"), predict(study, folder / "smooth.zip")
    places = [np.nan if each.left_out else each.position for each in plain.slices]
    before = list_any(plain)
    expected = smooth(before[:, None], places, np.zeros(len(before)), {"any": KERNELS["any"]})[:, 0]
    np.testing.assert_array_equal(list_any(result), expected)
    assert np.abs(expected - before).max() > 0.01
    given = Predictor.load(folder / "both.zip").describe(), Predictor.load(folder / "smooth.zip").describe()
    assert given[0]["decisions"] != given[1]["decisions"]


@pytest.mark.trains
def test_members_of_format_4_smooth_by_themselves(folder: Path, study: Path, tmp_path: Path, capsys) -> None:
    members = []
    for name in ("a.zip", "b.zip"):
        bundle = read_bundle(folder / name)
        metadata = replace(bundle.metadata, smoothing=KERNELS)
        write_bundle(metadata, bundle.state_dict, tmp_path / name)
        members.append(replace(metadata, decisions=None).to_plain())
    change_description(folder / "both.zip", tmp_path / "old.zip", "ich bundle 4", members=members)
    old = predict(study, tmp_path / "old.zip")
    compare(old, predict(study, tmp_path / "a.zip", tmp_path / "b.zip", decisions=DECISIONS))
    assert np.abs(list_any(old) - list_any(predict(study, folder / "smooth.zip"))).max() > 1e-3
    assert call("export", str(tmp_path / "old.zip"), str(tmp_path / "old.onnx")) == 2
    assert "bundle the folds of one model again" in " ".join(capsys.readouterr().err.split())


def test_network_of_an_ensemble_is_the_mean(folder: Path) -> None:
    hu = draw_slices(1)
    mean, *each = (load_network(folder / name, gpus=0) for name in ("both.zip", "a.zip", "b.zip"))
    outputs = [network.run(hu) for network in each]
    probs = np.mean([output.probs for output in outputs], axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean.run(hu).probs, probs, atol=1e-7)
    distance = (outputs[0].distance / 2 + outputs[1].distance / 8) / 2
    np.testing.assert_allclose(mean.run(hu).distance, distance, rtol=1e-6)
    assert (mean.limit, mean.metadata.decisions) == (1.0, DECISIONS)
    smooth = load_network(folder / "smooth.zip", gpus=0)
    np.testing.assert_array_equal(smooth.run(hu).probs, mean.run(hu).probs)  # it comes after the network
    assert (smooth.metadata.smoothing, mean.metadata.smoothing) == (KERNELS, None)


@pytest.mark.trains
def test_ensemble_as_onnx(folder: Path, phantom: Path, study: Path, tmp_path: Path, capsys) -> None:
    checks = list(map(str, sorted((phantom / "stage_2_train").iterdir())[:20]))
    out = tmp_path / "smooth.onnx"
    assert call("export", str(folder / "smooth.zip"), str(out), "--check", *checks) == 0
    assert "largest difference in a probability over 20 slices" in capsys.readouterr().out
    ours, theirs = (load_network(path, gpus=0) for path in (folder / "smooth.zip", out))
    assert (ours.metadata, ours.name, ours.limit) == (theirs.metadata, theirs.name, theirs.limit)
    run, exported = (each.run(draw_slices(1)) for each in (ours, theirs))
    np.testing.assert_allclose(run.probs, exported.probs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run.distance, exported.distance, rtol=1e-4)
    one, other = (predict(study, path) for path in (folder / "smooth.zip", out))
    np.testing.assert_allclose(list_any(one), list_any(other), rtol=0, atol=1e-5)
    assert other.labels["any"].prob == pytest.approx(one.labels["any"].prob, abs=1e-5)
    assert one.outcome is other.outcome
    assert call("bundle", str(folder / "a.zip"), str(folder / "b.zip"), str(tmp_path / "own.zip")) == 0
    assert call("export", str(tmp_path / "own.zip"), str(tmp_path / "own.onnx")) == 2
    assert "none for their mean" in " ".join(capsys.readouterr().err.split())


def test_what_one_file_of_several_models_says(folder: Path, tmp_path: Path, capsys) -> None:
    assert call("bundle", str(folder / "smooth.zip")) == 0
    shown = capsys.readouterr().out
    for line in (
        "an ensemble of 2 models",
        "smoothing of the mean over neighboring slices: any 5 mm",
        "of the mean: by slice and study",
        "model 2:\n  test_resnet, 64",
    ):
        assert line in shown
    assert "nothing" not in shown
    assert call("bundle", str(folder / "smooth.zip"), str(tmp_path / "again.zip")) == 0
    assert (tmp_path / "again.zip").read_bytes() == (folder / "smooth.zip").read_bytes()
    with pytest.raises(UserError, match="holds an ensemble of 2 models, where one is needed"):
        load_slice_net(folder / "both.zip")
    with pytest.raises(UserError, match="use it alone, or bundle all models together"):
        Predictor.load(folder / "both.zip", folder / "large.zip")
    with pytest.raises(UserError, match=r"smooth\.zip is an ensemble that decides by the mean"):
        Predictor.load(folder / "smooth.zip", folder / "large.zip", decisions=DECISIONS)
    assert call("bundle", str(folder / "a.zip"), str(folder / "b.zip"), str(tmp_path / "x"), "--stack") == 2
    assert "stacking needs out-of-fold predictions" in " ".join(capsys.readouterr().err.split())


@pytest.mark.trains
def test_heat_maps_are_those_of_the_first_member(folder: Path, phantom: Path, tmp_path: Path, capsys) -> None:
    files = list(map(str, sorted((phantom / "stage_2_train").iterdir())[:6]))
    tables = []
    for name in ("both.zip", "a.zip"):
        assert call("explain", str(folder / name), *files, "--limit", "1", "--out", str(tmp_path / name)) == 0
        said = "is an ensemble of 2 models; probabilities and maps are those of the first"
        assert (said in " ".join(capsys.readouterr().out.split())) is (name == "both.zip")
        tables.append(pd.read_csv(tmp_path / name / "slices.csv"))
    pd.testing.assert_frame_equal(*tables)


def test_evaluation_takes_the_decisions_of_an_ensemble(folder: Path, tmp_path: Path, capsys) -> None:
    nets = load_ensemble(folder / "both.zip").nets
    table = keep_any(make_table(80))
    even = table["PatientID"].str.removeprefix("P").astype(int) % 2 == 0
    table[WEIGHTS_COLUMN] = np.where(even, *map(hash_weights, nets))
    table.to_csv(tmp_path / "predictions_oof.csv", index=False)
    given = ("evaluate", str(tmp_path / "predictions_oof.csv"), "--replicates", "10")
    assert call(*given, "--checkpoint", str(folder / "both.zip")) == 0
    found = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    point = found["levels"]["study"]["labels"]["any"]["operating_point"]
    assert (point["threshold"], found["folds"]) == (0.4, 2)
    tables = [table[even].reset_index(drop=True), table[~even].reset_index(drop=True)]
    expected = evaluate_folds({"0": tables[0], "1": tables[1]}, pooling="mean", replicates=10).evaluation
    figures = expected.levels["study"].labels["any"].operating_point
    assert point["true_positives"] == figures.true_positives  # held out
    assert call(*given, "--checkpoint", str(folder / "large.zip")) == 2
    assert "did not make the predictions" in " ".join(capsys.readouterr().err.split())


def test_prepared_ensembles_are_refused(folder: Path, tmp_path: Path) -> None:
    bundle, path = read_bundle(folder / "both.zip"), tmp_path / "bundle.zip"
    first, second = bundle.ensemble.members
    for change, message in (
        ({"shares": (0.5, 0.4)}, r"shares is \[0.5, 0.4\]; expected numbers from 0 to 1 that sum to 1"),
        ({"shares": (1.0,)}, "shares has 1 numbers for 2 members"),
        ({"members": []}, "members is empty"),
        ({"decisions": {"slice": {}}}, "slice lacks pooling"),
        ({"smoothing": {}}, "smoothing lacks any"),
        ({"smoothing": to_plain(KERNELS), "decisions": None}, "for the mean of models that smooth or decide"),
    ):
        change_description(folder / "both.zip", path, **change)
        with pytest.raises(UserError, match=message):
            read_bundle(path)
    other = replace(second.labels, decides=None)
    with pytest.raises(UserError, match="the models predict different labels"):
        EnsembleMetadata((first, replace(second, labels=other)))
    path.unlink()
    write_ensemble(bundle.ensemble, bundle.state_dicts[:1], path)
    with pytest.raises(UserError, match="is damaged: its weights are not those of test_resnet"):
        load_ensemble(path)


def test_weights_of_stacking_are_those_of_the_least_loss() -> None:
    truth = make_table(40, signal=2.0)
    tables = {"good": truth, "poor": make_table(40, signal=0.3), "copy": truth.copy()}
    for name in ("poor", "copy"):
        targets = [column for column in truth if str(column).startswith("target_")]
        tables[name] = tables[name].iloc[: len(truth)].assign(**{column: truth[column] for column in targets})
    del tables["copy"]

    def loss(share: float) -> float:
        mean = ensemble(tables, [share, 1 - share])
        terms = []
        for label, weight in zip(RSNA_LABELS.names, RSNA_LABELS.weights, strict=True):
            prob = mean[f"prob_{label}"].clip(1e-15, 1 - 1e-15)
            terms.append(
                weight * np.where(mean[f"target_{label}"] == 1, np.log(prob), np.log(1 - prob)).mean()
            )
        return -sum(terms)

    expected = minimize(lambda x: loss(float(x[0])), [0.5], bounds=[(0, 1)]).x[0]
    assert fit_shares(tables, RSNA_LABELS)[0] == pytest.approx(expected, abs=1e-3)
    assert 0.5 < expected <= 1


def test_weights_of_members_travel_and_weigh(folder: Path, study: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder / "both.zip")
    ensemble = replace(bundle.ensemble, shares=(1.0, 0.0))
    write_ensemble(ensemble, bundle.state_dicts, tmp_path / "first.zip")
    first, alone = (predict(study, tmp_path / "first.zip"), predict(study, folder / "a.zip"))
    assert [each.probs for each in first.slices] == [each.probs for each in alone.slices]
    hu = draw_slices(1)
    ours, theirs = (load_network(path, gpus=0).run(hu) for path in (tmp_path / "first.zip", folder / "a.zip"))
    np.testing.assert_array_equal(ours.probs, theirs.probs)
    described = [Predictor.load(path).describe() for path in (tmp_path / "first.zip", folder / "both.zip")]
    assert described[0]["decisions"] != described[1]["decisions"]
    copied = bundle_models([tmp_path / "first.zip"], tmp_path / "copy.zip")
    assert copied.metadata == ensemble
