"""What does not move although it should: studies, answers, a scanner whose objects are refused, a disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ich.serve.settings import Settings
from ich.serve.states import SendState, StudyState
from ich.serve.store.studies import find_complete
from ich.serve.store.tables import associations, objects, readings, sends, studies
from ich.serve.upkeep.metrics import CONNECTION, HOUR, OTHER_PEERS, count_refusals

GIGABYTE = 10**9

LATE_SECONDS = 60.0
"""A study that is complete for so long and not in the queue shows that this process has stopped."""

MANY_REFUSALS = 10
"""A peer with so many refused objects in an hour, and none that was taken, needs a person."""


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


def find_stuck(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    """Finds answers that do not leave, and peers whose objects are all refused.

    Args:
        connection: An open transaction.
        settings: The settings of the service.
        now: The time.
    """
    return [*_find_not_sent(connection, settings, now), *_find_refused(connection, now)]


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
    return [Finding("disk.full", detail)]


def _find_not_queued(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    complete = settings.complete
    late = find_complete(now - LATE_SECONDS, quiet=complete.quiet_seconds, longest=complete.longest_seconds)
    count = connection.execute(select(func.count()).select_from(studies).where(late)).scalar_one()
    if not count:
        return []
    detail = f"{count} studies are complete for {LATE_SECONDS:g} seconds and not in the queue"
    return [Finding("stall.not_queued", detail)]


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
    return [Finding("stall.not_read", detail)]


def _find_not_sent(connection: Connection, settings: Settings, now: float) -> list[Finding]:
    hours = settings.upkeep.stall_send_hours
    late = (sends.c.state == SendState.WAITING) & (sends.c.created_at <= now - hours * HOUR)
    query = select(sends.c.node, func.count()).where(late).group_by(sends.c.node).order_by(sends.c.node)
    return [
        Finding(f"stall.not_sent.{node}", f"{count} answers wait for {node} for more than {hours:g} hours")
        for node, count in connection.execute(query)
    ]


def _find_refused(connection: Connection, now: float) -> list[Finding]:
    counts: Counter[str] = Counter()
    for (code, peer), count in count_refusals(connection, now - HOUR).items():
        if code != CONNECTION and peer != OTHER_PEERS:
            counts[peer] += count
    many = {peer: count for peer, count in counts.items() if count >= MANY_REFUSALS}
    query = (
        select(associations.c.peer)
        .join(objects, objects.c.association_id == associations.c.id)
        .where(objects.c.received_at > now - HOUR, associations.c.peer.in_(list(many)))
        .distinct()
    )
    taken = set(connection.execute(query).scalars()) if many else set()
    return [
        Finding(
            f"stall.refused.{peer}", f"all of the {count} objects that {peer} sent in an hour were refused"
        )
        for peer, count in sorted(many.items())
        if peer not in taken
    ]
