"""A run over all folds: from one command to one model that decides by out-of-fold predictions."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from command import call
from omegaconf import OmegaConf
from processes import run_program
from test_predict import make_decision
from test_train import FILES, TINY, train

import ich.train.folds
from ich.calibration.files import write_calibration
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.folds import evaluate_folds
from ich.evaluate.smoothing import smooth_folds
from ich.model_files.bundle import read_bundle
from ich.models import hash_weights, load_ensemble, load_slice_net
from ich.networks import is_network
from ich.schema import UserError
from ich.schema.labels import RSNA_LABELS
from ich.sweeps.record import Job, JobRecord
from ich.tables import WEIGHTS_COLUMN, read_predictions, write_table
from ich.train.folds import pool_jobs, pool_runs, train_folds
from ich.train.running import keeping_log

pytestmark = pytest.mark.trains

FOLDS = [
    "data.folds=2",
    "data.val_fraction=0.2",
    "data.batch_size=64",
    "logger=csv",
    "trainer.save_minutes=0",
]


STOPPED = """
import os
import signal
from pathlib import Path

import ich.train
from ich.model_files.durable import DurableIO

save = DurableIO.save_checkpoint

def save_and_stop(self, checkpoint, path, *args, **kwargs):
    save(self, checkpoint, path, *args, **kwargs)
    if Path(path).match("fold_1/*/last.ckpt"):
        os.kill(os.getpid(), signal.SIGTERM)

DurableIO.save_checkpoint = save_and_stop
ich.train.main()
"""
"""Trains, and gets SIGTERM in the second fold."""


@pytest.fixture(scope="session")
def small(phantom: Path) -> list[str]:
    return ["data=rsna", f"data.root={phantom}", "input.size=32", *TINY, *FOLDS]


@pytest.fixture(scope="session")
def pooled(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all folds that was stopped in the last one and resumed, to be left as it is.

    ``printed`` is beside it.
    """
    folder, printed = tmp_path_factory.mktemp("pooled"), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        stopped = run_program(STOPPED, *small, "run_dir=run", "data.fold=all")
        print(stopped.stdout)
        assert stopped.returncode == 143, stopped.stderr
        assert not Path("run/fold_1/metrics.json").exists()
        assert not Path("run/metrics.json").exists()
        assert train("ckpt_path=run", base=[]) == 0
    (folder / "printed").write_text(printed.getvalue())
    return folder / "run"


@pytest.fixture
def run(small: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Calls the program in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def start(*overrides: str, base: list[str] = small) -> int:
        return train(*overrides, base=base)

    return start


def read_tables(run: Path) -> dict[str, pd.DataFrame]:
    return {f"fold_{n}": read_predictions(run / f"fold_{n}" / "predictions_test.csv") for n in range(2)}


def test_all_folds_become_one_model(pooled: Path) -> None:
    folds = [pooled / f"fold_{n}" for n in range(2)]
    files = {"config.yaml", "ensemble.zip", "metrics.json", "model_card.md", "predictions_oof.csv", "run.log"}
    assert {path.name for path in pooled.iterdir()} == files | {fold.name for fold in folds}
    for fold in folds:
        assert {path.name for path in fold.iterdir()} == FILES - {"tensorboard"}
    assert not [path for path in pooled.rglob("*") if path.stat().st_mode & 0o077]
    table = read_predictions(pooled / "predictions_oof.csv")
    split = pd.read_csv(folds[0] / "split.csv", dtype="str")
    assert sorted(table["SOPInstanceUID"]) == sorted(split["SOPInstanceUID"])  # each slice once
    ensemble, card = load_ensemble(pooled / "ensemble.zip"), (pooled / "model_card.md").read_text()
    for net, fold, (_, rows) in zip(
        ensemble.nets, folds, table.groupby(WEIGHTS_COLUMN, sort=False), strict=True
    ):
        assert hash_weights(net) == hash_weights(load_slice_net(fold / "checkpoints/best.ckpt"))
        assert set(rows[WEIGHTS_COLUMN]) == {hash_weights(net)}
        assert net.metadata.decisions is None  # their own thresholds are not those of the mean
        assert net.metadata.smoothing is None
    assert ensemble.metadata.smoothing == smooth_folds(read_tables(pooled))[1]  # of all patients
    assert ensemble.metadata.decisions == fit_decisions(table)
    assert read_bundle(pooled / "ensemble.zip").model_card == card
    for said in ("An ensemble of 2 models", "2 folds; each is the test set of one model"):
        assert said in card
    assert not any(patient in card for patient in split["PatientID"])
    assert yaml.safe_load((pooled / "config.yaml").read_text())["data"]["fold"] == "all"


def test_figures_are_those_of_the_pooled_table(pooled: Path) -> None:
    report = json.loads((pooled / "metrics.json").read_text())
    found = evaluate_folds(smooth_folds(read_tables(pooled))[0], labels=RSNA_LABELS)
    assert report["out_of_fold"] == json.loads(json.dumps(found.evaluation.to_dict()))
    each = [json.loads((pooled / f"fold_{n}" / "metrics.json").read_text()) for n in range(2)]
    scores = [one["val_weighted_log_loss"] for one in each]
    assert report["val_weighted_log_loss"] == pytest.approx(np.mean(scores))
    assert [fold["val_weighted_log_loss"] for fold in report["folds"]] == scores
    printed = (pooled.parent / "printed").read_text()
    slices = len(found.table)
    assert f"out-of-fold predictions: {slices} slices of 12 patients" in printed
    assert "operating points by study, fitted on studies of all 2 folds" in " ".join(printed.split())
    assert "out-of-fold predictions: " in (pooled / "run.log").read_text()


def test_reference_of_a_fold_has_all_patients_that_it_did_not_learn_from(pooled: Path) -> None:
    net = load_slice_net(pooled / "fold_0/checkpoints/best.ckpt")
    split = pd.read_csv(pooled / "fold_0/split.csv").query("part != 'train'")
    assert net.metadata.ood.patients == split["PatientID"].nunique() > 5
    assert net.metadata.ood.studies == split["StudyInstanceUID"].nunique()


def test_stopped_in_a_fold_it_says_how_to_resume_and_trains_no_fold_twice(pooled: Path, run, caplog) -> None:
    log = (pooled / "run.log").read_text()
    assert f"to resume: python train.py ckpt_path={pooled}\n" in log
    for fold in range(2):
        assert (pooled / f"fold_{fold}" / "run.log").read_text().count("epoch 1 of 1") == 1
    shutil.copytree(pooled, "run")
    assert run("ckpt_path=run", base=[]) == 0
    assert "all folds are done: nothing is trained" in caplog.text
    for file in ("metrics.json", "ensemble.zip"):
        assert Path("run", file).read_bytes() == (pooled / file).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.fold=all", "data.folds=1"], "data.folds=1: at least 2 folds are needed"),
        (["data.fold=many"], "data.fold=many: expected 0 to 1, as data.folds=2; train.py also takes all"),
        (["data.fold=1.5"], "data.fold=1.5: expected 0 to 1"),
        (["data.fold=all", "data.split=/nowhere.csv"], "leave out one of the two"),
        (["data.fold=all", "data.root=/nowhere"], "/nowhere does not exist"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(run, caplog, overrides: list[str], message: str) -> None:
    assert run("run_dir=out", *overrides) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert message in record.getMessage()
    assert not Path("out").exists()


def test_a_folder_holds_one_run(pooled: Path, run, caplog) -> None:
    shutil.copytree(pooled, "out")
    for fold in ("all", "1"):
        assert run("run_dir=out", f"data.fold={fold}") == 2
    assert caplog.text.count("already holds a run; resume it with ckpt_path=") == 2


def test_jobs_of_a_multirun_that_differ_in_the_fold_become_the_same_model(pooled: Path, run) -> None:
    # This one is not interrupted, so it also shows that the other was resumed exactly.
    assert run("-m", "run_dir=sweep", "data.fold=0,1") == 0
    assert {path.name for path in Path("sweep/1_fold=1").iterdir()} == FILES - {"tensorboard"} | {"job.json"}
    for file in ("predictions_oof.csv", "model_card.md", "ensemble.zip"):
        assert Path("sweep", file).read_bytes() == (pooled / file).read_bytes()


def make_job(folder: Path, *overrides: str) -> Job:
    return Job(folder, JobRecord(overrides, value=0.5, error=None, seconds=1.0))


def test_groups_of_jobs(pooled: Path, tmp_path: Path, caplog) -> None:
    def make_jobs(setting: str, first: int, folds: int = 2) -> list[Job]:
        jobs = []
        for fold in range(folds):
            folder = Path(shutil.copytree(pooled / f"fold_{fold}", tmp_path / str(first + fold)))
            jobs.append(make_job(folder, setting, f"data.fold={fold}"))
        return jobs

    jobs = [*make_jobs("optim.lr=1", 0), *make_jobs("optim.lr=2", 2)]
    others = [make_job(tmp_path / "4", "optim.lr=3"), make_job(tmp_path / "5", "data.fold=all")]
    failed = Job(jobs[3].folder, replace(jobs[3].record, value=None, error="no memory"))
    assert pool_jobs([*jobs[:3], failed, *others]) == []
    assert {path.name for path in tmp_path.iterdir() if not path.name.isdigit()} == {"pooled_0"}
    table = (pooled / "predictions_oof.csv").read_bytes()
    assert (tmp_path / "pooled_0" / "predictions_oof.csv").read_bytes() == table
    assert "no ensemble of jobs 2, 3: 3 failed" in caplog.text
    for name in ("0", "1"):
        change(tmp_path / name, "config.yaml", "folds: 2", "folds: 3")
    assert pool_jobs(jobs[:2]) == []
    assert "no ensemble of jobs 0, 1: data.fold=2 was not trained" in caplog.text
    (tmp_path / "2" / "predictions_test.csv").unlink()
    assert pool_jobs(jobs[2:]) == ["pooled_2"]
    assert "2 has no predictions_test.csv: finish it with ckpt_path=" in caplog.text


@pytest.mark.parametrize(
    ("pretraining", "folders"), [("{data: {fold: null}}", {"pretrain"}), ("{}", {"fold_0", "fold_1"})]
)
def test_pretraining_that_has_no_folds_is_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretraining: str, folders: set[str]
) -> None:
    data = {"fold": "all", "folds": 2}
    cfg = OmegaConf.create({"ckpt_path": None, "data": data, "trusted": [], "model": {"weights_file": None}})
    cfg.pretrain = OmegaConf.create(yaml.safe_load(pretraining))
    used: list[Path] = []
    monkeypatch.setattr(ich.train.folds, "pool_runs", lambda *_: 0.5)
    with keeping_log() as buffer:
        train_folds(cfg, tmp_path, buffer, lambda _, __, place: used.append(place), lambda *_: 0.0)
    assert {place.relative_to(tmp_path).parts[0] for place in used} == folders
    assert {place.name for place in used} == {"pretrain"}


def change(run: Path, file: str, old: str, new: str) -> None:
    text = (run / file).read_text()
    assert old in text
    (run / file).write_text(text.replace(old, new))


def test_runs_that_are_no_folds_of_one_split_are_refused(pooled: Path, tmp_path: Path) -> None:
    def refuse(*folders: Path) -> str:
        with pytest.raises(UserError) as refused:
            pool_runs(folders, tmp_path)
        return str(refused.value)

    folds = [pooled / f"fold_{n}" for n in range(2)]
    assert "no run has data.fold=0 of 2 folds" in refuse(folds[1])
    assert "the runs have data.fold=0, 1, 1: give one run for each fold" in refuse(*folds, folds[1])
    assert "is not a run with data.fold" in refuse(pooled)
    other = Path(shutil.copytree(folds[1], tmp_path / "other"))
    change(other, "config.yaml", "folds: 2", "folds: 4")
    assert "the runs have data.folds=2 and 4" in refuse(folds[0], other)
    change(other, "config.yaml", "folds: 4", "folds: 2")
    split = pd.read_csv(other / "split.csv", dtype="str")
    tested = split["PatientID"][split["part"] == "test"].iloc[0]
    split.loc[split["PatientID"] == tested, "part"] = "val"
    write_table(split, other / "split.csv")
    assert "not folds of one split: 0 patients are in several test sets, and 1 in none" in refuse(
        folds[0], other
    )
    write_table(split.iloc[1:], other / "split.csv")
    assert "are runs on different data: 1 slices are in only one of them" in refuse(folds[0], other)


def test_the_rule_of_the_runs_chooses_the_operating_points(pooled: Path, tmp_path: Path, capsys) -> None:
    folds = [Path(shutil.copytree(pooled / f"fold_{n}", tmp_path / f"fold_{n}")) for n in range(2)]
    change(folds[0], "config.yaml", "rule: null", "rule: cost:3")
    assert call("bundle", *map(str, folds), str(tmp_path / "model.zip")) == 2
    assert "the runs have rule=cost:3 and sensitivity>=0.95" in " ".join(capsys.readouterr().err.split())
    change(folds[1], "config.yaml", "rule: null", "rule: cost:3")
    assert call("bundle", *map(str, folds), str(tmp_path / "model.zip")) == 0
    (tmp_path / "pooled").mkdir()
    pool_runs(folds, tmp_path / "pooled")
    for path in (tmp_path / "model.zip", tmp_path / "pooled" / "ensemble.zip"):
        points = load_ensemble(path).metadata.decisions["slice"].operating_points
        assert points["any"].rule == "cost:3"


def test_bundles_of_a_run_over_all_folds_and_of_its_folds(
    pooled: Path, tmp_path: Path, capsys, caplog
) -> None:
    assert is_network(pooled)
    assert call("bundle", str(pooled), str(tmp_path / "model.zip")) == 0
    assert (tmp_path / "model.zip").read_bytes() == (pooled / "ensemble.zip").read_bytes()
    folds = [str(pooled / f"fold_{n}") for n in range(2)]
    assert call("bundle", *folds[::-1], str(tmp_path / "folds.zip")) == 0
    assert "fitted on out-of-fold predictions of 12 patients" in capsys.readouterr().out
    ours, theirs = (
        load_ensemble(path).metadata for path in (tmp_path / "folds.zip", pooled / "ensemble.zip")
    )
    assert (ours.decisions, ours.smoothing) == (theirs.decisions, theirs.smoothing)
    assert ours.members == theirs.members[::-1]
    given = {"study": make_decision(0.4)}
    write_calibration(given, tmp_path / "calibration.json")
    calibrated = ("--calibration", str(tmp_path / "calibration.json"))
    assert call("bundle", *folds, str(tmp_path / "given.zip"), *calibrated) == 0
    metadata = load_ensemble(tmp_path / "given.zip").metadata
    assert (metadata.decisions, metadata.smoothing) == (given, theirs.smoothing)
    assert call("bundle", folds[0], str(tmp_path / "model.zip"), str(tmp_path / "x.zip"), *calibrated) == 0
    assert call("bundle", folds[0], folds[0], str(tmp_path / "twice.zip"), *calibrated) == 0
    assert load_ensemble(tmp_path / "twice.zip").metadata.smoothing is None
    assert caplog.text.count("so no smoothing is fitted on them: the runs have data.fold=0, 0") == 1
    assert call("bundle", folds[0], folds[0], str(tmp_path / "two.zip")) == 2
    assert "the runs have data.fold=0, 0: give one run for each fold" in " ".join(
        capsys.readouterr().err.split()
    )


def test_stacked_runs_weigh_alike_if_they_are_alike(pooled: Path, tmp_path: Path, capsys) -> None:
    other = Path(shutil.copytree(pooled, tmp_path / "other"))
    table = read_predictions(pooled / "predictions_oof.csv")
    for name, extra in (("plain.zip", []), ("stacked.zip", ["--stack"])):
        assert call("bundle", str(pooled), str(other), str(tmp_path / name), *extra) == 0
        metadata = load_ensemble(tmp_path / name).metadata
        assert len(metadata.members) == 4
        assert metadata.shares is None  # all weigh alike
        assert metadata.decisions == fit_decisions(table)
    assert f"weights: 0.500 {pooled}, 0.500 {other}" in capsys.readouterr().out
    table[WEIGHTS_COLUMN] = "0" * 64
    write_table(table, other / "predictions_oof.csv")
    assert call("bundle", str(pooled), str(other), str(tmp_path / "stale.zip")) == 2
    assert "come from other weights than the models there" in " ".join(capsys.readouterr().err.split())
