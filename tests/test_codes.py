"""The codes and the page that explains them."""

from __future__ import annotations

import ast
import re
import signal
import sys
from pathlib import Path

import pytest

from ich.schema.codes import KINDS, Code, Reason, SetAside, describe_code, make_page
from ich.schema.exits import ExitCode, find_signal_code

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_is_what_the_codes_say() -> None:
    assert (ROOT / "docs" / "codes.md").read_text(encoding="utf-8") == make_page()


def test_the_page_has_every_kind_of_code() -> None:
    assert set(KINDS.values()) == set(Code.__subclasses__())


def test_codes_have_one_home() -> None:
    """No other enumeration gives a reason, a refusal or the like; the service has states and events."""
    found, of_service = set(), set()
    for path in (ROOT / "ich").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("StrEnum" in ast.unparse(base) for base in node.bases):
                (of_service if "serve" in path.parts else found).add(node.name)
    assert found == {"Code", "Outcome"}
    assert of_service == {"EventKind", "Role", "SendState", "StudyState", "Verdict"}


@pytest.mark.parametrize("code", [code for kind in KINDS.values() for code in kind], ids=repr)
def test_a_code_has_a_sentence(code: Code) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert str(code) == code.value == f"{code}"
    assert type(code)(code.value) is code
    assert re.fullmatch(r"[A-Z][^|\n]*[^.\s]", code.sentence)
    assert len(code.sentence.split()) <= 20


def test_sentences_of_a_kind_differ() -> None:
    for kind in KINDS.values():
        assert len({code.sentence for code in kind}) == len(kind)


def test_what_was_found_follows_the_sentence() -> None:
    assert describe_code(Reason, "gap", "1 gap") == "Slices seem to be missing between others: 1 gap (gap)"
    assert describe_code(SetAside, SetAside.NOT_AXIAL) == "The slices are not axial (not_axial)"
    assert describe_code(SetAside, "of_another_time", "x") == "Of another time: x (of_another_time)"


def test_exit_codes_have_one_home() -> None:
    """No call ends a process with a number of its own."""
    ends = {"sys.exit", "SystemExit", "os._exit"}
    found = []
    for path in (ROOT / "ich").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ends:
                found += [(path.name, each.value) for each in node.args if isinstance(each, ast.Constant)]
    assert found == []


def test_exit_codes_of_signals_are_those_of_a_shell() -> None:
    assert find_signal_code(signal.SIGINT) == ExitCode.INTERRUPTED
    assert find_signal_code(signal.SIGPIPE) == ExitCode.READER_GONE
    assert find_signal_code(signal.SIGTERM) == ExitCode.TERMINATED
    if sys.platform == "linux":
        assert find_signal_code(signal.SIGUSR1) == ExitCode.REQUEUED
