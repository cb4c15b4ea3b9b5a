"""Watched folders: takes in files that have stopped growing, and leaves them where they are."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from ich.files import Look, Settling, list_looks
from ich.serve.receive.commits import Commits
from ich.serve.receive.intake import Intake, Visit
from ich.serve.receive.meta import split_file
from ich.serve.receive.refusals import RefusedError, Status
from ich.serve.store.events import EventKind
from ich.serve.store.tables import taken_files

LOOK_SECONDS = 2.0
"""Time between two looks; a file that is the same in both is complete."""
_PIECE = 1 << 20
_log = logging.getLogger(__name__)


class Folders:
    """Looks at folders again and again.

    Args:
        folders: The folders, with all that is below them.
        intake: What takes the objects.
        commits: What remembers the files that were taken.
        receiver: Names the process in the database.
        clock: Returns the time, seconds since 1970.
    """

    def __init__(
        self,
        folders: Sequence[str],
        intake: Intake,
        commits: Commits,
        receiver: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folders = {Path(folder): Settling() for folder in folders}
        self._intake = intake
        self._commits = commits
        self._receiver = receiver
        self._clock = clock
        self._done: set[str] = set()
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="folders", daemon=True)

    def start(self) -> None:
        """Starts to look, if there is a folder."""
        if self._folders:
            self._thread.start()

    def stop(self) -> None:
        """Stops after the file that is being taken."""
        self._stops.set()
        if self._folders:
            self._thread.join()

    def look(self) -> None:
        """Looks once, and takes what is the same as at the look before."""
        for number, (folder, settling) in enumerate(self._folders.items(), 1):
            visit = Visit(self._receiver, f"folder {number}", self._clock())
            found = dict(list_looks(folder))
            seconds = settling.note(found)
            for path, look in found.items():
                if self._stops.is_set():
                    break
                if seconds[path] > 0:
                    self._take_once(visit, path, look)
            self._intake.close(visit)

    def _run(self) -> None:
        while not self._stops.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # such as a folder that is gone for a while
                _log.warning("the watched folders cannot be read: %s", type(error).__name__)

    def _take_once(self, visit: Visit, path: Path, look: Look) -> None:
        key = hashlib.sha256(os.fsencode(f"{path}\0{look[0]}\0{look[1]}")).hexdigest()
        if key in self._done or self._commits.run(lambda connection: _is_taken(connection, key)):
            self._done.add(key)
            return
        try:
            self._take(visit, path, look)
        except RefusedError as refused:
            if refused.status == Status.OUT_OF_RESOURCES:
                return  # the next look tries again
        now = self._clock()
        with suppress(SQLAlchemyError):  # then it is taken again, which changes nothing
            self._commits.run(
                lambda connection: connection.execute(taken_files.insert().values(digest=key, taken_at=now))
            )
        self._done.add(key)

    def _take(self, visit: Visit, path: Path, look: Look) -> None:
        try:
            meta, data = split_file(_read(path, look))
        except RefusedError as refused:
            self._intake.note(visit.peer, EventKind.REFUSED, str(refused))
            raise
        self._intake.take(visit, meta, data)


def _is_taken(connection: Connection, key: str) -> bool:
    query = select(taken_files.c.digest).where(taken_files.c.digest == key)
    return connection.execute(query).first() is not None


def _read(path: Path, look: Look) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
            status = os.fstat(file.fileno())
    except OSError as error:
        raise RefusedError(Status.OUT_OF_RESOURCES, f"a file cannot be read: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != look:
        raise RefusedError(Status.OUT_OF_RESOURCES, "a file changed while it was read")
