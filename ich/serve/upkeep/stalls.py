"""What does not move although it should: studies that are not queued or not read, and a full disk."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ich.serve.settings import Settings
from ich.serve.states import StudyState
from ich.serve.store.studies import find_complete
from ich.serve.store.tables import readings, studies

GIGABYTE = 10**9

LATE_SECONDS = 60.0
"""A study that is complete for so long and not in the queue shows that this process has stopped."""


@dataclass(frozen=True)
class Finding:
    """Something that needs a person.

    Attributes:
        name: Its name, which stays the same while it lasts.
        detail: What was found, with its value; it names no patient.
    """

    name: str
    detail: str


def find_stopped(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    """Finds what keeps studies from being read.

    Args:
        connection: An open transaction.
        settings: The settings of the service.
        now: The time.
    """
    return [*_find_not_queued(connection, settings, now), *_find_not_read(connection, settings, now)]


def find_full_disk(settings: Settings, free: int) -> list[Finding]:
    """Finds whether objects are refused because the disk is full.

    Args:
        settings: The settings of the service.
        free: Bytes that the disk of the inbox still takes.
    """
    least = settings.receive.least_free_gb
    if free >= least * GIGABYTE:
        return []
    detail = f"{free / GIGABYTE:.1f} GB are free, and objects are refused below {least:g} GB"
    return [Finding("disk full", detail)]


def _find_not_queued(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    complete = settings.complete
    late = find_complete(now - LATE_SECONDS, quiet=complete.quiet_seconds, longest=complete.longest_seconds)
    count = connection.execute(select(func.count()).select_from(studies).where(late)).scalar_one()
    if not count:
        return []
    detail = f"{count} studies are complete for {LATE_SECONDS:g} seconds and not in the queue"
    return [Finding("not queued", detail)]


def _find_not_read(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    """Finds a queue from which no reader took anything to its end for some time."""
    minutes = settings.upkeep.stall_minutes
    since = now - 60 * minutes
    waiting = connection.execute(
        select(func.count())
        .select_from(studies)
        .where(
            studies.c.state.in_([StudyState.QUEUED, StudyState.READING]),
            studies.c.last_at <= since - settings.complete.quiet_seconds,
        )
    ).scalar_one()
    newest = connection.execute(select(func.max(readings.c.finished_at))).scalar()
    if not waiting or (newest is not None and newest > since):
        return []
    detail = f"{waiting} studies wait, and none was read to its end for {minutes:g} minutes"
    return [Finding("not read", detail)]
