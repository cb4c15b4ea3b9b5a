"""``ich explain``: the list comes before pictures, the key slices by default, and a call goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import call

import ich.explain.folder
from ich.files import open_locked
from ich.models import SliceClassifier
from ich.schema import InputSpec
from ich.train.trainer import build_trainer


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of two networks that differ in their weights alone."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / "a.ckpt", folder / "b.ckpt"]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        spec = InputSpec(size=64, windows=["brain"])
        trainer = build_trainer(gpus=0)
        trainer.strategy.connect(SliceClassifier("test_resnet", input=spec, pretrained=False))
        trainer.save_checkpoint(path, weights_only=True)
    return paths


@pytest.fixture(scope="module")
def studies(conformant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slices of each of two studies, to be left as they are."""
    by_study: dict[str, dict[int, Path]] = {}
    for path in (conformant / "stage_2_train").iterdir():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        by_study.setdefault(str(ds.StudyInstanceUID), {})[int(ds.InstanceNumber)] = path
    root = tmp_path_factory.mktemp("data") / "studies"
    for number, uid in enumerate(sorted(by_study)[:2]):
        (root / str(number)).mkdir(parents=True)
        for instance in sorted(by_study[uid])[8:14]:
            shutil.copy2(by_study[uid][instance], root / str(number) / f"IM{instance:04d}")
    return root


@pytest.fixture(scope="module")
def whole(checkpoints: list[Path], studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a call that nobody interrupts writes of five slices."""
    out = tmp_path_factory.mktemp("explained") / "whole"
    assert call("explain", str(checkpoints[0]), str(studies), "--limit", "5", "--out", str(out)) == 0
    return out


def read_list(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "slices.csv")


def list_pictures(out: Path) -> set[str]:
    return {path.name for path in out.glob("*.png")}


def name_pictures(numbers: Iterable[int], *labels: str) -> set[str]:
    return {f"{number:04d}_{label}.png" for number in numbers for label in labels}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, picture: int) -> None:
    """The user presses Ctrl-C while a picture, counted from 0, is written."""
    write: Callable[..., None] = ich.explain.folder.write_png
    written: list[Path] = []

    def write_or_stop(figure: object, path: Path, **settings: int) -> None:
        if len(written) == picture:
            raise KeyboardInterrupt
        written.append(path)
        write(figure, path, **settings)

    monkeypatch.setattr(ich.explain.folder, "write_png", write_or_stop)


def test_key_slices_are_explained_by_default(
    checkpoints: list[Path], studies: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    command = ["explain", str(checkpoints[0]), str(studies), "--out", str(out), "--label", "subdural", "any"]
    assert call(*command) == 0
    listed = read_list(out)
    assert len(listed) == 12
    assert listed["StudyInstanceUID"].nunique() == 2
    expected: dict[str, set[int]] = {}
    for label in ("any", "subdural"):
        best = listed.sort_values(f"prob_{label}", ascending=False).groupby("StudyInstanceUID").head(3)
        expected[label] = set(best["number"])
    key = expected["any"] | expected["subdural"]
    assert list_pictures(out) == name_pictures(key, "any", "subdural")
    assert set(listed["number"][listed["explained"] == "yes"]) == key
    assert set(listed["explained"]) <= {"yes", "no"}
    printed = capsys.readouterr().out
    assert (
        f"12 slices listed in {out / 'slices.csv'}, {len(key)} explained, {len(key)} of them now" in printed
    )

    # The same folder takes the others, and what is there stays.
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert call(*command, "--all") == 0
    assert f"12 explained, {12 - len(key)} of them now" in capsys.readouterr().out
    assert list_pictures(out) == name_pictures(range(12), "any", "subdural")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert set(read_list(out)["explained"]) == {"yes"}


def test_limit_takes_the_likeliest_of_all(whole: Path) -> None:
    listed = read_list(whole)
    best = listed.nlargest(5, "prob_any")["number"]
    assert len(best) == 5
    assert list_pictures(whole) == name_pictures(best, "any")
    assert len(list(whole.glob("*.npz"))) == 5


def test_the_list_is_there_before_any_picture(
    checkpoints: list[Path], studies: Path, tmp_path: Path, monkeypatch
) -> None:
    out = tmp_path / "out"
    interrupt_at(monkeypatch, 0)
    assert call("explain", str(checkpoints[0]), str(studies), "--limit", "5", "--out", str(out)) == 130
    assert list_pictures(out) == set()
    listed = read_list(out)
    assert len(listed) == 12
    assert (listed["explained"] == "to do").sum() == 5
    assert listed["prob_any"].between(0, 1).all()


def test_a_call_continues_where_the_last_one_stopped(
    checkpoints: list[Path], studies: Path, whole: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    command = ["explain", str(checkpoints[0]), str(studies), "--limit", "5", "--out"]
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert call(*command, str(out)) == 130
    assert (read_list(out)["explained"] == "yes").sum() == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(before) == 2
    capsys.readouterr()
    with monkeypatch.context() as patch:  # the network does not go over all slices again
        patch.setattr(ich.explain.folder, "score_slices", None)
        assert call(*command, str(out)) == 0
    assert "5 explained, 3 of them now" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    names = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        if name.endswith(".npz"):
            with np.load(out / name) as found, np.load(whole / name) as wanted:
                for key in wanted:
                    np.testing.assert_allclose(found[key], wanted[key], atol=1e-4)
    pd.testing.assert_frame_equal(read_list(out), read_list(whole))


def test_other_settings_are_refused_by_name(
    checkpoints: list[Path], studies: Path, tmp_path: Path, capsys
) -> None:
    studies = shutil.copytree(studies, tmp_path / "studies")
    out = ["--limit", "1", "--out", str(tmp_path / "out")]
    usual = ["explain", str(checkpoints[0]), str(studies)]
    assert call(*usual, *out) == 0
    for other, name in (
        (["explain", str(checkpoints[1]), str(studies)], "model"),
        (["explain", str(checkpoints[0]), str(studies / "0")], "files"),
        ([*usual, "--label", "any", "subdural"], "labels"),
        ([*usual, "--window", "subdural"], "window"),
    ):
        assert call(*other, *out) == 2
        assert f"of other settings (they differ in {name})" in " ".join(capsys.readouterr().err.split())
    assert call(*usual, *out) == 0
    path = next((studies / "0").iterdir())
    path.write_bytes(path.read_bytes() + b"\0" * 16)  # the slice was written again
    assert call(*usual, *out) == 2
    assert "they differ in files" in " ".join(capsys.readouterr().err.split())


def test_two_at_once_and_no_number_are_refused(
    checkpoints: list[Path], studies: Path, whole: Path, capsys
) -> None:
    command = ["explain", str(checkpoints[0]), str(studies), "--out", str(whole), "--limit"]
    with open_locked(whole / ".lock"):
        assert call(*command, "2") == 2
    assert "another process is writing to" in capsys.readouterr().err
    assert call(*command, "0") == 2
    assert "'0': expected a whole number, 1 or more" in capsys.readouterr().err
