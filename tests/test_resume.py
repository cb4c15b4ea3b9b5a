from __future__ import annotations

import gc
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from drawings import label_studies
from processes import run_program
from pytorch_lightning import seed_everything

import ich.files
import ich.train
from ich.data import HeadCTDataModule
from ich.image.augment import Augment
from ich.image.lesions import Lesions
from ich.model_files.checkpoint import find_checkpoint, is_whole, read_checkpoint
from ich.model_files.durable import DurableIO
from ich.models import SliceClassifier
from ich.models.optim import OptimSpec
from ich.models.series import SeriesSpec
from ich.schema import InputSpec, UserError
from ich.train.trainer import build_trainer, fit
from ich.train.trainer.saving import collect_generators, restore_generators
from ich.train.trainer.signals import STOPS, handling_stops

pytestmark = [
    pytest.mark.trains,
    # Of processes; ours are threads.
    pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker"),
]

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {
        "ema_decay": 0.9,
        "accumulate_grad_batches": 2,
        "workers": 2,
        "augment": {"window_center": 10, "mixup": 0.5},
        "data": {
            "sampling": "balanced",
            "label_smoothing": 0.1,
            "first_sizes": [24],
            "lesions": Lesions(),
        },
    },
    # A frozen backbone does not get better, so patience ends the run after two epochs.
    "patience": {"patience": 1, "max_epochs": 6, "freeze_epochs": 6, "lr": 1e-12, "workers": 4},
    "studies": {
        "workers": 2,
        "study_pool": "attention",
        "data": {"study_labels": "studies.csv", "study_slices": 24},
    },
    "series": {"workers": 2, "series": SeriesSpec("transformer", end_to_end=True, width=16, max_slices=16)},
    "within": {"val_check_interval": 0.4, "freeze_epochs": 1},
}


class Killed(BaseException):
    """Stands for the end of the process: nothing of the library catches it."""


class Classifier(SliceClassifier):
    """Draws from every global generator; does what it is told at a step."""

    steps = 0
    at: Callable[[int], None] = staticmethod(lambda step: None)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.at(self.steps)
        self.steps += 1
        drawn = random.random() * np.random.standard_normal()  # noqa: NPY002 - the global one
        return super().training_step(batch, batch_idx) * (1 + 0.1 * drawn)


def go(folder: Path, phantom: Path, at: Callable[[int], None] | None = None, **settings: Any) -> None:
    """Trains what is left of a run, in this process, with objects that know nothing of the run before."""
    settings = {"max_epochs": 2, "save_minutes": 0} | settings
    augment = Augment(flip=0.5, **settings.pop("augment", {}))
    optim = OptimSpec(lr=settings.pop("lr", 1e-3), freeze_epochs=settings.pop("freeze_epochs", 0))
    seed_everything(1, verbose=False)
    spec = InputSpec(size=32)
    series = settings.pop("series", None)
    pooling = {"study_pool": settings.pop("study_pool", "top_k"), "series": series}
    drawing = {"num_workers": settings.pop("workers", 0)} | settings.pop("data", {})
    drawing["series"] = None if series is None else series.draw
    if "study_labels" in drawing:
        drawing["study_labels"] = str(label_studies(phantom, folder / drawing["study_labels"]))
    data = HeadCTDataModule(str(phantom), spec, augment=augment, batch_size=48, **drawing)
    model = Classifier("test_resnet", input=spec, pretrained=False, drop_rate=0.2, optim=optim, **pooling)
    model.at = at or model.at
    trainer = build_trainer(run_dir=folder, gpus=0, enable_progress_bar=False, **settings)
    saved = any(folder.glob("checkpoints/*.ckpt"))
    seed_everything(7 if saved else 2, verbose=False)
    fit(trainer, model, data, settings={}, ckpt_path=find_checkpoint(folder) if saved else None)


def kill_at(step: int) -> Callable[[int], None]:
    def at(now: int) -> None:
        if now == step:
            raise Killed

    return at


def flatten(state: Any, name: str = "") -> dict[str, Any]:
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, part in items for k, v in flatten(part, f"{name}/{key}").items()}
    return {name: state}


def require_same(one: Path, other: Path) -> None:
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for file in ("last", "best"):
        states = [flatten(read_checkpoint(run / "checkpoints" / f"{file}.ckpt")) for run in (one, other)]
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            other_value = states[1][name]
            same = torch.equal(value, other_value) if torch.is_tensor(value) else value == other_value
            both_nan = value != value and other_value != other_value if isinstance(value, float) else False
            its_own = "/loops" in name or name == "/metadata/training/seconds"
            assert same or both_nan or its_own, f"{file}: {name}"


@pytest.fixture(scope="module")
def whole(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs that were never interrupted."""
    done: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name)
            go(done[name], phantom, **SETTINGS[name])
        return done[name]

    return find


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("plain", [2, 1]),
        ("plain", [0]),
        ("plain", [4]),
        ("ema", [3, 3]),
        ("patience", [8]),
        ("studies", [5, 1]),
        ("series", [4, 1]),
        ("within", [3, 2]),
    ],
)
def test_killed_run_ends_in_the_same_weights(
    phantom: Path, whole, tmp_path: Path, name: str, steps: list[int]
) -> None:
    for step in steps:
        with pytest.raises(Killed):
            go(tmp_path, phantom, kill_at(step), **SETTINGS[name])
    go(tmp_path, phantom, **SETTINGS[name])
    require_same(whole(name), tmp_path)


def test_patience_that_ran_out_is_remembered(phantom: Path, whole, tmp_path: Path) -> None:
    shutil.copytree(whole("patience"), tmp_path, dirs_exist_ok=True)
    go(tmp_path, phantom, kill_at(0), **SETTINGS["patience"])
    require_same(whole("patience"), tmp_path)


@pytest.mark.parametrize("moment", ["written", "flushed", "renamed"])
def test_killed_inside_a_save(
    phantom: Path, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    flush, replace, saves = ich.files.flush_to_disk, Path.replace, []

    def kill_in_third(path: Path) -> None:
        saves.append(path)
        if len([p for p in saves if p.name == ".last.ckpt.part"]) == 3:
            raise Killed

    def flushing(path: Path) -> None:
        if moment == "written":
            kill_in_third(path)
        flush(path)

    def replacing(path: Path, target: Path) -> Path:
        if moment == "flushed" or (moment == "renamed" and path.suffix == ".part"):
            kill_in_third(path)
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(ich.files, "flush_to_disk", flushing)
        patch.setattr(Path, "replace", replacing)
        with pytest.raises(Killed):
            go(tmp_path, phantom)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists() == (moment == "written")
    go(tmp_path, phantom)
    require_same(whole("plain"), tmp_path)


def test_damaged_last_makes_way_for_the_one_before(phantom: Path, whole, tmp_path: Path, caplog) -> None:
    shutil.copytree(whole("plain"), tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    last.write_bytes(content[:-1000])
    go(tmp_path, phantom)
    assert f"{last} is damaged: the previous one is used, previous.ckpt" in caplog.text
    require_same(whole("plain"), tmp_path)
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert find_checkpoint(tmp_path).name == "previous.ckpt"
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(last)
    last.with_name("previous.ckpt").unlink()
    with pytest.raises(UserError, match="no earlier checkpoint is whole"):
        find_checkpoint(tmp_path)


def test_save_that_fails_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    DurableIO().save_checkpoint({"weights": torch.ones(10)}, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"last\.ckpt of 4\.0 MB could not be saved: File too large\. Earlier"
        ):
            DurableIO().save_checkpoint({"weights": torch.ones(1_000_000)}, path, tmp_path / "previous.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_is_too_small_is_reported_before_the_first_step(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 4_000_000))
    with pytest.raises(UserError, match=r"4\.0 MB left, but checkpoints of this model need up to 18\.0 MB"):
        go(tmp_path, phantom, kill_at(0))


def test_loss_that_is_not_finite_saves_nothing(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    class Diverging(torch.nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return logits.sum() * float("nan")

    go(tmp_path, phantom, max_epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("checkpoints/*")}
    step = Classifier.training_step

    def diverge(self: Classifier, batch: Any, batch_idx: int) -> Any:
        if self.steps == 2:
            self.loss = Diverging()
            rows.extend(batch["row"].tolist())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", diverge)
    with pytest.raises(UserError) as raised:
        go(tmp_path, phantom, max_epochs=2, save_minutes=10)
    assert "batch 2 in epoch 1, both from 0, is not finite" in str(raised.value)
    assert f"rows {rows} of the table" in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("checkpoints/*")} == before


def test_generators_continue_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), np.random.standard_normal(), float(torch.rand(()))]  # noqa: NPY002

    draw()  # the first two keep a twin for the next call
    state = collect_generators()
    drawn = [draw(), draw()]
    restore_generators(state)
    again = [draw(), draw()]
    assert again == drawn


def test_a_run_that_broke_off_leaves_the_signals_of_the_next_one() -> None:
    def note(signum: int) -> None:
        noted.append(signum)

    noted: list[int] = []
    with handling_stops(note):  # restores what was there before
        broken = handling_stops(lambda _: None)
        broken.__enter__()
        with handling_stops(note):
            del broken
            gc.collect()
            handler = signal.getsignal(signal.SIGUSR1)
            assert callable(handler)
            handler(signal.SIGUSR1, None)
    assert noted == [signal.SIGUSR1]


def test_a_trainer_that_is_used_alone_leaves_the_signals_as_they_were(phantom: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(stop) for stop in STOPS]
    spec = InputSpec(size=32)
    few = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}
    trainer = build_trainer(run_dir=tmp_path, gpus=0, enable_progress_bar=False, **few)
    trainer.fit(
        Classifier("test_resnet", input=spec, pretrained=False),
        datamodule=HeadCTDataModule(str(phantom), spec, num_workers=0),
    )
    assert [signal.getsignal(stop) for stop in STOPS] == before


REQUEUED = """
import os
import signal
import sys
from pathlib import Path

from test_resume import go

def stop(step):
    if step == 1:
        os.kill(os.getpid(), signal.SIGUSR1)

before = signal.getsignal(signal.SIGUSR1)
try:
    go(Path(sys.argv[1]), Path(sys.argv[2]), stop)
finally:
    assert signal.getsignal(signal.SIGUSR1) is before
"""
"""Trains, and gets SIGUSR1 in its second step."""


@pytest.mark.races
def test_slurm_gets_its_job_back(
    phantom: Path, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    for name, value in {"NTASKS": "1", "JOB_ID": "42", "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    stopped = run_program(REQUEUED, str(tmp_path / "run"), str(phantom))
    assert stopped.returncode == 138, stopped.stderr
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    go(tmp_path / "run", phantom)
    require_same(whole("plain"), tmp_path / "run")


def command(phantom: Path, *overrides: str) -> list[str]:
    small = ["data=rsna", f"data.root={phantom}", "input.size=32", "data.num_workers=2", "logger=csv"]
    tiny = [
        "model.backbone=test_resnet",
        "model.pretrained=false",
        "trainer.max_epochs=2",
        "data.batch_size=48",
    ]
    return ["train.py", *small, *tiny, "trainer.save_minutes=0", "trainer.ema_decay=0.9", *overrides]


def call(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", argv)
    try:
        ich.train.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


STOPPED = """
import os
import ich.train
from ich.model_files.durable import DurableIO

save = DurableIO.save_checkpoint

def save_and_stop(self, checkpoint, path, *args, **kwargs):
    save(self, checkpoint, path, *args, **kwargs)
    if path.name == "last.ckpt":
        os.kill(os.getpid(), {signum})

DurableIO.save_checkpoint = save_and_stop
ich.train.main()
"""


@pytest.mark.races
def test_a_real_process_that_is_killed_and_stopped_resumes(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, command(phantom, "run_dir=whole")) == 0
    last = Path("runs/cut/checkpoints/last.ckpt")
    for sent, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        words = ["ckpt_path=last"] if last.exists() else command(phantom, "run_dir=runs/cut")[1:]
        # It signals itself once it has saved: how far another process gets meanwhile is of chance.
        program = STOPPED.format(signum=int(sent))
        assert run_program(program, *words).returncode == code
        assert is_whole(find_checkpoint("runs/cut"))
    # As a job that SLURM starts again calls it.
    for name, value in {"NTASKS": "1", "JOB_NAME": "x", "RESTART_COUNT": "1", "JOB_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    assert call(monkeypatch, command(phantom, "run_dir=runs/cut")) == 0
    require_same(Path("whole"), Path("runs/cut"))
    tables = [pd.read_csv(f"{run}/predictions_test.csv") for run in ("whole", "runs/cut")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_memory_that_runs_out_names_the_sizes(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SliceClassifier, "training_step", fail)
    assert call(monkeypatch, command(phantom, "run_dir=out")) == 2
    assert "out of memory with data.batch_size=48, input.size=32" in caplog.text
    assert call(monkeypatch, ["train.py", "ckpt_path=last"]) == 2
    assert "ckpt_path=last: there is no run below" in caplog.text
