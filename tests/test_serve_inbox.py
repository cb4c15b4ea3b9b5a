"""The files of the service's inbox: complete, on the disk, and named by their content."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ich.serve.inbox import INCOMING, Inbox


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, seen = Inbox(tmp_path), []

    def flush(path: Path) -> None:
        seen.append((path.relative_to(tmp_path).parts[0] if path != tmp_path else "", list_files(tmp_path)))

    monkeypatch.setattr("ich.serve.inbox.flush_to_disk", flush)
    kept = inbox.keep(b"head", [b"abc", b"def"])
    assert kept.digest == hashlib.sha256(b"abcdef").hexdigest()
    assert inbox.locate(kept.path).read_bytes() == b"headabcdef"
    assert kept.bytes == 10
    (first, before), (second, _), (third, after) = seen
    assert first == INCOMING
    assert before[0].startswith(INCOMING)
    assert second == ""  # the new folder's name
    assert third == kept.path[:2]
    assert after == [kept.path]
    assert inbox.keep(b"head", [b"abcdef"]) == kept
    assert inbox.keep(b"other", [b"abcdef"]).path != kept.path


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    def fail() -> Iterator[bytes]:
        yield b"abc"
        raise OSError(errno.ENOSPC, "No space left on device")

    inbox = Inbox(tmp_path)
    with pytest.raises(OSError, match="No space"):
        inbox.keep(b"", fail())
    assert list_files(tmp_path) == []
    (tmp_path / INCOMING / "left").write_bytes(b"x")
    assert inbox.remove_unfinished() == 1
    assert list_files(tmp_path) == []
