"""Files for their owner alone, also while several threads write some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ich.files import for_owner_only, permitting


def test_files_are_for_their_owner_until_the_last_is_done(tmp_path: Path) -> None:
    """Two that overlap, as two threads may; neither undoes what the other needs."""
    outside = os.umask(0o022)
    try:
        first, second = for_owner_only(), for_owner_only()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        (tmp_path / "closed").touch()
        second.__exit__(None, None, None)
        (tmp_path / "open").touch()
    finally:
        os.umask(outside)
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("mode", "file", "folder"),
    [("600", 0o600, 0o700), ("640", 0o640, 0o750), ("660", 0o660, 0o770), ("664", 0o664, 0o775)],
)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_outermost_mode_counts_whatever_the_umask(
    tmp_path: Path, umask: int, mode: str, file: int, folder: int
) -> None:
    outside = os.umask(umask)
    try:
        with permitting(mode), for_owner_only():
            (tmp_path / "folder").mkdir()
            (tmp_path / "file").touch()
        assert os.umask(umask) == umask
    finally:
        os.umask(outside)
    assert (tmp_path / "file").stat().st_mode & 0o777 == file
    assert (tmp_path / "folder").stat().st_mode & 0o777 == folder
