"""`ich demo`: the whole way in one command, with a tiny network and few studies."""

from __future__ import annotations

import json
import shlex
import webbrowser
from dataclasses import replace
from pathlib import Path

import pytest
from command import call
from results import make_result

from ich.cli import _make_parser
from ich.demo.ahead import drawing_ahead
from ich.demo.browser import has_display, open_page
from ich.demo.comparison import Verdict, judge, read_truth
from ich.schema.codes import SetAside
from ich.schema.results import Outcome, Remark

TINY = (
    *("data.phantom=null", "data.num_workers=0", "input.size=32", "model.backbone=test_resnet"),
    *("trainer.max_epochs=1", "trainer.gpus=0", "logger=csv"),
)


@pytest.fixture(scope="module")
def words(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("first") / "a demo"
    return ["demo", str(out), "--studies", "2", "--no-open", "--train", f"data.root={phantom}", *TINY]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses: list[str] = []

    def keep(address: str) -> bool:
        addresses.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", keep)
    return addresses


@pytest.mark.trains
def test_one_command_goes_the_whole_way_and_the_same_one_does_nothing_twice(
    words: list[str], capsys: pytest.CaptureFixture[str], opened: list[str]
) -> None:
    assert call(*words) == 0
    told, out = capsys.readouterr().out, Path(words[1])
    studies = json.loads((out / "archive" / "archive.json").read_text())["studies"]
    assert "2 studies: " in told
    for study in studies:
        assert study["kind"].replace("_", " ") in told
    assert str(out / "results" / "pages" / "index.html") in told
    assert "Research use only; not a medical device" in told
    assert {"index.html", "0001.html", "0002.html"} <= {
        path.name for path in (out / "results/pages").iterdir()
    }
    assert (out / "results" / "dicom" / "0001" / "report.dcm").is_file()
    commands = [line.strip() for line in told.splitlines() if line.startswith("  ich ")]
    assert [command.split()[1] for command in commands] == ["train", "bundle", "phantom", "predict"]
    for command in commands[1:]:
        given = shlex.split(command)[1:]
        assert str(out) in str(_make_parser(given).parse_args(given))
    done = (out / "results" / "done.jsonl").read_bytes()
    assert call(*words) == 0
    assert "2 studies: " in capsys.readouterr().out
    assert (out / "results" / "done.jsonl").read_bytes() == done
    assert opened == []
    assert call(*words, "seed=5") == 2
    assert "other settings of its training" in capsys.readouterr().err


@pytest.mark.trains
def test_a_wrong_setting_is_refused_and_may_be_put_right(
    words: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = str(tmp_path / "out")
    for wrong in ("model=resnet7", "model.backbone=no_such_network"):
        assert call("demo", out, "--no-open", "--train", *words[6:], wrong) == 2
    assert not [path for path in Path(out).iterdir() if path.name.startswith(".archive")]
    assert "resnet7" in caplog.text
    assert "no_such_network" in caplog.text


@pytest.mark.races
def test_the_archive_is_drawn_beside_the_training_and_a_stop_leaves_nothing(tmp_path: Path) -> None:
    numbers = {"patients": 1, "size": 64, "seed": 3}
    with drawing_ahead(tmp_path / "archive", numbers):
        pass
    assert len(read_truth(tmp_path / "archive")) == 1
    with pytest.raises(KeyboardInterrupt), drawing_ahead(tmp_path / "other", {**numbers, "patients": 200}):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--studies", "0"], "--studies 0: expected 1 or more"),
        (["--studies", "few"], "invalid int value"),
        (["--train"], "expected at least one argument"),
    ],
)
def test_a_wrong_option_is_refused(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("demo", str(tmp_path / "out"), *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_and_a_file_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out, message in (
        (tmp_path, "name a new folder"),
        (tmp_path / "notes.txt", "is a file: name a folder"),
    ):
        assert call("demo", str(out), "--no-open") == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


NONE, SOME = {"any": 0}, {"any": 1}


@pytest.mark.parametrize(
    ("labels", "whole", "outcome", "verdict"),
    [
        (SOME, True, Outcome.POSITIVE, "right"),
        (SOME, True, Outcome.NEGATIVE, "wrong"),
        (SOME, True, Outcome.INDETERMINATE, "open"),
        (SOME, False, Outcome.POSITIVE, "right"),
        (SOME, False, Outcome.INDETERMINATE, "open"),
        (SOME, True, None, "wrong"),
        (NONE, True, Outcome.NEGATIVE, "right"),
        (NONE, True, Outcome.POSITIVE, "wrong"),
        (NONE, True, Outcome.INDETERMINATE, "open"),
        (NONE, False, Outcome.INDETERMINATE, "right"),
        (NONE, False, Outcome.NEGATIVE, "wrong"),
        (None, True, None, "right"),
        (None, True, Outcome.NEGATIVE, "wrong"),
    ],
)
def test_a_result_is_judged_by_what_the_phantom_holds(
    labels: dict[str, int] | None, whole: bool, outcome: Outcome | None, verdict: Verdict
) -> None:
    refusal = None if outcome else Remark(SetAside.NO_HEAD, "none")
    result = replace(make_result(), outcome=outcome, refusal=refusal)
    assert judge({"labels": labels, "whole": whole}, result) is verdict


@pytest.mark.parametrize(
    ("environment", "system", "shown"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":0", "CI": "true"}, "linux", False),
        ({}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_CONNECTION": "a b c d"}, "darwin", False),
        ({"CI": "true"}, "darwin", False),
    ],
)
def test_a_browser_needs_a_display_and_is_left_alone_in_ci(
    environment: dict[str, str], system: str, shown: bool
) -> None:
    assert has_display(environment, system) is shown


def test_a_page_opens_where_there_is_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    page = tmp_path / "the list.html"
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    assert open_page(page)
    monkeypatch.setenv("CI", "true")
    assert not open_page(page)
    assert opened == [page.as_uri()]
