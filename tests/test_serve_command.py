"""The command `ich serve`: what it writes, and what it says of settings that cannot work."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command import call
from processes import FORKING, run_program
from serve_parts import write_model

from ich.serve.settings import read_settings
from ich.serve.store import open_store
from ich.serve.store.events import EventKind, add_event

pytestmark = pytest.mark.races


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.zip")


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """Writes settings with free ports, and with these changes."""

    def write(**changes: object) -> Path:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            ports = first.getsockname()[1], second.getsockname()[1]
        settings = {
            "bundle": str(model),
            "folder": str(tmp_path / "serve"),
            "receive": {"port": ports[0], "least_free_gb": 0},
            "web": {"port": ports[1]},
        }
        path = tmp_path / "serve.yaml"
        path.write_text(yaml.safe_dump(settings | changes))
        return path

    return write


def test_the_written_settings_are_right_once_their_model_is(tmp_path: Path, model: Path, capsys) -> None:
    path = tmp_path / "serve.yaml"
    assert call("serve", "--init", str(path), "--bundle", str(model), "--inbox", str(tmp_path / "in")) == 0
    assert read_settings(path).bundle == str(model)
    assert "--check" in capsys.readouterr().out
    assert call("serve", "--init", str(path)) == 2
    assert "exists" in capsys.readouterr().err


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tests' server fork the process that loads the models, which else imports torch again."""
    monkeypatch.setattr("ich.serve.checks._CONTEXT", FORKING)


def test_settings_that_work_are_said_to(write, capsys, forked: None) -> None:
    path = write()
    assert call("serve", "--config", str(path), "--check") == 0
    assert capsys.readouterr().out == f"{path}: nothing is wrong\n"


def test_all_faults_are_one_message_before_anything_listens(
    write, tmp_path: Path, capsys, forked: None
) -> None:
    undecided = write_model(tmp_path / "undecided.zip", threshold=None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = write(
            bundle=str(undecided),
            receive={"port": port, "least_free_gb": 0},
            read={"shadow": str(tmp_path / "gone.zip")},
            send=[{"name": "hook", "kind": "webhook", "address": "nowhere"}],
        )
        assert call("serve", "--config", str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path} has 4 faults:" in said
    assert f"port={port}" in said
    assert "send: address of hook" in said
    assert "undecided.zip has no operating point for a study" in said
    assert "read.shadow: " in said
    assert "gone.zip" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"receive": {"prt": 1}}, "the setting receive.prt is unknown"),
        ({"folder": "/proc/ich"}, "folder=/proc/ich cannot be written: No such file or directory"),
    ],
)
def test_one_fault_is_one_message(write, capsys, changes: dict[str, object], message: str) -> None:
    assert call("serve", "--config", str(write(**changes)), "--check") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --config FILE"),
        (["--bundle", "a.zip"], "give --config FILE"),
        (["--config", "a.yaml", "--watch", "b"], "--watch cannot be given with --config"),
        (["--bundle", "a.zip", "--inbox", "b", "--port", "70000"], "command line: receive.port=70000"),
        (["--init", "a.yaml", "--config", "b.yaml"], "leave out --config"),
    ],
)
def test_wrong_usage_is_one_message(tmp_path, monkeypatch, capsys, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("serve", *words) == 2
    assert message in capsys.readouterr().err


def test_the_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "known = ('torch', 'sqlalchemy', 'fastapi', 'pynetdicom', 'ich')\n"
        "for name in [name for name in sys.modules if name.split('.')[0] in known]:\n"
        "    del sys.modules[name]\n"
        "from ich.cli import main\n"
        "sys.argv = ['ich', 'serve', '--help']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(sorted({*known[:-1]} & set(sys.modules)))\n"
    )
    done = run_program(program)
    assert done.returncode == 0
    assert "exit codes:" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_reload_during_the_start_does_not_end_the_service(write) -> None:
    program = (
        "import os, signal\n"
        "from ich.serve import checks, supervisor\n"
        "checks.require_working = lambda *_: os.kill(os.getpid(), signal.SIGHUP)\n"
        "supervisor.Supervisor.run = lambda self: print('runs')\n"
        "from ich.cli import main\n"
        "main()\n"
    )
    done = run_program(program, "serve", "--config", str(write()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("runs\n")


def test_an_account_is_added(write, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a long enough passphrase\n"))
    assert call("serve", "--config", str(write()), "--account", "alice", "--role", "administer") == 0
    assert capsys.readouterr().out == "alice may administer\n"


def test_the_audit_log_is_printed_as_lines_of_json(write, capsys) -> None:
    path = write()
    assert call("serve", "--config", str(path), "--audit") == 0
    assert capsys.readouterr().out == ""
    store = open_store(read_settings(path).store)
    with store.begin() as connection:
        add_event(connection, 0.0, "CT1", EventKind.REFUSED, detail="0xA700 the disk has too little room")
    store.close()
    assert call("serve", "--config", str(path), "--audit") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["at"] == "1970-01-01T00:00:00.000+00:00"
