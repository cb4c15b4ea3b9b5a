"""Runs that meet others, are stopped, are done already, or are of an earlier version."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import call
from processes import run_program
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import TensorBoardLogger

from ich import __version__
from ich.files import open_locked
from ich.train.trainer import build_trainer

TINY = [
    *("input.size=32", "model.backbone=test_resnet", "model.pretrained=false", "trainer.gpus=0"),
    *("data.num_workers=0", "logger=csv", "data.batch_size=48"),
]


@pytest.fixture
def small(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["train", "data=rsna", f"data.root={phantom}", *TINY]


def test_second_training_in_a_run_dir_is_refused(small: list[str], caplog: pytest.LogCaptureFixture) -> None:
    Path("run").mkdir()
    with open_locked(Path("run/run.log")):  # as the first one has it
        assert call(*small, "run_dir=run", "trainer.max_epochs=1") == 2
    assert "another training uses" in caplog.text
    assert not Path("run/metrics.csv").exists()


def test_lock_of_a_crashed_training_does_not_stand_in_the_way(tmp_path: Path) -> None:
    program = "import os, sys; from pathlib import Path; from ich.files import open_locked\n"
    program += "f = open_locked(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run.log")], check=False)
    assert killed.returncode == -signal.SIGKILL
    open_locked(tmp_path / "run.log").close()


STOPPED = """
import os, signal, sys
from pytorch_lightning import Callback
import ich.train.trainer
import ich.cli

class Press(Callback):
    def on_train_batch_start(self, *_):
        {press}

built = ich.train.trainer.Trainer
def build(**arguments):
    return built(**arguments | {{"callbacks": [Press(), *arguments["callbacks"]]}})
ich.train.trainer.Trainer = build
sys.argv = ["ich", *sys.argv[1:]]
ich.cli.main()
"""

ONCE = "os.kill(os.getpid(), signal.SIGINT)"
TWICE = "from ich.train.trainer import saving; saving._TWICE = 0; " + "; ".join([ONCE] * 2)


@pytest.mark.trains
@pytest.mark.races
@pytest.mark.parametrize(("press", "saves"), [(ONCE, True), (TWICE, False)])
def test_ctrl_c_says_what_was_saved_and_how_to_resume(small: list[str], press: str, saves: bool) -> None:
    words = [*small, "run_dir=run", "trainer.max_epochs=2"]
    program = STOPPED.format(press=press)
    done = run_program(program, *words)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    kept = Path("run/run.log").read_text()
    assert "press Ctrl-C again to stop at once" in kept
    assert "stopped by SIGINT" in kept
    assert re.search(r"ich train ckpt_path=\S*run$", kept, re.MULTILINE)
    assert Path("run/checkpoints/last.ckpt").exists() == saves
    assert ("last.ckpt holds the state" if saves else "nothing was saved yet") in kept
    assert call("train", "ckpt_path=run") == 0
    assert pd.read_csv("run/metrics.csv")["epoch"].tolist() == [0, 1]


@pytest.mark.trains
def test_resuming_a_finished_or_older_run_gives_a_message(
    small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert call(*small, "run_dir=run", "trainer.max_epochs=1") == 0
    with caplog.at_level(logging.WARNING):
        assert call("train", "ckpt_path=run") == 0
        assert "run is done after 1 epochs: nothing is trained" in caplog.text
        assert "run/checkpoints/best.ckpt" in caplog.text
        caplog.clear()
        assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
        assert "epochs 2 to 2 use the learning rates" in caplog.text
        assert "run/checkpoints/best.ckpt" in caplog.text
    last = Path("run/checkpoints/last.ckpt")
    whole = torch.load(last, weights_only=True)
    mean, weight = whole["train_loss"][0]
    for older in (
        {name: value for name, value in whole.items() if name != "train_loss"},
        whole | {"train_loss": [mean, weight]},
        {name: value for name, value in whole.items() if name != "HeadCTDataModule"},
        whole | {"callbacks": {}},
    ):
        torch.save(older, last)
        caplog.clear()
        assert call("train", "ckpt_path=run", "trainer.max_epochs=3") == 2
        assert f"was written by an earlier ich (version {__version__})" in caplog.text
        assert "run/checkpoints/last.ckpt" in caplog.text


@pytest.mark.trains
def test_resuming_a_run_out_of_patience_gives_a_message(
    small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    stuck = ["optim.lr=1e-12", "trainer.patience=1", "trainer.max_epochs=9"]
    assert call(*small, "run_dir=run", *stuck) == 0
    epochs = len(pd.read_csv("run/metrics.csv"))
    assert epochs < 9
    with caplog.at_level(logging.WARNING):
        assert call("train", "ckpt_path=run") == 0
        assert f"run ran out of patience after {epochs} epochs (trainer.patience=1)" in caplog.text
        assert "run/checkpoints/best.ckpt" in caplog.text
        caplog.clear()
        assert (
            call("train", "ckpt_path=run", f"trainer.patience={epochs}", f"trainer.max_epochs={epochs + 1}")
            == 0
        )
        assert "patience" not in caplog.text
    assert len(pd.read_csv("run/metrics.csv")) == epochs + 1


def test_the_bar_shows_no_version_of_a_logger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    trainer = build_trainer(gpus=0, logger=logger)
    assert "v_num" not in trainer.progress_bar_callback.get_metrics(trainer, LightningModule())
