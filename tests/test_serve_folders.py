"""Watched folders: what has stopped growing is taken once, and stays where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from receiving import Start, ask, list_inbox, make_object, send, wait_for
from slices import to_bytes

from ich.serve.inbox import Inbox
from ich.serve.settings import Settings

pytestmark = pytest.mark.races


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ich.serve.receive.folders.LOOK_SECONDS", 0.05)


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


def is_done(settings: Settings, files: int) -> bool:
    return ask(settings, "SELECT count(*) FROM taken_files") == [(files,)]


def test_files_are_taken_once_and_others_are_named(start: Start, watched: Path) -> None:
    (watched / "Marker").mkdir()
    for number in (1, 2):
        (watched / "Marker" / f"{number}.dcm").write_bytes(to_bytes(make_object(1, number)))
    (watched / "notes.txt").write_text("no DICOM")
    (watched / ".hidden.dcm").write_bytes(to_bytes(make_object(9, 1)))
    (watched / "link.dcm").symlink_to(watched / "Marker" / "1.dcm")
    settings = start(folders=[str(watched)])
    assert wait_for(lambda: is_done(settings, 3))
    assert ask(settings, "SELECT SOPInstanceUID FROM objects") == [("2.25.1.1.1",), ("2.25.1.1.2",)]
    assert len(list_inbox(settings)) == 2
    assert sorted(path.name for path in (watched / "Marker").iterdir()) == ["1.dcm", "2.dcm"]
    events = wait_for(lambda: ask(settings, "SELECT actor, detail FROM events"))
    assert events[0][0] == "folder 1"
    assert events[0][1].startswith("0xC000 it is not a DICOM file")
    assert send(settings.receive.port, [make_object(1, 1)]) == [0]  # the same by another way is the same
    assert len(list_inbox(settings)) == 2


def test_a_file_that_grows_waits(start: Start, watched: Path) -> None:
    content = to_bytes(make_object(1, 1))
    with (watched / "a.dcm").open("wb") as file:
        settings = start(folders=[str(watched)])
        for at in range(0, len(content), 400):
            file.write(content[at : at + 400])
            file.flush()
            os.utime(file.fileno(), ns=(at, at))
    assert wait_for(lambda: ask(settings, "SELECT bytes FROM objects"))
    assert wait_for(lambda: is_done(settings, 1))
    still_open = "SELECT count(*) FROM associations WHERE closed_at IS NULL"
    assert wait_for(lambda: ask(settings, still_open) == [(0,)])
    assert ask(settings, "SELECT bytes > 4000 FROM objects") == [(1,)]


def test_what_is_refused_for_now_is_taken_later(
    start: Start, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watched / "a.dcm").write_bytes(to_bytes(make_object(1, 1)))
    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "measure_free_bytes", lambda _: 0)
        settings = start(folders=[str(watched)])
        assert wait_for(lambda: ask(settings, "SELECT detail FROM events"))
        assert ask(settings, "SELECT count(*) FROM objects") == [(0,)]
    assert wait_for(lambda: ask(settings, "SELECT count(*) FROM objects") == [(1,)])
