"""One training of several processes: what each of them reads, and that they make what one process makes."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from drawings import draw_once
from processes import start_program
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from ich.data import HeadCTDataModule
from ich.data.order import EpochSampler, Share, cut_batches
from ich.files import open_locked
from ich.model_files.checkpoint import read_checkpoint
from ich.models import SliceClassifier
from ich.models.optim import OptimSpec
from ich.schema import InputSpec, UserError
from ich.train.trainer import build_trainer
from ich.train.trainer.launch import Launch, find_launch, one_at_a_time

pytestmark = [
    pytest.mark.trains,
]

STOP = "stop here"

PROGRAM = "from ich.train import main\nmain()"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_once(tmp_path_factory, patients=8, seed=3)


class Watcher(Callback):
    """Writes down the rows of each training batch; stops at a batch, counted over all epochs of the run."""

    def __init__(self, folder: Path, stops_at: int | None = None) -> None:
        self.folder = folder
        self.stops_at = stops_at
        self.count = 0

    def on_train_batch_start(self, *_: Any) -> None:
        if self.count == self.stops_at:
            raise RuntimeError(STOP)
        self.count += 1

    def on_train_batch_end(
        self, trainer: Trainer, _: LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        rows = " ".join(map(str, batch["row"].tolist()))
        with (self.folder / f"batches_{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{trainer.current_epoch},{trainer.global_step},{outputs['loss'].item()},{rows}\n")


def train(
    root: str, folder: str, *, batch_size: int = 8, stops_at: int | None = None, resumes: bool = False
) -> None:
    """Trains two epochs on a phantom, with a network whose layers know nothing of the batch."""
    seed_everything(0, verbose=False)
    spec, run_dir = InputSpec(size=32), Path(folder)
    datamodule = HeadCTDataModule(root, spec, batch_size=batch_size, num_workers=2)
    sgd = OptimSpec(name="sgd", lr=0.02, weight_decay=0.0)  # others divide by gradients that are nearly 0
    model = SliceClassifier("test_vit", input=spec, pretrained=False, optim=sgd)
    trainer = build_trainer(
        run_dir=run_dir,
        gpus=0,
        max_epochs=2,
        save_minutes=0,
        callbacks=Watcher(run_dir, stops_at),
        num_sanity_val_steps=0,
    )
    last = run_dir / "checkpoints" / "last.ckpt"
    trainer.fit(model, datamodule=datamodule, ckpt_path=last if resumes else None, weights_only=True)


def validate(root: str, folder: str) -> None:
    """Writes the metrics of an untrained network on the validation set."""
    seed_everything(0, verbose=False)
    spec = InputSpec(size=32)
    model = SliceClassifier("test_vit", input=spec, pretrained=False)
    datamodule = HeadCTDataModule(root, spec, batch_size=7, num_workers=0)
    trainer = build_trainer(gpus=0)
    (metrics,) = trainer.validate(model, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        (Path(folder) / "metrics.json").write_text(json.dumps(metrics))


def run(function: str, root: Path, folder: Path, processes: int, code: int = 0, **more: Any) -> None:
    """Runs a function of this module as torchrun does, and expects an exit code of all processes."""
    folder.mkdir(exist_ok=True)
    program = f"import sys, json\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    program += f"from {Path(__file__).stem} import {function}\n{function}(**json.loads(sys.argv[1]))"
    arguments = json.dumps({"root": str(root), "folder": str(folder)} | more)
    for ended in run_all(program, [arguments], processes):
        assert ended.returncode == code, ended.stderr
        assert (STOP in ended.stderr) == (code == 1)


def run_all(program: str, words: Sequence[str], processes: int) -> list[subprocess.CompletedProcess[str]]:
    """Runs a program as torchrun does."""
    port = find_port()
    started = [
        start_program(program, *words, environment=os.environ | launch(rank, processes, port))
        for rank in range(processes)
    ]
    return [finish() for finish in started]


def find_port() -> int:
    """Finds a free port among those that no system gives to connections, so that it stays free."""
    while True:
        port = random.SystemRandom().randrange(12_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def launch(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process (https://docs.pytorch.org/docs/stable/elastic/run.html)."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def read_rows(folder: Path) -> pd.DataFrame:
    """The batches of all processes: rank, epoch, step, loss, and the rows as a list."""
    found = []
    for path in sorted(folder.glob("batches_*.txt")):
        for line in path.read_text().splitlines():
            epoch, step, loss, rows = line.split(",")
            rank = int(path.stem.removeprefix("batches_"))
            found.append((rank, int(epoch), int(step), float(loss), rows.split()))
    return pd.DataFrame(found, columns=["rank", "epoch", "step", "loss", "rows"])


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return weights


@pytest.mark.parametrize("of", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_batches_of_several_processes_hold_each_item_once(of: int, size: int) -> None:
    for count in range(of, 5 * of * size + 3):
        bounds = cut_batches(count, size, of)
        assert bounds[0] == 0
        assert bounds[-1] == count
        assert (len(bounds) - 1) % of == 0  # as many batches for each process
        assert (np.diff(bounds) >= 1).all()
        assert np.diff(bounds).max() <= max(size, 2)
        whole = cut_batches(count, size, of, drop_last=True)
        assert (np.diff(whole) == size).all()
        assert whole[-1] == count // (size * of) * size * of
    with pytest.raises(UserError, match=f"1 slices, studies or series for {of + 1} processes"):
        cut_batches(1, size, of + 1)


def test_one_process_has_the_batches_that_it_always_had() -> None:
    assert cut_batches(70, 32, 1).tolist() == [0, 32, 64, 70]


def test_processes_share_the_batches_of_one() -> None:
    rows = np.arange(50)
    order = np.random.default_rng(0).permutation(rows)
    (one, *two) = (
        list(EpochSampler(rows, lambda epoch: order, lambda: 3, share).draw_batches(size, drop_last=True))
        for share, size in ((Share(), 8), (Share(0, 2), 4), (Share(1, 2), 4))
    )
    assert one == [first + second for first, second in zip(*two, strict=True)]


@pytest.mark.races
def test_two_processes_learn_what_one_learns_with_batches_of_twice_the_size(
    small: Path, tmp_path: Path
) -> None:
    run("train", small, tmp_path / "one", 1, batch_size=16)
    run("train", small, tmp_path / "two", 2, batch_size=8)
    one, two = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    drawn = read_rows(tmp_path / "two").groupby(["epoch", "step"])["rows"].sum()
    assert drawn.tolist() == read_rows(tmp_path / "one")["rows"].tolist()


@pytest.mark.races
def test_metrics_of_two_processes_are_those_of_one(small: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        run("validate", small, tmp_path, processes)
        found.append(json.loads((tmp_path / "metrics.json").read_text()))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run("train", small, folder, 2)
    return folder


@pytest.mark.races
@pytest.mark.parametrize("epoch", [0, 1])
def test_two_processes_resume_as_if_nothing_had_happened(
    small: Path, tmp_path: Path, whole: Path, epoch: int
) -> None:
    """Within an epoch, and after the first, where Lightning draws the first order again (its #21938)."""
    expected = read_rows(whole)
    steps = int((expected["epoch"] == 0).sum() // 2)
    run("train", small, tmp_path, 2, code=1, stops_at=steps if epoch else 2)
    run("train", small, tmp_path, 2, resumes=True)
    pd.testing.assert_frame_equal(read_rows(tmp_path), expected)
    found, weights = read_weights(tmp_path), read_weights(whole)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert (tmp_path / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.races
@pytest.mark.parametrize("processes", [1, 4])
def test_other_processes_go_on_with_what_two_have_left(
    small: Path, tmp_path: Path, whole: Path, processes: int
) -> None:
    """Each slice of the epoch comes once, and the loss of the epoch is that of all its batches."""
    run("train", small, tmp_path, 2, code=1, stops_at=3)
    run("train", small, tmp_path, processes, resumes=True)
    batches = read_rows(tmp_path).query("epoch == 0")
    rows = batches["rows"].sum()
    assert sorted(rows) == sorted(read_rows(whole).query("epoch == 0")["rows"].sum())
    assert len(set(rows)) == len(rows)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert metrics["epoch"].tolist() == [0, 1]
    expected = np.average(batches["loss"], weights=batches["rows"].str.len())
    assert metrics["train_loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.races
def test_torchrun_writes_one_run(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data=rsna", f"data.root={phantom}", "model.backbone=test_resnet", "input.size=32")
    words += ("model.pretrained=false",)
    few = ("trainer.gpus=0", "trainer.max_epochs=1", "data.limit_slices=150", "logger=csv")
    ended = run_all(PROGRAM, [*words, *few, "run_dir=run"], 2)
    assert [each.returncode for each in ended] == [0, 0], [each.stderr for each in ended]
    assert ended[1].stdout == ended[1].stderr == ""
    log = Path("run/run.log").read_text()
    assert log.count("epoch 1 of 1") == log.count("wrote everything to") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["run"]
    assert Path("run/metrics.json").is_file()
    again = run_all(PROGRAM, ["ckpt_path=run", "trainer.max_epochs=2"], 2)
    assert [each.returncode for each in again] == [0, 0], [each.stderr for each in again]
    assert Path("run/run.log").read_text().count("epoch 2 of 2") == 1


def test_processes_of_a_launcher_need_one_folder(phantom: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("data=rsna", f"data.root={phantom}", "trainer.gpus=0")
    for more, message in (
        ((), "run_dir must be given under torchrun or srun"),
        (("run_dir=run", "data.fold=all"), "start one command for each job or fold"),
        (("run_dir=run", "pretrain=phantom"), "pretrain needs a command of its own"),
    ):
        first, second = run_all(PROGRAM, [*words, *more], 2)
        assert (first.returncode, second.returncode) == (2, 2)
        assert message in " ".join(first.stderr.split())
        assert second.stderr == ""
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_processes_prepare_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with one_at_a_time(Path("run")):
        (lock,) = (tmp_path / "cache" / "ich").iterdir()
        assert [path.stat().st_mode & 0o077 for path in (lock, lock.parent)] == [0, 0]
        with pytest.raises(BlockingIOError):
            open_locked(lock)
    open_locked(lock).close()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # where there can be no lock, they prepare at once
    with one_at_a_time(Path("run")):
        pass


def test_launchers_say_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_launch() is None
    slurm = {"JOB_ID": 7, "JOB_NAME": "ich", "NTASKS": 8, "NNODES": 2, "PROCID": 5, "LOCALID": 1, "NODEID": 1}
    with monkeypatch.context() as patch:
        for name, value in (slurm | {"NTASKS_PER_NODE": 4}).items():
            patch.setenv(f"SLURM_{name}", str(value))
        assert find_launch() == Launch(rank=5, world=8, per_node=4)
        with pytest.raises(UserError, match=r"trainer\.gpus=2: the launcher has started 4 processes"):
            build_trainer(gpus=2)
        with pytest.raises(UserError, match=r"trainer\.num_nodes=3: the launcher has started 2"):
            build_trainer(gpus=0, num_nodes=3)
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2: this command alone .* with torchrun or srun"):
        build_trainer(gpus=0, num_nodes=2)


def test_a_strategy_that_starts_commands_is_spawned_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    two = build_trainer(gpus=0, devices=2, strategy="ddp_find_unused_parameters_true")
    assert type(two.strategy.launcher).__name__ == "_MultiProcessingLauncher"
    assert build_trainer(gpus=0, strategy="ddp").world_size == 1
    with pytest.raises(
        UserError, match=r"trainer\.strategy=fsdp needs a launcher: torchrun --nproc-per-node=2"
    ):
        build_trainer(gpus=0, devices=2, strategy="fsdp")
