"""What a model decides by, from the end of a run to its checkpoint."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import call

from ich.calibration import Decision, NotFitted
from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.pooling import pool
from ich.model_files.checkpoint import read_checkpoint
from ich.model_files.durable import DurableIO
from ich.models import hash_weights, load_slice_net
from ich.schema import LABELS, UserError
from ich.schema.labels import RSNA_LABELS
from ich.tables import PROB_COLUMNS, WEIGHTS_COLUMN, read_predictions
from ich.train.best import add_to_checkpoint
from ich.train.results import evaluate_parts

TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch with many patients in its validation set."""
    folder = tmp_path_factory.mktemp("decided")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["data=rsna", f"data.root={phantom}", "input.size=32", "data.val_fraction=0.4"]
        assert call("train", *data, *TINY, "run_dir=run", "logger=csv") == 0
    return folder / "run"


def read_decisions(run: Path) -> dict[str, Decision]:
    return load_slice_net(run / "checkpoints/best.ckpt").metadata.decisions


def test_predictions_name_the_weights_that_made_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint got its decisions and its likeness afterwards; a bundle is another file."""
    assert call("bundle", str(run), str(tmp_path / "model.zip")) == 0
    for model in (run / "checkpoints/best.ckpt", tmp_path / "model.zip"):
        weights = hash_weights(load_slice_net(model))
        for part in ("val", "test"):
            assert set(read_predictions(run / f"predictions_{part}.csv")[WEIGHTS_COLUMN]) == {weights}
    out = ["--replicates", "20", "--out", str(tmp_path / "out")]
    assert call("evaluate", str(run), "--checkpoint", str(run), *out) == 0
    assert "do not name the weights" not in capsys.readouterr().out


def test_best_checkpoint_holds_what_its_validation_part_gives(run: Path) -> None:
    validation = read_predictions(run / "predictions_val.csv")
    decisions = read_decisions(run)
    assert decisions == fit_decisions(validation)
    assert list(decisions) == ["slice", "study"]
    found = decisions["slice"].operating_points["any"]
    target = validation["target_any"]
    calibrated = decisions["slice"].calibrate(validation[list(PROB_COLUMNS)])
    called = calibrated[:, LABELS.index("any")] >= found.threshold
    assert called[target == 1].mean() == pytest.approx(found.sensitivity)
    assert found.sensitivity >= 0.95
    assert "needed" in decisions["study"].calibration["epidural"].missing
    units = pool(validation, "study", decisions["study"].pooling)
    assert len(units) == validation["StudyInstanceUID"].nunique()


def test_metadata_have_the_prevalences_of_the_training_part(run: Path, phantom: Path) -> None:
    split = pd.read_csv(run / "split.csv").query("part == 'train'")
    labels = pd.read_csv(phantom / "stage_2_train.csv")
    metadata = load_slice_net(run / "checkpoints/best.ckpt").metadata
    for label in LABELS:
        share = labels[labels["ID"].isin(split["SOPInstanceUID"] + f"_{label}")]["Label"].mean()
        assert metadata.prevalences[label] == pytest.approx(max(share, 1e-4), abs=1e-4)


def test_end_that_comes_again_changes_no_byte(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent)
    files = [run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt", run / "predictions_val.csv"]
    before = [file.read_bytes() for file in files]
    assert read_checkpoint(files[1])["metadata"].decisions is None
    assert call("train", "ckpt_path=run") == 0
    assert [file.read_bytes() for file in files] == before
    # Where it was interrupted before anything was kept:
    checkpoint = DurableIO().load_checkpoint(files[0])
    for name in ("decisions", "training", "ood"):
        del checkpoint["metadata"][name]
    weights = checkpoint["state_dict"]
    checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith("ood.")}
    DurableIO().save_checkpoint(checkpoint, files[0])
    assert call("train", "ckpt_path=run") == 0
    assert files[0].read_bytes() == before[0]


def test_metrics_tell_what_was_chosen_and_what_calibration_changed(run: Path) -> None:
    report = json.loads((run / "metrics.json").read_text())
    predictions = read_predictions(run / "predictions_test.csv")
    calibrated = read_decisions(run)["slice"].calibrate(predictions[list(PROB_COLUMNS)])
    chosen = read_decisions(run)["slice"].operating_points
    for i, label in enumerate(LABELS):
        figures = report["test"]["levels"]["slice"]["labels"][label]
        point = figures["operating_point"]
        if isinstance(chosen[label], NotFitted):
            assert point["threshold"] is None
            continue
        assert point["threshold"] == chosen[label].threshold
        assert point["chosen_specificity"] == chosen[label].specificity
        called, target = calibrated[:, i] >= chosen[label].threshold, predictions[f"target_{label}"]
        assert point["true_positives"] == called[target == 1].sum()
        assert point["false_positives"] == called[target == 0].sum()
        for name, prob in (("raw", predictions[f"prob_{label}"]), ("calibrated", calibrated[:, i])):
            if figures[name]["brier"]["reason"] is None:
                assert figures[name]["brier"]["value"] == pytest.approx(((prob - target) ** 2).mean())


def test_decisions_that_cannot_be_kept_leave_the_checkpoint_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = DurableIO().load_checkpoint(run / "checkpoints/best.ckpt")
    del checkpoint["metadata"]["decisions"]
    path = tmp_path / "best.ckpt"
    torch.save(checkpoint, path)
    before = path.read_bytes()

    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ich.files.flush_to_disk", fail)
    with pytest.raises(UserError, match="No space left on device"):
        add_to_checkpoint(path, read_checkpoint(path), {"decisions": {}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_studies_that_contradict_their_patients_lack_only_their_figures(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = {
        part: read_predictions(run / f"predictions_{part}.csv").assign(StudyInstanceUID="1")
        for part in ("val", "test")
    }
    evaluations, decisions = evaluate_parts(tables, (0.1,) * 6, RSNA_LABELS)
    assert all(list(each.levels) == ["slice", "patient"] for each in evaluations.values())
    assert list(decisions) == ["slice"]
    assert all(f"no figures for the {name} set by study" in caplog.text for name in ("validation", "test"))


def test_metrics_are_the_evaluation_of_the_table_at_the_decisions_of_the_checkpoint(run: Path) -> None:
    report = json.loads((run / "metrics.json").read_text())
    val = report["val"]["levels"]["slice"]["labels"]["any"]["operating_point"]
    assert "neither a validation set" in val["sensitivity"]["reason"]
    decisions = read_decisions(run)
    prevalences = list(load_slice_net(run / "checkpoints/best.ckpt").metadata.prevalences.values())
    table = read_predictions(run / "predictions_test.csv")
    again = evaluate(table, decisions=decisions, training_prevalences=prevalences)
    assert report["test"] == json.loads(json.dumps(again.to_dict()))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pooling": "median"}, "pooling=median"),
        ({"method": "beta"}, "calibration=beta"),
        ({"rule": "f1"}, "rule=f1"),
        ({"levels": ["head"]}, "level=head"),
    ],
)
def test_an_unknown_choice_names_the_known_ones(run: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"{message}: expected"):
        fit_decisions(read_predictions(run / "predictions_val.csv"), **given)
