from __future__ import annotations

import contextlib
import errno
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from heads import make_bank
from omegaconf import DictConfig, OmegaConf
from processes import FORKING
from pytorch_lightning.strategies import StrategyRegistry
from sklearn.metrics import log_loss, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ich.train
import ich.train.results
import ich.train.run
import ich.train.scores
from ich.data import HeadCTDataModule
from ich.evaluate.smoothing import smooth_table
from ich.files import hash_file
from ich.image.lesions.bank import write_bank
from ich.models import SliceClassifier, load_slice_net
from ich.schema import LABELS, InputSpec, ReadError, UserError
from ich.train.trainer import build_trainer, fit, place

pytestmark = pytest.mark.trains

TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]
FILES = {
    "checkpoints",
    "config.yaml",
    "curves.png",
    "model_card.md",
    "metrics.csv",
    "metrics.json",
    "predictions_test.csv",
    "predictions_val.csv",
    "run.log",
    "split.csv",
    "tensorboard",
}


def train(*overrides: str, base: list[str]) -> int:
    """Calls the program with its command line, in the folder where we are; returns its exit code."""
    flags = [item for item in overrides if item.startswith("-")]  # before all others: argparse wants them so
    given = [item for item in overrides if item not in flags]
    with mock.patch.object(sys, "argv", ["train.py", *flags, *base, *given]):
        try:
            ich.train.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def small(phantom: Path) -> list[str]:
    return ["data=rsna", f"data.root={phantom}", "input.size=32", *TINY]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: list[str]) -> Callable[..., int]:
    """Calls the program in a folder of its own, on the small phantom."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, base: list[str] = small) -> int:
        return train(*overrides, base=base)

    return call


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> Callable[..., Path]:
    """Makes a run that several tests look at, and none may change; ``printed`` is beside it."""

    def make(*overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("kept")
        printed = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
            assert train("run_dir=out", *overrides, base=small) == 0
        (folder / "printed").write_text(printed.getvalue())
        return folder / "out"

    return make


SETTINGS = ["optim.lr=0.002", "augment=strong", "lesions=drawn", "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def finished(keep: Callable[..., Path]) -> Path:
    return keep("trainer.gpus=0", *SETTINGS)


PRETRAIN = [
    "pretrain=phantom",
    "pretrain.data.root=other",
    "pretrain.data.phantom={patients: 7, size: 64}",
    "+pretrain.data.phantom.seed=5",
    "pretrain.trainer.max_epochs=1",
]


@pytest.fixture(scope="module")
def pretrained(keep: Callable[..., Path]) -> Path:
    """A run on slices in a cache after a pretraining, from whose weights it goes a short way."""
    return keep("data.cache=cache", "optim.lr=1e-5", "pretrain.optim.lr=1e-3", "logger=csv", *PRETRAIN)


def test_run_leaves_one_folder_with_all_there_is(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FILES
    checkpoints = {path.name for path in (finished / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert {path.name for path in finished.parent.iterdir()} == {"out", "printed"}
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["backbone"] == "test_resnet"
    split = pd.read_csv(finished / "split.csv")
    predictions = pd.read_csv(finished / "predictions_test.csv")
    assert set(predictions["SOPInstanceUID"]) == set(split.loc[split["part"] == "test", "SOPInstanceUID"])
    assert set(predictions["part"]) == {"test"}
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    printed = (finished.parent / "printed").read_text()
    assert "Research use only" in printed
    for label in LABELS:
        assert label in printed
    assert "epoch 2 of 2" in (finished / "run.log").read_text()


def test_only_the_owner_can_read_a_run(finished: Path) -> None:
    assert finished.stat().st_mode & 0o077 == 0


def test_settings_stand_in_the_logger(finished: Path) -> None:
    settings = yaml.safe_load((finished / "tensorboard" / "hparams.yaml").read_text())
    assert settings["optim"]["lr"] == 0.002
    assert "root" not in settings["data"]  # a folder's name may name a patient


def test_figures_at_the_end_are_those_of_scikit_learn(finished: Path) -> None:
    report = json.loads((finished / "metrics.json").read_text())
    predictions = pd.read_csv(finished / "predictions_test.csv")
    figures = report["test"]["levels"]["slice"]
    for label in LABELS:
        target, probs = predictions[f"target_{label}"], predictions[f"prob_{label}"]
        found = figures["labels"][label]
        assert found["counts"]["positives"] == target.sum()
        if found["auroc"]["reason"] is None:
            assert found["auroc"]["value"] == pytest.approx(roc_auc_score(target, probs))
        else:
            assert predictions["PatientID"][target == 1].nunique() < 5
    weights = np.tile([1, 1, 1, 1, 1, 2], len(predictions))
    target = predictions[[f"target_{label}" for label in LABELS]].to_numpy().ravel()
    probs = predictions[[f"prob_{label}" for label in LABELS]].to_numpy().ravel()
    assert figures["weighted_log_loss"]["value"] == pytest.approx(
        log_loss(target, probs, sample_weight=weights, labels=[0, 1])
    )
    metrics = pd.read_csv(finished / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1]
    assert report["best_epoch"] == metrics["val_weighted_log_loss"].idxmin()


def test_best_checkpoint_predicts_what_the_table_says(run, phantom: Path) -> None:
    assert run("run_dir=out", "trainer.ema_decay=0.9", "logger=csv") == 0
    model = load_slice_net("out/checkpoints/best.ckpt")
    config = yaml.safe_load(Path("out/config.yaml").read_text())
    datamodule = HeadCTDataModule(str(phantom), model.input, num_workers=0, seed=config["seed"])
    datamodule.setup()
    tables = ich.train.scores.predict_parts(model, datamodule, gpus=0)
    tables = {part: smooth_table(table, model.metadata.smoothing) for part, table in tables.items()}
    for part in ("val", "test"):
        written = pd.read_csv(f"out/predictions_{part}.csv")
        columns = [f"prob_{label}" for label in LABELS]
        np.testing.assert_allclose(tables[part][columns], written[columns], rtol=1e-5)


def test_same_seed_same_run(run, finished: Path) -> None:
    assert run("run_dir=again", "logger=csv", *SETTINGS) == 0
    again, before = (folder / "predictions_test.csv" for folder in (Path("again"), finished))
    assert again.read_bytes() == before.read_bytes()


def test_augmenting_on_the_device_trains_on_changed_slices(run, finished: Path) -> None:
    # tests/test_data.py compares its batches with those of the CPU. How much a small difference grows in a
    # few steps of training depends on the processor.
    for augment in ("none", "strong_on_device"):
        assert run(f"run_dir={augment}", f"augment={augment}", "seed=1", "logger=csv") == 0
    none, on_device = (
        pd.read_csv(f"{folder}/predictions_test.csv")[[f"prob_{label}" for label in LABELS]].to_numpy()
        for folder in ("none", "strong_on_device")
    )
    assert Path("none/split.csv").read_bytes() != (finished / "split.csv").read_bytes()  # of another seed
    assert np.isfinite(on_device).all()
    assert np.abs(on_device - none).max() > 1e-6


def test_a_stopped_run_resumes_with_its_own_settings(run, finished: Path) -> None:
    shutil.copytree(finished, "out")
    assert run("ckpt_path=out", "trainer.max_epochs=3", base=[]) == 0
    metrics = pd.read_csv("out/metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1, 2]
    assert {path.name for path in Path("out").iterdir()} == FILES
    config = yaml.safe_load(Path("out/config.yaml").read_text())
    assert config["optim"]["lr"] == 0.002
    assert config["trainer"]["max_epochs"] == 3
    assert not list(Path("runs").iterdir())


def test_a_run_resumes_with_the_lesions_that_it_began_with(run, caplog) -> None:
    bank = make_bank()
    write_bank(bank, Path("bank"))
    short = "logger=csv", "trainer.limit_train_batches=1"
    assert run("run_dir=out", "lesions=drawn", "lesions.bank=bank", *short) == 0
    digest = hash_file("bank")
    assert yaml.safe_load(Path("out/config.yaml").read_text())["lesions"]["bank_sha256"] == digest
    Path("bank").unlink()
    write_bank(bank._replace(angles={"epidural": -bank.angles["epidural"]}), Path("bank"))
    assert run("ckpt_path=out", "trainer.max_epochs=2", base=[]) == 2
    assert (
        f"lesions.bank=bank has the SHA-256 {hash_file('bank')}; lesions.bank_sha256={digest}" in caplog.text
    )
    assert len(pd.read_csv("out/metrics.csv")) == 1


def test_fine_tuning_starts_where_the_other_run_ended(run, finished: Path) -> None:
    shutil.copytree(finished, "first")
    start = "model.init_from=first/checkpoints/best.ckpt"
    assert run("run_dir=second", start, "optim.lr=1e-12", "logger=csv") == 0
    first = load_slice_net("first/checkpoints/best.ckpt").get_parameter("head.1.weight")
    Path("first/checkpoints/best.ckpt").unlink()
    assert run("ckpt_path=second", "trainer.max_epochs=2", base=[]) == 0
    config = yaml.safe_load(Path("second/config.yaml").read_text())
    assert config["model"]["init_from"] == "first/checkpoints/best.ckpt"
    assert config["ckpt_path"] is None
    second = load_slice_net("second/checkpoints/best.ckpt").get_parameter("head.1.weight")
    torch.testing.assert_close(first, second)


def test_pretraining_is_a_run_of_its_own_whose_weights_are_the_start(pretrained: Path) -> None:
    folders = pretrained / "pretrain", pretrained
    files = FILES - {"tensorboard"}
    assert {path.name for path in pretrained.iterdir()} == files | {"pretrain"}
    assert (pretrained.parent / "cache/hu.npy").exists()
    assert {path.name for path in folders[0].iterdir()} == files
    first, second = (
        load_slice_net(folder / "checkpoints/best.ckpt").get_parameter("head.1.weight") for folder in folders
    )
    # A step of AdamW goes about as far as the learning rate, and there are nine.
    torch.testing.assert_close(first, second, rtol=0, atol=2e-4)
    assert not [path for path in pretrained.rglob("*") if path.stat().st_mode & 0o077]
    slices = [set(pd.read_csv(folder / "split.csv")["SOPInstanceUID"]) for folder in folders]
    assert not slices[0] & slices[1]


@pytest.mark.parametrize("lost", [["metrics.json"], []], ids=["in pretraining", "after it"])
def test_a_run_that_stopped_before_its_first_checkpoint_resumes(
    run, pretrained: Path, lost: list[str]
) -> None:
    shutil.copytree(pretrained.parent, Path.cwd(), dirs_exist_ok=True)
    shutil.rmtree("out/checkpoints")
    for path in [Path("out/metrics.csv"), *(Path("out/pretrain", name) for name in lost)]:
        path.unlink()
    assert run("run_dir=out") == 2
    assert run("ckpt_path=out", base=[]) == 0
    whole = (pretrained / "predictions_test.csv").read_bytes()
    assert Path("out/predictions_test.csv").read_bytes() == whole
    assert Path("out/pretrain/metrics.json").exists()


def train_shortly(run: Callable[..., int], phantom: Path, experiment: str, *overrides: str) -> None:
    base = ["data=rsna", f"data.root={phantom}", f"experiment={experiment}", "input.size=32", "logger=csv"]
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    assert run("run_dir=out", *short, *overrides, base=base) == 0
    assert json.loads(Path("out/metrics.json").read_text())["best_epoch"] == 0


def test_baseline_trains(run, phantom: Path) -> None:
    train_shortly(run, phantom, "baseline_cnn")


def test_ct_ich_trains_and_pretrains_on_as_many_threads_as_either_is_given(
    run, phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, computing = torch.get_num_threads(), []

    def fit_and_count(*arguments: Any, **settings: Any) -> None:
        computing.append(torch.get_num_threads())
        fit(*arguments, **settings)

    monkeypatch.setattr(ich.train.run, "fit", fit_and_count)
    threads = f"threads={before + 1}", f"+pretrain.threads={before + 2}"
    small = "model.backbone=test_resnet", "model.pretrained=false"
    train_shortly(run, phantom, "ct_ich", *small, *PRETRAIN, *threads)
    assert computing == [before + 2, before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("recipe", ["rsna_fast", "rsna_best"])
def test_recipes_for_the_rsna_train(run, phantom: Path, recipe: str) -> None:
    small = "model.backbone=test_resnet", "model.pretrained=false", "trainer.precision=32-true"
    train_shortly(run, phantom, recipe, *small, "data.fold=0", "data.first_sizes=[]", "data.batch_size=16")


def test_a_multirun_trains_each_job_and_only_a_bad_one_fails(run, caplog) -> None:
    nets = "model.backbone=test_resnet,no_such_net,test_efficientnet"
    before = torch.get_num_threads()
    code = run("-m", "hydra.sweep.dir=sweep", nets, f"threads={before + 1}")
    assert code == 3
    assert torch.get_num_threads() == before
    assert "no_such_net" in caplog.text
    names = ["0_backbone=test-resnet", "1_backbone=no-such-net", "2_backbone=test-efficientnet"]
    assert sorted(path.name for path in Path("sweep").iterdir()) == [*names, "multirun.yaml"]
    assert {path.name for path in (Path("sweep") / names[2]).iterdir()} == FILES | {"job.json"}
    assert {path.name for path in (Path("sweep") / names[1]).iterdir()} == {"job.json"}


def test_what_a_failed_job_leaves_names_no_file(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an error that nobody foresaw fails its own job only."""
    errors = [
        ReadError("corrupt", "secret.dcm", "secret"),
        ValueError("secret"),
        FileNotFoundError(2, "No such file or directory", "secret.csv"),
    ]

    def fail(cfg: DictConfig, run_dir: Path) -> float:
        if cfg.seed:
            raise errors[cfg.seed - 1]
        return 0.5

    monkeypatch.setattr("ich.train.jobs.train", fail)
    assert run("-m", "run_dir=sweep", "seed=0,1,2,3") == 3
    texts = [Path(f"sweep/{number}_seed={number}/job.json").read_text() for number in range(4)]
    assert not any("secret" in text for text in texts)
    found = [json.loads(text) for text in texts]
    assert [each["value"] for each in found] == [0.5, None, None, None]
    expected = [None, "a slice: corrupt", "ValueError", "No such file or directory"]
    assert [each["error"] for each in found] == expected


def test_the_same_multirun_again_continues(run, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """A job that is done stays, one that was stopped resumes, and one that failed is tried again."""
    started: list[tuple[int, str | None]] = []

    def take(cfg: DictConfig, run_dir: Path) -> float:
        started.append((cfg.seed, cfg.ckpt_path))
        if len(started) == 2:
            raise UserError("no memory")
        if len(started) == 3:  # only now has it a folder
            OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
            raise SystemExit(143)
        return float(cfg.seed)

    monkeypatch.setattr("ich.train.jobs.train", take)
    command = "-m", "run_dir=sweep", "seed=5,6,7,8"
    assert run(*command) == 143
    records = [json.loads(path.read_text()) for path in sorted(Path("sweep").glob("*/job.json"))]
    assert [each["value"] for each in records] == [5, None, None]
    assert [each["seconds"] is None for each in records] == [False, False, True]
    assert run(*command) == 0
    assert started[3:] == [(6, None), (7, str(Path("sweep/2_seed=7").absolute())), (8, None)]
    records = [json.loads(path.read_text()) for path in sorted(Path("sweep").glob("*/job.json"))]
    assert [each["value"] for each in records] == [5, 6, 7, 8]
    for other in (["seed=5,6"], ["seed=5,6,7,8", "optim.lr=1e-3"]):
        assert run("-m", "run_dir=sweep", *other) == 2
    assert caplog.text.count("sweep holds a multirun of other settings: name another folder") == 2
    Path("sweep/multirun.yaml").unlink()
    assert run(*command) == 2
    assert len(started) == 6


def test_a_job_of_other_settings_stays(run, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr("ich.train.jobs.train", lambda cfg, run_dir: 0.5)
    assert run("-m", "run_dir=sweep", "seed=0,1") == 0
    before = Path("sweep/1_seed=1/job.json").read_bytes()
    shutil.copy("sweep/1_seed=1/job.json", "sweep/0_seed=0")
    run("-m", "run_dir=sweep", "seed=0,1")
    assert Path("sweep/0_seed=0/job.json").read_bytes() == before
    assert "sweep/0_seed=0 holds a job of other settings, which stays" in caplog.text


def test_a_multirun_ends_with_its_ranking(
    run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ich.train.jobs.train", lambda cfg, run_dir: 1 - cfg.optim.lr)
    assert run("-m", "run_dir=sweep", "optim.lr=1e-3,3e-3", "seed=1", "model.init_from=a.ckpt,b.ckpt") == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if "ckpt" in line]
    assert [row[0] for row in rows] == ["2", "3", "0", "1"]
    assert rows[0][1:4] == ["0.9970", "0.003", "a.ckpt"]
    assert "Jobs, the best first" in printed
    assert "val_weighted_log_loss" in printed
    assert {path.name for path in Path("sweep").glob("*_*")} == {
        *("0_lr=0.001", "1_lr=0.001", "2_lr=0.003", "3_lr=0.003")
    }


def test_early_stopping(run) -> None:
    still = "optim.lr=1e-12", "trainer.patience=1", "trainer.max_epochs=50"
    assert run("run_dir=out", "logger=csv", *still) == 0
    assert len(pd.read_csv("out/metrics.csv")) < 10


def test_any_argument_of_the_trainer_is_taken_and_others_are_not(run, caplog) -> None:
    assert run("run_dir=out", "trainer.accumulate_grad_batches=4", "trainer.gradient_clip_val=0.5") == 0
    metrics = pd.read_csv("out/metrics.csv")
    slices = (pd.read_csv("out/split.csv")["part"] == "train").sum()
    assert metrics["step"].iloc[-1] == -(-(slices // 32) // 4)
    logged = EventAccumulator("out/tensorboard")
    logged.Reload()
    assert [each.value for each in logged.Scalars("lr")] == pytest.approx(metrics["lr"].tolist())
    assert run("trainer.no_such_argument=1") == 2
    assert run("data.batch_size=many") == 2
    assert "no_such_argument" in caplog.text


def test_leaky_split_is_marked(run, capsys) -> None:
    assert run("run_dir=out", "data.split=slice", "logger=csv", "trainer.limit_train_batches=1") == 0
    assert "LEAKY" in capsys.readouterr().out
    assert json.loads(Path("out/metrics.json").read_text())["leaky_split"] is True


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tests' server fork the processes of a training, which else import torch again, each of them.

    What they work with is pickled for them in either way.
    """
    settings = StrategyRegistry["ddp_spawn"]["init_params"]
    monkeypatch.setitem(settings, "start_method", FORKING.get_start_method())


@pytest.mark.races
def test_two_processes_train_one_model(phantom: Path, tmp_path: Path, forked: None) -> None:
    spec = InputSpec(size=32)
    datamodule = HeadCTDataModule(str(phantom), spec, num_workers=0)
    model = SliceClassifier("test_resnet", input=spec, pretrained=False)
    trainer = build_trainer(run_dir=tmp_path, gpus=0, devices=2, max_epochs=1, ema_decay=0.9)
    assert trainer.world_size == 2
    datamodule.setup()
    trainer.fit(model, datamodule=datamodule)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    batches = len(datamodule.part("train")) // 2 // 32
    assert metrics["step"].tolist() == [pytest.approx(batches, abs=1)]
    assert load_slice_net(tmp_path / "checkpoints" / "best.ckpt").input == spec


@pytest.mark.races
def test_unreadable_slice_in_one_of_two_processes_is_one_message(
    run, phantom: Path, finished: Path, damage, forked: None, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    shutil.copytree(phantom, "copy")
    # The last batch of the training set may be left out, but none of this set.
    split = pd.read_csv(finished / "split.csv").query("part == 'val'")
    path = Path("copy/stage_2_train") / f"{split['SOPInstanceUID'].iloc[0]}.dcm"
    damage(path)
    two = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_spawn"}
    monkeypatch.setattr("ich.train.trainer.place", lambda gpus: dict(two))
    assert run("data.root=copy", "run_dir=second", "logger=csv") == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert re.match(rf"copy/.*{path.name}: corrupt: ", record.getMessage())
    log = Path("second/run.log").read_text()
    assert "ERROR training stopped" in log
    assert path.name not in log


def test_prediction_takes_one_device_where_there_are_more(
    phantom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = InputSpec(size=64)
    datamodule = HeadCTDataModule(str(phantom), spec, num_workers=0)
    datamodule.setup()
    model = SliceClassifier("test_resnet", input=spec, pretrained=False).net.eval()
    several = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_spawn"}
    monkeypatch.setattr("ich.train.trainer.place", lambda gpus: dict(several))
    tables = ich.train.scores.predict_parts(model, datamodule)
    assert len(tables["test"]) == len(datamodule.part("test"))


def test_resume_refuses_data_that_changed(run, phantom: Path, finished: Path, caplog) -> None:
    shutil.copytree(finished, "out")
    shutil.copytree(phantom, "copy")
    split = Path("out/split.csv").read_bytes()
    labels = Path("copy/stage_2_train.csv")
    pd.read_csv(labels).iloc[60:].to_csv(labels, index=False)
    assert run("ckpt_path=out", "data.root=copy", "trainer.max_epochs=3", base=[]) == 2
    assert "changed since the run began" in caplog.text
    assert Path("out/split.csv").read_bytes() == split


def test_diverged_run_says_so(run, caplog) -> None:
    assert run("run_dir=out", "optim.lr=1e30", "trainer.gradient_clip_val=null") == 2
    assert "lower optim.lr" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.root=/nowhere"], "/nowhere"),
        (["data.root=/nowhere", "model.pretrained=true"], "/nowhere"),  # before it looks for weights
        (["model.backbone=resnet81"], "nearest: .*resnet18"),
        (["trainer.gpus=99"], "trainer.gpus=99: this machine has"),
        (["trainer.gpus=0", "trainer.precision=16-mixed"], "needs a GPU"),
        (["input.windows=[brian]"], "brian"),
        (["input.normalization=max_abs"], "max_abs takes no windows"),
        (["optim.name=adamv"], "adamw"),
        (["data.labels=/nowhere.csv"], "/nowhere.csv"),
        (["data.split=/nowhere.csv"], "/nowhere.csv"),
        (["data.fold=7"], "data.fold=7"),
        (["model.init_from=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["ckpt_path=nowhere"], "holds no run to resume"),
        (["data.limit_slices=0"], "limit_slices"),
        (["data.root=???"], "data.root must be given"),
        (["data.num_workers=-1"], "data.num_workers=-1"),
        (["data.val_fraction=0"], "validation set has no slice"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["trainer.precision=fp16"], "fp16"),
        (["trainer.strategy=nonsense"], "nonsense"),
        (["trainer.ema_decay=2"], "trainer.ema_decay=2"),
        (["trainer.limit_val_batches=0"], "limit_val_batches"),
        (["model.drop_rate=2"], "model.drop_rate=2"),
        (["optim.options={betas: 3}"], "betas"),
        (["data.split=x.csv", "data.fold=1"], "leave out one"),
        (["pretrain=phantom", "pretrain.data.phantom={patients: 0}"], "patients"),
        (["pretrain=phantom", "+pretrain.data.rot=x"], "pretrain does not fit .*rot"),
        (["threads=0"], "threads=0: expected 1 or more"),
        (["rule=recall"], "rule=recall: expected sensitivity>=X"),
        (["pretrain=phantom", "pretrain.data.root=other", "+pretrain.threads=many"], "threads=many"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(run, caplog, overrides: list[str], message: str) -> None:
    assert run("run_dir=out", *overrides) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert re.search(message, record.getMessage())
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_made_is_one_message(run, caplog) -> None:
    Path("taken").write_text("")
    for words in (["run_dir=taken/out"], ["-m", "hydra.sweep.dir=taken/out", "seed=0,1"]):
        assert run(*words) == 2
        assert "cannot write to taken/out: Not a directory" in caplog.text
        caplog.clear()


def write_labels(phantom: Path, rows: list[str]) -> str:
    path = Path("labels.csv").absolute()
    path.write_text("\n".join(rows) + "\n")
    return f"data.labels={path}"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["name,truth", "a,1"], "columns"),
        (["ID,Label", "ID_000000000_any,1"], "ID_000000000"),
        (["ID,Label", "ID_000000000_epidual,1"], "epidual"),
        (["ID,Label", "ID_000000000_any,2"], "2"),
    ],
)
def test_bad_labels_are_one_message(run, phantom: Path, caplog, rows: list[str], message: str) -> None:
    assert run("run_dir=out", write_labels(phantom, rows)) == 2
    assert message in caplog.text
    assert not Path("out").exists()


def test_empty_folder_and_foreign_checkpoint(run, caplog, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("run_dir=out", "data.root=empty") == 2
    assert "holds no" in caplog.text
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert run("run_dir=out", "model.init_from=other.ckpt") == 2
    assert "another kind of checkpoint" in caplog.text
    assert not Path("out").exists()


def test_second_run_in_the_same_folder_is_refused(run, finished: Path, caplog) -> None:
    shutil.copytree(finished, "out")
    before = Path("out/metrics.json").read_bytes()
    assert run("run_dir=out") == 2
    assert "already holds a run" in caplog.text
    assert Path("out/metrics.json").read_bytes() == before
    assert run("ckpt_path=out", "optim.lr=1", base=[]) == 2
    assert "remove optim.lr=1" in caplog.text


def test_full_disk_is_one_message(run, finished: Path, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/predictions_val.csv")

    monkeypatch.setattr(ich.train.results, "write_table", fail)
    shutil.copytree(finished, "out")
    assert run("ckpt_path=out", base=[]) == 2
    assert "No space left on device" in caplog.text


def test_place_counts_before_it_promises() -> None:
    assert place(0) == {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
    with pytest.raises(UserError, match=r"trainer\.gpus=-1"):
        place(-1)


def test_help_teaches(run, capsys) -> None:
    assert run("--help", base=[]) == 0
    printed = capsys.readouterr().out
    for word in ("data.root=", "ckpt_path=RUN", "convnext_tiny", "limit_slices", "Research use only"):
        assert word in printed
