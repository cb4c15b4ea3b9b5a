"""Files for their owner alone, also while several threads write some."""

from __future__ import annotations

import os
from pathlib import Path

from ich.files import for_owner_only


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
