"""Smoothing over neighboring slices: against plain loops, on constructions whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss, roc_auc_score
from squares import FindsSquares, bleed
from test_left_out import turn_to_air

from ich.calibration import NotFitted
from ich.calibration.choice import is_better, measure_losses
from ich.calibration.smoothing import TIED, Kernel, smooth
from ich.evaluate.smoothing import fit_table, smooth_folds, smooth_table
from ich.model_files.metadata import read_metadata
from ich.predict import Predictor
from ich.schema import LABELS, UserError
from ich.tables import UIDS, make_predictions, read_predictions, write_table

STEP = 5.0  # mm
SMOOTHED = dict.fromkeys(LABELS, TIED) | {"any": Kernel(5.0, 1.0, 0.0)}


def test_a_kernel_is_the_mean_by_its_definition() -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((12, 2)).astype(np.float32)
    positions, series = rng.permutation(12) * 3.5, np.array([0, 1] * 6)
    positions[4] = np.nan
    expected = probs.copy()
    for i in set(range(12)) - {4}:
        weights = [
            np.exp(-((positions[i] - positions[j]) ** 2) / (2 * 4.0**2)) * (series[i] == series[j])
            for j in range(12)
            if j != 4
        ]
        expected[i, 1] = np.average(np.delete(probs[:, 1], 4), weights=weights)
    found = smooth(probs, positions, series, {"a": TIED, "b": Kernel(4.0, 1.0, 0.0)})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    steep = smooth(probs, positions, series, {"a": TIED, "b": Kernel(4.0, 2.0, -0.5)})
    np.testing.assert_allclose(logit(steep[:, 1]), 2 * logit(expected[:, 1]) - 0.5, rtol=1e-4)


def draw_table(length: int, patients: int = 12, seed: int = 0) -> pd.DataFrame:
    """Series of 40 slices, hemorrhages of ``length`` slices, and a model that is right up to noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        target = np.zeros(40)
        for start in (3, 23):
            target[start : start + length] = 1
        rows += [(f"P{patient}", place * STEP, each) for place, each in enumerate(target)]
    table = pd.DataFrame(rows, columns=["PatientID", "position", "target"])
    for uid in UIDS:
        table[uid] = table["PatientID"] + (table.index.astype(str) if uid == "SOPInstanceUID" else "")
    table[list(LABELS)] = np.nan
    table["any"] = table["target"]
    evidence = logit(0.3) + 1.5 * (2 * table["target"] - 1) + rng.normal(size=len(table)) * 1.5
    probs = np.full((len(table), len(LABELS)), 0.25)
    probs[:, -1] = expit(evidence)
    return make_predictions(table, "val", probs)


def test_labels_are_smoothed_where_it_helps_on_new_patients() -> None:
    found = fit_table(draw_table(length=8, patients=30))
    assert isinstance(found["any"], Kernel)
    assert found["epidural"] == TIED  # its targets are unknown
    fresh = draw_table(length=8, seed=1)
    smoothed = smooth_table(fresh, found)
    before, after = (log_loss(t["target_any"], t["prob_any"]) for t in (fresh, smoothed))
    assert after < 0.8 * before
    before, after = (roc_auc_score(t["target_any"], t["prob_any"]) for t in (fresh, smoothed))
    assert after > before + 0.02
    assert (smoothed["prob_epidural"] == fresh["prob_epidural"]).all()


def test_all_labels_share_a_width_and_none_may_lose() -> None:
    table = draw_table(length=8)
    table["target_subdural"], table["prob_subdural"] = table["target_any"], table["prob_any"]
    # A hemorrhage in every second slice: the mean over neighbors knows less than each slice.
    table["target_epidural"] = np.arange(len(table)) % 2
    table["prob_epidural"] = np.where(table["target_epidural"] == 1, 0.9, 0.1)
    found = fit_table(table)
    assert found["subdural"] == found["any"] != TIED
    assert found["epidural"] == TIED


def test_means_are_calibrated_only_where_it_helps_new_patients() -> None:
    many = fit_table(draw_table(length=8, patients=30))["any"]
    few = fit_table(draw_table(length=8, patients=10))["any"]
    assert isinstance(many, Kernel)
    assert isinstance(few, Kernel)
    assert many.slope > 1.2
    assert (few.slope, few.intercept) == (1.0, 0.0)


def test_means_without_a_gain_may_gain_by_a_curve() -> None:
    """A mean over neighbors is unsure of itself where the model is sure, and a curve repairs that."""

    def draw_sure(patients: int, seed: int = 0) -> pd.DataFrame:
        table, noise = draw_table(3, patients, seed), np.random.default_rng(seed).normal(size=40 * patients)
        return table.assign(prob_any=expit(1.5 * (2 * table["target_any"] - 1 + 0.7 * noise)))

    assert fit_table(draw_sure(10))["any"] == TIED  # too few for a curve
    fresh, found = draw_sure(12, seed=1), fit_table(draw_sure(30))
    smoothed = smooth_table(fresh, found)
    before, after = (log_loss(t["target_any"], t["prob_any"]) for t in (fresh, smoothed))
    assert after < 0.5 * before


def test_a_curve_alone_is_no_reason_to_smooth() -> None:
    """Of a model that is less sure than it could be, about slices that say nothing about their neighbors."""
    table = draw_table(length=1, patients=30)
    table["target_any"] = np.random.default_rng(2).permutation(table["target_any"])
    rng = np.random.default_rng(3)
    table["prob_any"] = expit(0.3 * (2 * table["target_any"] - 1 + rng.normal(size=len(table))))
    assert fit_table(table)["any"] == TIED


def test_labels_of_single_slices_stay_as_they_are() -> None:
    assert fit_table(draw_table(length=1))["any"] == TIED


def test_slices_without_positions_or_series_are_left_alone(tmp_path: Path) -> None:
    table = draw_table(length=8)
    reason = NotFitted("no series with the positions of several slices")
    assert fit_table(table.assign(SeriesInstanceUID=""))["any"] == reason
    write_table(table.drop(columns=["position", "stack"]), tmp_path / "older.csv")
    assert fit_table(read_predictions(tmp_path / "older.csv"))["any"] == reason
    write_table(table.assign(position="low"), tmp_path / "other.csv")
    with pytest.raises(UserError, match=r"other\.csv is not a predictions table"):
        read_predictions(tmp_path / "other.csv")


def test_folds_are_smoothed_by_the_others_and_their_models_by_all() -> None:
    tables = {
        str(n): draw_table(length=8, patients=6, seed=n).assign(
            PatientID=lambda table, n=n: f"{n}" + table["PatientID"]
        )
        for n in range(3)
    }
    smoothed, kernels = smooth_folds(tables)
    assert kernels == fit_table(pd.concat(tables.values(), ignore_index=True))
    for name, table in tables.items():
        others = pd.concat([each for other, each in tables.items() if other != name], ignore_index=True)
        assert isinstance(fit_table(others)["any"], Kernel)
        pd.testing.assert_frame_equal(smoothed[name], smooth_table(table, fit_table(others)))


def test_a_smoothed_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = draw_table(length=8)
    smoothed = smooth_table(table, fit_table(table))
    write_table(smoothed, tmp_path / "smoothed.csv")
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "smoothed.csv"), smoothed)


def test_stacks_of_one_series_do_not_meet() -> None:
    table = draw_table(length=8)
    alone = smooth_table(table.assign(stack=np.arange(len(table))), fit_table(table))
    nowhere = smooth_table(table.assign(position=np.nan), fit_table(table))
    assert (alone["prob_any"] == nowhere["prob_any"]).all()
    assert (np.diff(alone["prob_any"].to_numpy()[np.argsort(table["prob_any"])]) >= 0).all()


def test_better_means_by_more_than_a_standard_error() -> None:
    patients = ["a", "a", "b", "c"]
    assert is_better([1, 1, 2, 2], [0.5, 0.5, 1, 1.1], patients)  # -1, -1, -0.9
    assert not is_better([0, 0, 0, 0], [-1, -1, 1, 0.9], patients)  # -2, 1, 0.9: -0.1, error 2.9
    assert not is_better([1, 1], [0, 0], ["a", "a"])
    assert not is_better([1, 1, 1], [1, 1, 1], ["a", "b", "c"])
    target, prob = np.array([0, 1, 1.0]), np.array([0.2, 0.7, 0.9])
    assert measure_losses(target, prob).mean() == pytest.approx(log_loss(target, prob))
    assert measure_losses([np.nan], [0.3]).tolist() == [0]


def test_a_prediction_smooths_by_position_without_what_is_left_out(study: Path) -> None:
    bleed(study, 10, 11)
    turn_to_air(study, 13)
    network = FindsSquares()
    (plain,) = Predictor([network]).predict(study)
    network.metadata = replace(network.metadata, smoothing=SMOOTHED)
    (result,) = Predictor([network]).predict(study)
    probs, found = (np.array([s.probs["any"] for s in each.slices]) for each in (plain, result))
    left_out = np.array([each.left_out is not None for each in plain.slices])
    positions = np.where(left_out, np.nan, [each.position for each in plain.slices])
    expected = smooth(probs[:, None], positions, np.zeros(len(probs)), {"any": SMOOTHED["any"]})[:, 0]
    assert left_out.any()
    assert (found == expected).all()
    assert 0.05 < found[9] < found[10] < 0.95
    assert result.labels["any"].prob == pytest.approx(found[~left_out].max())


def test_arrays_need_positions_where_the_model_smooths() -> None:
    network = FindsSquares()
    network.metadata = replace(network.metadata, smoothing=SMOOTHED)
    slices = [np.full((64, 64), hu, np.int16) for hu in (75, 0, 0)]
    with pytest.raises(UserError, match="give the positions of the slices"):
        Predictor([network]).predict_hu(slices)
    with pytest.raises(UserError, match="3 slices have 2 positions"):
        Predictor([network]).predict_hu(slices, positions=[0, 5])
    probs = Predictor([network]).predict_hu(slices, positions=[0, 5, 1000]).probs[0, :, -1]
    near, far = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))  # shares of a slice and of one 5 mm away
    assert probs == pytest.approx([0.95 * near + 0.05 * far, 0.05 * near + 0.95 * far, 0.05])


def test_smoothing_travels_in_the_metadata_and_is_checked() -> None:
    plain = replace(FindsSquares().metadata, smoothing=dict(reversed(SMOOTHED.items()))).to_plain()
    assert read_metadata(plain, "here").smoothing == SMOOTHED
    assert list(read_metadata(plain, "here").smoothing) == list(LABELS)
    plain["smoothing"]["any"]["width"] = -1.0
    with pytest.raises(UserError, match=r"smoothing\.any\.width is -1\.0; expected a number above 0"):
        read_metadata(plain, "here")
    del plain["smoothing"]["any"]
    with pytest.raises(UserError, match="smoothing lacks any"):
        read_metadata(plain, "here")
