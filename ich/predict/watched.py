"""A folder to which studies come: which of its files and studies have to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ich.dicom.attributes import read_attributes
from ich.files import Look, Settling, escape_path, list_looks
from ich.index.names import is_archive, read_head
from ich.schema import ReadError
from ich.studies import StudyFiles
from ich.studies.study import Studies


class Watched:
    """A folder to which studies come.

    A file waits until it has not changed for some time. A study waits as long as one of its files does. It
    also waits if a file beside it is gone, or is growing and does not say yet which study it belongs to.

    Args:
        folder: The folder, with all that is below it.
        settle: Seconds for which files must not have changed.
        is_stopped: Says whether the watch has to end.
        clock: Returns seconds.

    Attributes:
        is_stopped: As given.
        skipped: Archives that wait, as ``ich.files.escape_path`` shows their absolute paths.
    """

    def __init__(
        self,
        folder: Path,
        settle: float,
        is_stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_stopped = is_stopped
        self.skipped: Collection[str] = ()
        self._folder = folder.absolute()
        self._settle = settle
        self._settling = Settling(clock)
        self._done: dict[Path, Look] = {}  # files that were settled when studies were read
        self._found: dict[Path, Look | None] = {}
        self._waiting: set[Path] = set()
        self._held_by: set[Path] = set()  # files for which a study waited

    def look(self) -> bool:
        """Looks once; returns whether something has settled since studies were read."""
        if not self._folder.is_dir():  # a share that is away for a while
            return False
        found: dict[Path, Look | None] = dict(list_looks(self._folder))
        found |= {path: None for path in self._done if path not in found}
        seconds = self._settling.note(found)
        self._found = found
        self._waiting = {path for path, unchanged in seconds.items() if unchanged < self._settle}
        waiting = map(escape_path, self._waiting)
        self.skipped = {path for path in waiting if is_archive(read_head(path))}
        if self._held_by and self._held_by.isdisjoint(self._waiting):
            return True
        return any(self._done.get(path) != look for path, look in found.items() if path not in self._waiting)

    def choose(self, studies: Studies) -> Studies:
        """Returns those of the studies that need not wait."""
        now = dict(list_looks(self._folder))  # files may have come or gone while headers were read
        changed = {path for path in now.keys() | self._found.keys() if self._found.get(path) != now.get(path)}
        held_by = self._waiting | changed
        owners = {path: _find_study(path) for path in set(map(escape_path, held_by)) - set(self.skipped)}
        chosen = studies.take([place for place, study in enumerate(studies) if not _waits(study, owners)])
        self._held_by = held_by if len(chosen) < len(studies) else set()
        return chosen

    def note_done(self) -> None:
        """Notes that studies were read after the last look."""
        kept = {path: look for path, look in self._done.items() if path in self._waiting}
        settled = {path: look for path, look in self._found.items() if path not in self._waiting}
        self._done = kept | {path: look for path, look in settled.items() if look is not None}


def _waits(study: StudyFiles, owners: Mapping[str, str]) -> bool:
    """Whether a study waits for files, given with their StudyInstanceUID, which is empty if unknown."""
    paths = {f"{study.root}/{path}" for path in study.files["path"]}
    folders = {path.rpartition("/")[0] for path in paths}
    return any(
        path in paths or owner == study.StudyInstanceUID or (not owner and path.rpartition("/")[0] in folders)
        for path, owner in owners.items()
    )


def _find_study(path: str) -> str:
    try:
        return read_attributes(path).StudyInstanceUID
    except (ReadError, OSError):  # it is not a DICOM file yet, or it is gone
        return ""
