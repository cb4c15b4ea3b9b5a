"""The process that watches: each of its tasks has a period, and all share one clock."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ich.schema import UserError
from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.stopping import Stop, stop_on
from ich.serve.store import Store, open_store
from ich.serve.store.studies import queue_complete
from ich.serve.upkeep.alarms import post_notices, settle_alarms
from ich.serve.upkeep.audit import move_events
from ich.serve.upkeep.drift import BEGINS, ENDS
from ich.serve.upkeep.references import BundleReference, measure_drift
from ich.serve.upkeep.retention import DAY, delete_pixels, remove_stray
from ich.serve.upkeep.stalls import Finding, find_full_disk, find_stopped, find_stuck

_LOG = logging.getLogger(__name__)

TICK = 1.0
"""Seconds between two looks at the tasks that are due."""

MINUTE = 60.0


@dataclass
class Task:
    """Something that is done again and again.

    Attributes:
        name: Its name in logs.
        period: Seconds from one time to the next.
        act: Does it at a time.
        due: When it is done next.
        delay: Seconds from the start of the process to the first time.
    """

    name: str
    period: float
    act: Callable[[float], object]
    due: float = 0.0
    delay: float = 0.0


def work(settings: Settings, identity: str) -> None:
    """Does the tasks until SIGTERM or SIGINT.

    The queue has a thread of its own, so that no slow disk or address holds it up.

    Args:
        settings: The settings of the service.
        identity: Name of this process in the audit log.

    Raises:
        UserError: If the database cannot be opened.
    """
    stopped = stop_on(signal.SIGTERM, signal.SIGINT)
    store = open_store(settings.store)
    try:
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(_repeat, list_slow_tasks(settings, store, identity, time.time()), stopped)
            try:
                _repeat([make_queue_task(settings, store)], stopped)
            finally:
                stopped.set()
            slow.result()
    finally:
        store.close()


def _repeat(tasks: Sequence[Task], stopped: Stop) -> None:
    try:
        while not stopped.is_set():
            do_due(tasks, time.time())
            stopped.wait(TICK)
    finally:
        stopped.set()  # an unexpected error ends the process, and the supervisor starts another one


def make_queue_task(settings: Settings, store: Store) -> Task:
    """Makes the task that queues what is complete.

    Args:
        settings: The settings of the service.
        store: The database.
    """

    def queue(now: float) -> None:
        complete = settings.complete
        with store.begin() as connection:
            queue_complete(connection, now, quiet=complete.quiet_seconds, longest=complete.longest_seconds)

    return Task("the queue", TICK, queue)


def list_slow_tasks(settings: Settings, store: Store, identity: str, now: float) -> list[Task]:
    """Lists the other tasks.

    Args:
        settings: The settings of the service.
        store: The database.
        identity: Name of this process in the audit log.
        now: When the process begins. Stalls are looked for later, because after a start all studies have
            waited for long.
    """
    inbox, bundle = Inbox(settings.inbox), BundleReference(Path(settings.bundle))

    def watch_disk(now: float) -> None:
        found = find_full_disk(settings, inbox.measure_free_bytes())
        with store.begin() as connection:
            settle_alarms(connection, now, identity, "disk", found)

    def watch_stalls(now: float) -> None:
        with store.view() as connection:
            found = [*find_stopped(connection, settings, now), *find_stuck(connection, settings, now)]
        with store.begin() as connection:
            settle_alarms(connection, now, identity, "stall", found)

    def watch_drift(now: float) -> None:
        with store.view() as connection:
            measures = measure_drift(connection, bundle, settings.upkeep.alarm_studies)
        found = [Finding(each.name, each.detail) for each in measures if each.p_value < BEGINS]
        kept = [each.name for each in measures if each.p_value <= ENDS]
        with store.begin() as connection:
            settle_alarms(connection, now, identity, "drift", found, kept)

    stall = MINUTE * settings.upkeep.stall_minutes
    tasks = [
        Task("the look at the disk", MINUTE, watch_disk),
        Task("the look for stalls", MINUTE, watch_stalls, now + stall, stall),
        Task("the look for drift", 10 * MINUTE, watch_drift),
    ]
    tasks += _list_cleaning_tasks(settings, store, inbox, identity)
    if (url := settings.upkeep.alarm_url) is not None:

        def post(now: float) -> None:
            post_notices(store, settings.upkeep, url, now)

        tasks.append(Task("posting alarms", MINUTE, post))
    return tasks


def _list_cleaning_tasks(settings: Settings, store: Store, inbox: Inbox, identity: str) -> list[Task]:
    def keep_to_days(now: float) -> None:
        if (days := settings.upkeep.keep_days) is not None:
            delete_pixels(store, inbox, now - DAY * days, now, identity)

    def clean(now: float) -> None:
        remove_stray(store, inbox, now)
        move_events(store, settings.audit, now - DAY * settings.upkeep.log_days)

    return [Task("retention", 10 * MINUTE, keep_to_days), Task("the daily cleaning", DAY, clean)]


def do_due(tasks: Sequence[Task], now: float) -> None:
    """Does the tasks that are due. One that fails because of the disk or the database is tried again.

    A clock that was set back does not stop a task for longer than its period, or its delay if that is longer.
    """
    for task in tasks:
        if task.due > now + max(task.period, task.delay):
            task.due = now
        if task.due > now:
            continue
        task.due = now + task.period
        try:
            task.act(now)
        except (SQLAlchemyError, OSError, UserError) as error:
            _LOG.warning("%s failed and is tried again: %s", task.name, describe_failure(error))


def describe_failure(error: Exception) -> str:
    """Says what failed, without the values of a statement, which may be UIDs, and without a file's name."""
    if isinstance(error, SQLAlchemyError):
        cause = str(getattr(error, "orig", None) or type(error).__name__)
        return cause.splitlines()[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
