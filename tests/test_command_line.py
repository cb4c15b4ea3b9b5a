"""The command line of a training: paths as they stand, and one message that names the nearest right thing."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from processes import run_program
from test_train import TINY, train

from ich.schema import InputSpec
from ich.schema.exits import ExitCode
from ich.train import find_conf
from ich.train.command import (
    describe_settings,
    explain,
    parse_overrides,
    prepare_arguments,
    reading_arguments,
)
from ich.train.settings import accept_old_names
from ich.train.signatures import register_signatures

NAMES = [
    "köln",
    "set=1",
    "set (1)",
    "a,b",
    "2020_01",
    "1e3",
    "it's",
    "null ",
    "true",
    "a\\",
    "x y",
    "~z",
]


@pytest.mark.parametrize("name", [*NAMES, "plain", "/abs/a-b.c", "\\'", "a\\'b", "日本"])
def test_a_path_is_taken_literally(name: str) -> None:
    for key in ("data.root", "run_dir", "pretrain.data.root", "+pretrain.data.cache"):
        (item,) = prepare_arguments([f"{key}={name}"])
        found = parse_overrides([item.lstrip("+")])
        assert OmegaConf.select(found, key.lstrip("+")) == name


def test_settings_of_all_jobs_and_files_are_left_out_of_the_names_of_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = "hydra.job.config.override_dirname.exclude_keys"
    arguments = ["-m", "optim.lr=1", "seed=0,1", "optim.lr=1e-3,1e-2", "data.root=a,b", "data.folds=2"]
    for own, left_out in (([], "'data.folds','data.root'"), (["seed"], "'data.folds','data.root','seed'")):
        given = [f"{key}=[{','.join(own)}]"] if own else []
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *given])
        with reading_arguments(find_conf()) as prepared:
            assert prepared[-1].replace(f",'{key}'", "") == f"{key}=[{left_out}]"
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=0"])
    with reading_arguments(find_conf()) as prepared:
        assert prepared == ["seed=0"]


def test_what_has_a_meaning_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ["data.labels=null", "data.cache='a b'", "data.root=${x}", "-m", "optim.lr=1e-3,3e-4"]
    assert prepare_arguments(plain) == plain
    monkeypatch.chdir(tmp_path)
    Path("[1]").mkdir()
    assert prepare_arguments(["data.root=[1]", "data.split=slice"]) == [
        "data.root='[1]'",
        "data.split='slice'",
    ]
    assert prepare_arguments(["-m", "data.root=a,b"]) == ["-m", "data.root='a','b'"]
    Path("a,b").mkdir()
    assert prepare_arguments(["-m", "data.root=a,b"]) == ["-m", "data.root='a,b'"]
    assert prepare_arguments(["--multirun", "run_dir=out"]) == ["--multirun", "hydra.sweep.dir='out'"]


def test_names_of_the_last_version_are_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ich"):
        old = [
            "input=neighbours",
            "input.neighbours=2",
            "pretrain.input.normalisation=unit",
            "data.root=neighbours",
        ]
        assert prepare_arguments(old) == [
            "input=neighbors",
            "input.neighbors=2",
            "pretrain.input.normalization=unit",
            "data.root='neighbours'",
        ]
    assert len(caplog.messages) == 3
    assert "input.neighbours=2 is now input.neighbors=2" in caplog.text
    cfg = OmegaConf.create({"input": {"neighbours": 1, "size": 32}, "pretrain": None})
    accept_old_names(cfg)
    assert cfg.input == {"neighbors": 1, "size": 32}


@pytest.fixture
def refuse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Calls the program with wrong arguments; returns the one message that it ends in."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        caplog.clear()
        capsys.readouterr()
        assert train(*arguments, base=[]) == 2
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert "Traceback" not in capsys.readouterr().err
        assert not list(Path.cwd().rglob("config.yaml"))
        return record.getMessage()

    return call


def test_a_file_with_an_earlier_name_gets_the_new_one_in_a_message(
    refuse: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "my" / "input" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("defaults: [/signature/InputSpec@_here_]\nneighbours: 1\n")
    message = refuse("--config-dir", str(tmp_path / "my"), "input=mine")
    assert message == "input/mine.yaml: neighbours is now neighbors; rename it"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.max_epoch=3"], "trainer.max_epoch is not a setting; nearest is trainer.max_epochs, then"),
        (["+trainer.max_epoch=3"], "trainer.max_epoch is not a setting; nearest is trainer.max_epochs, then"),
        (
            ["trainer.gradient_clip=1"],
            "nearest is trainer.gradient_clip_val, then trainer.gradient_clip_algorithm; --help lists all",
        ),
        (
            ["trainer.accelerator=gpu"],
            "trainer.accelerator is not a setting: trainer.gpus chooses the devices",
        ),
        (["+trainer.default_root_dir=x"], "trainer.default_root_dir is not a setting: run_dir names"),
        (["data.columns.any=x"], "data.columns.any is not a setting; nearest is data.columns"),
        (["+data.roots=x"], "data.roots is not a setting; nearest is data.root"),
        (["optim.learning_rate=3"], "optim.learning_rate is not a setting; optim has "),
        (["--data.root=x"], "--data.root=x is not an option: write a setting without dashes, as data.root=x"),
        (["--run_dir=x"], "write a setting without dashes, as run_dir=x"),
        (
            ["data=rsna", f"data.root={__file__}", "model.pretrained=false"],
            ".py is not a folder; unpack an archive first; give the folder",
        ),
        (["lr=3"], "lr is not a setting; nearest is optim.lr;"),
        (["optimizer=adam"], "optimizer is not a setting; nearest is optim;"),
        (["model=resnet34"], "For any timm model, use its name: model.backbone=resnet34"),
        (["model=resnet5"], "nearest is model=resnet50"),
        (
            ["loss=foca"],
            "loss=foca: there is no such file; there are focal, softmax_cross_entropy, weighted_bce",
        ),
        (["data.batch_size=many"], "data.batch_size=many: Value 'many' of type 'str' could not be converted"),
        (["input.windows=brain,bone"], "'input.windows=[brain,bone]'; for one run per value, add -m"),
        (["input.windows=brian"], "expected one of brain, subdural"),
        (["model.backbone=köln"], "model.backbone='köln'"),
        (["köln"], "köln is not a setting: expected KEY=VALUE"),
        (["-m", "run_dir=a,b"], "each job gets a subfolder named by its settings; give one folder"),
        (["data=rsna", "data.root=no,where", "model.pretrained=false"], "data.root=no,where does not exist"),
        (
            ["model.backbone=resnet18.no_such_tag"],
            "no weights of that name are published; available are resnet18.a1",
        ),
    ],
)
def test_what_is_wrong_is_one_message(refuse: Callable[..., str], arguments: list[str], message: str) -> None:
    assert message in refuse(*arguments)


def test_one_window_may_stand_by_its_name() -> None:
    assert InputSpec(windows="brain") == InputSpec(windows=("brain",))  # type: ignore[arg-type]


def test_help_lists_settings_and_no_inner_group() -> None:
    register_signatures()
    told = describe_settings(find_conf(), ["model=resnet50"])
    assert "signature" not in told
    assert "input: dicom, learnable" in told
    assert "backbone: resnet50.a1_in1k" in told
    assert "Research use only" in told


def test_help_to_a_reader_that_has_gone_is_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pipe = "import os, sys; ours, theirs = os.pipe(); os.close(ours); sys.stdout = os.fdopen(theirs, 'w')"
    done = run_program(f"{pipe}; from ich.train import main; main()", "--help")
    assert done.stderr == ""
    assert done.returncode == ExitCode.READER_GONE


@pytest.mark.trains
def test_folders_with_odd_names_are_trained_in(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantom, "set (1), 2020_01")
    base = ["data=rsna", "data.root=set (1), 2020_01", "input.size=32", *TINY, "trainer.max_epochs=1"]
    assert train("run_dir=1e3", base=base) == 0
    config = yaml.safe_load(Path("1e3/config.yaml").read_text())
    assert Path(config["run_dir"]).samefile("1e3")
    assert config["data"]["root"] == "set (1), 2020_01"
    assert train("ckpt_path=1e3", "trainer.max_epochs=2", "data.root=set (1), 2020_01", base=[]) == 0
    assert train("-m", "run_dir=köln", "seed=1,2", base=base) == 0
    assert sorted(path.name for path in Path("köln").iterdir()) == ["0_seed=1", "1_seed=2", "multirun.yaml"]


def test_a_launcher_that_is_not_installed_names_its_extra() -> None:
    error = MissingConfigException("In 'sweep/joblib': ...", "hydra/launcher/joblib")
    assert explain(error, find_conf()) == "hydra/launcher/joblib is not installed: pip install 'ich[joblib]'"
