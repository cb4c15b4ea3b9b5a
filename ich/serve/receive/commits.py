"""Commits the rows of many senders in few transactions: one wait for the disk serves all who wait.

The same few statements can serve them too: see ``Commits.run_together``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ich.serve.store import Store

_MOST_TOGETHER = 64  # pieces of work in one transaction
_MOST_NOTES = 10_000  # kept while the database cannot be written
_RETRY_SECONDS = 0.5
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Work = Callable[[Connection, Sequence[Any]], Sequence[Any]]  # takes items, returns a result for each


@dataclass(frozen=True)
class _Job:
    """Work for a transaction, and the future of who waits for it; nobody waits for a note."""

    work: _Work
    item: Any = None
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
        return self.run_together(_take_one(work), None)

    def run_together(
        self, work: Callable[[Connection, Sequence[_Item]], Sequence[_Result]], item: _Item
    ) -> _Result:
        """Runs work in a transaction, for all items at once that several threads have for it at this time.

        The work may run twice, so it changes nothing but the database.

        Args:
            work: Takes the items, and returns a result for each.
            item: The item of this thread.

        Returns:
            The result for the item, when it is committed.

        Raises:
            SQLAlchemyError: If it is not committed.
        """
        future: Future[_Result] = Future()
        self._jobs.put(_Job(work, item, future))
        return future.result()

    def note(self, work: Callable[[Connection], Any]) -> None:
        """Runs work in one of the next transactions; nobody waits, and a locked database delays it."""
        self._jobs.put(_Job(_take_one(work)))

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
                results = _run_all(connection, jobs)
        except OperationalError as error:  # locked, full or out of reach, for one as for all
            _fail(jobs, error)
            return [job for job in jobs if job.future is None]
        except Exception as error:
            if len(jobs) == 1:
                _fail(jobs, error)
                return []
            return [note for job in jobs for note in self._commit([job])]
        for job, result in results:
            if job.future is not None:
                job.future.set_result(result)
        return []


def _take_one(work: Callable[[Connection], _Result]) -> Callable[[Connection, object], list[_Result]]:
    return lambda connection, _: [work(connection)]


def _run_all(connection: Connection, jobs: list[_Job]) -> list[tuple[_Job, Any]]:
    together: dict[_Work, list[_Job]] = {}
    for job in jobs:
        together.setdefault(job.work, []).append(job)
    results: list[tuple[_Job, Any]] = []
    for work, group in together.items():
        results += zip(group, work(connection, [job.item for job in group]), strict=True)
    return results


def _fail(jobs: list[_Job], error: Exception) -> None:
    for job in jobs:
        if job.future is not None:
            job.future.set_exception(error)
