from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command import call
from processes import run_program

from ich import __version__
from ich.cli import COMMANDS

SLOW = {"torch", "pytorch_lightning", "torchmetrics", "timm", "pandas", "scipy", "matplotlib"}
"""Packages that take a large part of a second to import, or seconds."""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_phantom_then_index(capsys) -> None:
    assert (
        call("phantom", "out", "--patients", "2", "--size", "64", "--seed", "4", "--masks", "--conformant")
        == 0
    )
    parameters = json.loads(Path("out/phantom.json").read_text())
    assert parameters["patients"] == 2
    assert parameters["masks"] is True
    assert parameters["conformant"] is True
    assert any(Path("out/masks").iterdir())
    assert call("index", "out") == 0
    slices = len(list(Path("out/stage_2_train").iterdir()))
    assert f"{slices} slices" in capsys.readouterr().out
    assert len(pd.read_parquet("out/.ich/index.parquet")) == slices


def test_index_counts_what_it_refuses(phantom: Path, capsys, tmp_path: Path) -> None:
    source = next((phantom / "stage_2_train").iterdir())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "whole.dcm").write_bytes(source.read_bytes())
    (tmp_path / "data" / "empty.dcm").write_bytes(b"")
    (tmp_path / "data" / "cut.dcm").write_bytes(source.read_bytes()[:-100])
    assert call("index", "data", "--index-dir", "kept") == 0
    printed = capsys.readouterr().out
    assert "1 slices" in printed
    assert "empty: 1" in printed
    assert "truncated: 1" in printed
    assert (tmp_path / "kept" / "index.parquet").is_file()
    assert not (tmp_path / "data" / ".ich").exists()


def test_train_is_the_program_in_the_checkout(phantom: Path) -> None:
    tiny = [
        "model.backbone=test_resnet",
        "model.pretrained=false",
        "trainer.max_epochs=1",
        "data.num_workers=0",
    ]
    assert call("train", "data=rsna", f"data.root={phantom}", "input.size=64", "run_dir=run", *tiny) == 0
    assert Path("run/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "nowhere"], "nowhere does not exist"),
        (["phantom", "full"], "full is not empty"),
        (["phantom", "out", "--patients", "0"], "patients=0"),
        (["phantom", "out", "--size", "many"], "invalid int value: 'many'"),
        ([], "required"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(capsys, arguments: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/file").touch()
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error


def test_version(capsys) -> None:
    assert call("--version") == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_command_of_the_list_has_a_help(command: str, capsys) -> None:
    assert call(command, "--help") == 0
    assert f"usage: ich {command} " in capsys.readouterr().out


def ask_for_help(*words: str) -> tuple[str, set[str]]:
    """Runs ``ich`` in a Python of its own; returns what it prints, and the packages that it imports."""
    program = (
        f"import ich.cli, sys; sys.argv = {['ich', *words]!r}\n"
        "try: ich.cli.main()\n"
        "finally: print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout, set(done.stderr.split())


def test_the_list_of_commands_needs_no_slow_import() -> None:
    told, imported = ask_for_help("--help")
    assert [command for command in COMMANDS if f"\n    {command}" not in told] == []
    assert "argparse" in imported
    assert not imported & (SLOW | {"hydra", "numpy", "pydantic"})


def test_the_help_of_a_training_keeps_what_takes_seconds(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = run_program("from ich.train import main; main()", "--help", "seed=7")
    told, imported = ask_for_help("train", "--help", "seed=7")
    assert told == first.stdout
    assert "seed: 7" in told
    assert "hydra" in imported
    assert not imported & SLOW
    kept = tmp_path / "ich" / "signatures.json"
    kept.write_text(kept.read_text().replace('"key": "', '"key": "of another content'))
    assert run_program("from ich.train import main; main()", "--help", "seed=7").stdout == told
    assert "of another" not in kept.read_text()
    kept.write_text("[]")
    assert run_program("from ich.train import main; main()", "--help", "seed=7").stdout == told
