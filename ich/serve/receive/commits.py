"""Commits the rows of many senders in few transactions: one wait for the disk serves all who wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ich.serve.store import Store

_MOST_TOGETHER = 64  # pieces of work in one transaction
_MOST_NOTES = 10_000  # kept while the database cannot be written
_RETRY_SECONDS = 0.5
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Job:
    """Work for a transaction, and the future of who waits for it; nobody waits for a note."""

    work: Callable[[Connection], Any]
    future: Future[Any] | None = None


class Commits:
    """A thread that commits.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commits", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Runs work in a transaction, and returns its result when it is committed.

        The work may run twice, so it changes nothing but the database.

        Raises:
            SQLAlchemyError: If it is not committed.
        """
        future: Future[_Result] = Future()
        self._jobs.put(_Job(work, future))
        return future.result()

    def note(self, work: Callable[[Connection], Any]) -> None:
        """Runs work in one of the next transactions; nobody waits, and a locked database delays it."""
        self._jobs.put(_Job(work))

    def close(self) -> None:
        """Commits what waits, and ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        notes: list[_Job] = []  # that were not committed yet
        is_open = True
        while is_open:
            jobs, is_open = self._collect(_RETRY_SECONDS if notes else None)
            notes = self._commit([*notes, *jobs])[-_MOST_NOTES:]

    def _collect(self, seconds: float | None) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        try:
            job = self._jobs.get(timeout=seconds)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MOST_TOGETHER:
                    return jobs, True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, True
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> list[_Job]:
        """Commits all, or each by itself if one fails; returns the notes that wait for the next time."""
        if not jobs:
            return []
        try:
            with self._store.begin() as connection:
                results = [job.work(connection) for job in jobs]
        except OperationalError as error:  # locked, full or out of reach, for one as for all
            _fail(jobs, error)
            return [job for job in jobs if job.future is None]
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs, error)
                return []
            return [note for job in jobs for note in self._commit([job])]
        for job, result in zip(jobs, results, strict=True):
            if job.future is not None:
                job.future.set_result(result)
        return []


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if job.future is not None:
            job.future.set_exception(error)
