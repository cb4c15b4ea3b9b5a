"""``ich predict --watch``: a folder whose studies are read as they come; and its log in lines of JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from command import call
from processes import start_program
from serve_roles import wait_until
from test_predict import write_model

from ich.files import Settling
from ich.outputs.records import read_json
from ich.predict.watched import Watched
from ich.studies import find_studies

SETTLE = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.zip", 0.0)


class Desk:
    """A folder of studies that is watched, on a simulated clock."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.now = 0.0
        self.folder, self.scratch = folder, scratch
        self.watched = Watched(folder, SETTLE, lambda: False, lambda: self.now)

    def look(self, after: float) -> bool:
        """Looks some seconds later."""
        self.now += after
        return self.watched.look()

    def choose(self) -> set[str]:
        """The studies that are read now, by UID."""
        found = find_studies(
            [self.folder], scratch=self.scratch, progress=False, skipped=self.watched.skipped
        )
        chosen = self.watched.choose(found.studies)
        self.watched.note_done()
        return {study.StudyInstanceUID for study in chosen}


@pytest.fixture
def desk(department: Path, scratch: Path) -> Desk:
    return Desk(department, scratch)


def test_a_file_counts_from_its_last_change() -> None:
    now = [0.0]
    settling, path = Settling(lambda: now[0]), Path("a")
    assert settling.note({path: (1, 1)}) == {path: 0.0}
    now[0] = 5.0
    assert settling.note({path: (1, 1)}) == {path: 5.0}
    assert settling.note({path: (2, 1)}) == {path: 0.0}
    assert settling.note({}) == {}
    now[0] = 9.0
    assert settling.note({path: (2, 1)}) == {path: 0.0}


def test_studies_wait_until_their_files_stay_the_same(desk: Desk) -> None:
    everything = {folder.name for folder in desk.folder.iterdir()}
    assert not desk.look(0)
    assert not desk.look(SETTLE - 1)
    assert desk.look(1)
    assert desk.choose() == everything
    assert not desk.look(SETTLE)
    growing = min(desk.folder.iterdir())
    part = growing / "late.dcm"
    shutil.copy(min(growing.iterdir()), part)
    assert not desk.look(1)
    with part.open("ab") as file:
        file.write(b"\0" * 8)
    assert not desk.look(SETTLE)  # it grew since
    assert desk.look(SETTLE)
    assert desk.choose() == everything


def test_a_study_that_grows_does_not_hold_up_the_others(desk: Desk) -> None:
    everything = {folder.name for folder in desk.folder.iterdir()}
    first, second, *_ = sorted(desk.folder.iterdir())
    desk.look(0)
    min(first.iterdir()).touch()
    (second / "begun.dcm").touch()  # it does not say yet which study it belongs to
    assert desk.look(SETTLE)
    assert desk.choose() == everything - {first.name, second.name}
    assert desk.look(SETTLE)
    assert desk.choose() == everything


def test_a_study_is_read_when_what_held_it_up_is_gone(desk: Desk) -> None:
    first, *_ = sorted(desk.folder.iterdir())
    desk.look(0)
    (first / "begun.dcm").touch()
    assert desk.look(SETTLE)
    assert first.name not in desk.choose()
    (first / "begun.dcm").unlink()
    assert desk.look(1)
    assert first.name in desk.choose()
    assert not desk.look(SETTLE)


def test_what_comes_or_goes_while_headers_are_read_waits(desk: Desk) -> None:
    everything = {folder.name for folder in desk.folder.iterdir()}
    first, second, *_ = sorted(desk.folder.iterdir())
    desk.look(0)
    assert desk.look(SETTLE)
    shutil.copy(min(first.iterdir()), first / "late.dcm")
    min(second.iterdir()).unlink()
    assert desk.choose() == everything - {first.name, second.name}
    assert not desk.look(1)
    assert desk.look(SETTLE)
    assert desk.choose() == everything


def test_an_archive_is_opened_once_it_is_whole(desk: Desk, tmp_path: Path) -> None:
    study = max(desk.folder.iterdir())
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in study.iterdir():
            archive.write(path, path.name)
    shutil.rmtree(study)
    desk.look(0)
    shutil.move(tmp_path / "study.zip", desk.folder)
    assert desk.look(SETTLE)
    assert study.name not in desk.choose()
    assert desk.look(SETTLE)
    assert study.name in desk.choose()


def test_a_share_that_is_away_changes_nothing(desk: Desk) -> None:
    desk.look(0)
    assert desk.look(SETTLE)
    desk.choose()
    away = desk.folder.rename(desk.folder.with_name("away"))
    assert not desk.look(SETTLE)
    away.rename(desk.folder)
    assert not desk.look(SETTLE)


WATCHING = """
import os
import signal
from pathlib import Path

import ich.cli
import ich.predict.run

ich.predict.run.LOOK_SECONDS = 0.02
before = signal.getsignal(signal.SIGTERM)
Path("number").write_text(str(os.getpid()))
os.replace("number", "pid")
try:
    ich.cli.main()
finally:
    assert signal.getsignal(signal.SIGTERM) is before
"""


@contextmanager
def watching(*words: str) -> Iterator[list[str]]:
    """Runs ``ich predict --watch`` beside what a test does, and then stops it; yields what it printed then.

    It is a process of its own, because a signal must not reach the process of the tests.
    """
    printed: list[str] = []
    finish = start_program(WATCHING, *words)
    wait_until(Path("pid").exists)
    try:
        yield printed
    finally:
        os.kill(int(Path("pid").read_text()), signal.SIGTERM)
        done = finish()
        Path("pid").unlink()
        printed.append(done.stdout)
    assert done.returncode == 0, done.stderr


@pytest.mark.races
def test_a_study_is_read_when_it_has_come_and_again_with_more_slices(
    model: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inbox, out, log = tmp_path / "inbox", tmp_path / "out", tmp_path / "log.jsonl"
    inbox.mkdir()
    *early, late = sorted(study.iterdir())
    (inbox / "growing.dcm").write_bytes(early[0].read_bytes()[:400])
    command = ["predict", str(model), "--watch", str(inbox), "--settle", "0.1", "--out", str(out)]
    command += ["--write", "page", "--mode", "640", "--log", str(log)]

    def read_log() -> list[dict[str, str]]:
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def count(text: str) -> int:
        return sum(text in line["message"] for line in read_log())

    with watching(*command) as printed:
        wait_until(lambda: count("studies were to be read"))  # of none: the folder holds half a file
        for path in early:
            shutil.copy(path, inbox)
        (inbox / "growing.dcm").unlink()
        wait_until(lambda: count("read: ") == 1)
        shutil.copy(late, inbox)
        wait_until(lambda: count("read: ") == 2)
    assert "Research use only" in printed[0]
    assert [path.name for path in (out / "results").iterdir()] == ["0001.json"]
    assert len(read_json(out / "results" / "0001.json").slices) == len(early) + 1
    assert len((out / "studies.csv").read_text().splitlines()) == 2
    assert "0001.html" in (out / "pages" / "index.html").read_text()
    assert log.stat().st_mode & 0o777 == 0o640

    lines = read_log()
    assert {line["study"] for line in lines if "study" in line} == {"0001"}
    assert all(list(line)[:4] == ["time", "level", "logger", "message"] for line in lines)
    header = pydicom.dcmread(late, stop_before_pixels=True)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate"):
        assert str(header[name].value) not in log.read_text()

    done, passes = (out / "done.jsonl").read_text(), count("studies were to be read")
    with watching(*command):  # a restart reads nothing twice
        wait_until(lambda: count("studies were to be read") > passes)
    assert (out / "done.jsonl").read_text() == done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "{folder}/none"], "none is not a folder, or it does not exist"),
        (["--watch", "{folder}", "--settle", "0"], "--settle 0: give --watch, and more than 0 seconds"),
        (["--settle", "5"], "--settle 5: give --watch"),
        (["--watch", "{folder}", "--ray", "local"], "leave out --ray"),
        (["{folder}", "--watch", "{folder}"], "is not a model, or it is damaged: with --watch, give models"),
        (["--watch", "{folder}", "--out", "{folder}/out"], "lies inside the input"),
        (
            ["--watch", "{folder}", "--log", "{folder}"],
            "cannot be written: Is a directory; name another",
        ),
    ],
)
def test_wrong_usage_is_one_message(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [each.format(folder=tmp_path) for each in arguments]
    assert call("predict", str(model), *given) == 2
    assert message in capsys.readouterr().err


def test_the_log_says_how_a_command_ended_and_names_no_file(model: Path, tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.jsonl"
    assert call("predict", str(model), str(tmp_path / "DOE^JOHN"), "--log", str(log)) == 2
    assert "DOE^JOHN does not exist" in capsys.readouterr().err
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["message"].startswith("ended by UserError at predict.py:")
