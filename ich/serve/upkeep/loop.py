"""The process that watches: each of its tasks has a period, and all share one clock."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from ich.serve.settings import Settings
from ich.serve.store import Store, open_store
from ich.serve.store.studies import queue_complete

_LOG = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at the tasks that are due."""


@dataclass
class Task:
    """Something that is done again and again.

    Attributes:
        name: Its name in logs.
        period: Seconds from one time to the next.
        act: Does it at a time.
        due: When it is done next.
    """

    name: str
    period: float
    act: Callable[[float], object]
    due: float = 0.0


def work(settings: Settings) -> None:
    """Does the tasks until SIGTERM or SIGINT.

    Args:
        settings: The settings of the service.

    Raises:
        UserError: If the database cannot be opened.
    """
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    store = open_store(settings.store)
    try:
        tasks = list_tasks(settings, store, time.time())
        while not stopped.is_set():
            do_due(tasks, time.time())
            stopped.wait(TICK)
    finally:
        store.close()


def list_tasks(settings: Settings, store: Store, now: float) -> list[Task]:
    """Lists the tasks.

    Args:
        settings: The settings of the service.
        store: The database.
        now: When the process begins.
    """

    def queue(now: float) -> None:
        complete = settings.complete
        with store.begin() as connection:
            queue_complete(connection, now, quiet=complete.quiet_seconds, longest=complete.longest_seconds)

    return [Task("queue", 1, queue, now)]


def do_due(tasks: Sequence[Task], now: float) -> None:
    """Does the tasks that are due. One that fails because of the disk or the database is tried again.

    A clock that was set back does not stop a task for longer than its period.
    """
    for task in tasks:
        if task.due > now + task.period:
            task.due = now
        if task.due > now:
            continue
        task.due = now + task.period
        try:
            task.act(now)
        except (SQLAlchemyError, OSError) as error:
            _LOG.warning("%s failed and is tried again: %s", task.name, describe_failure(error))


def describe_failure(error: Exception) -> str:
    """Says what failed, without the values of a statement, which may be UIDs."""
    if isinstance(error, SQLAlchemyError):
        cause = str(getattr(error, "orig", None) or type(error).__name__)
        return cause.splitlines()[0]
    return str(getattr(error, "strerror", None) or type(error).__name__)
