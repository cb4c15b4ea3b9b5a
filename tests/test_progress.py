"""Bars on a terminal, and none elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command import call

from ich.progress import waiting


@pytest.mark.parametrize("more", [[], ["--archive"]], ids=["phantom", "archive"])
def test_few_patients_of_a_phantom_have_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    draw = ["phantom", "--patients", "1", "--size", "64", *more]
    assert call(*draw, str(tmp_path / "quiet")) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert call(*draw, str(tmp_path / "shown")) == 0
    assert "Writing the phantom" in capsys.readouterr().err


def test_work_that_cannot_be_counted_has_a_clock(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with waiting("Fitting"):
        pass
    with waiting("Unseen", shown=False):
        pass
    shown = capsys.readouterr().err
    assert "Fitting" in shown
    assert "0:00:00" in shown
    assert "Unseen" not in shown
