"""Alarms: each begins once and ends once, however often it is looked for, and by however many processes."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, or_, select, update
from sqlalchemy.exc import IntegrityError

from ich.serve.store.events import EventKind, add_event
from ich.serve.store.tables import alarms


@dataclass(frozen=True)
class Notice:
    """That an alarm began or ended, for people who wait to hear it.

    Attributes:
        alarm: Number of the alarm.
        name: Its name.
        detail: What was found when it began.
        began_at: When it began.
        ended_at: When it ended; None if the notice says that it began.
    """

    alarm: int
    name: str
    detail: str
    began_at: float
    ended_at: float | None

    @property
    def state(self) -> str:
        """What the alarm did."""
        return "began" if self.ended_at is None else "ended"


def begin_alarm(connection: Connection, now: float, actor: str, name: str, detail: str) -> bool:
    """Begins an alarm, with an event; returns False if it had begun already."""
    last = connection.execute(
        select(alarms.c.number, alarms.c.ended_at)
        .where(alarms.c.name == name)
        .order_by(alarms.c.number.desc())
        .limit(1)
    ).first()
    if last is not None and last.ended_at is None:
        return False
    row = {"name": name, "number": last.number + 1 if last else 1, "detail": detail, "began_at": now}
    try:
        with connection.begin_nested():
            connection.execute(alarms.insert().values(row))
    except IntegrityError:  # another process began it
        return False
    add_event(connection, now, actor, EventKind.ALARM, detail=f"began: {name}: {detail}")
    return True


def end_alarm(connection: Connection, now: float, actor: str, name: str) -> bool:
    """Ends an alarm, with an event; returns False if it is not there."""
    active = (alarms.c.name == name) & alarms.c.ended_at.is_(None)
    if not connection.execute(update(alarms).where(active).values(ended_at=now)).rowcount:
        return False
    add_event(connection, now, actor, EventKind.ALARM, detail=f"ended: {name}")
    return True


def list_active(connection: Connection) -> list[str]:
    """Lists the names of the alarms that began and did not end."""
    query = select(alarms.c.name).where(alarms.c.ended_at.is_(None)).order_by(alarms.c.name)
    return list(connection.execute(query).scalars())


def list_notices(connection: Connection) -> list[Notice]:
    """Lists what was not posted yet, the oldest first."""
    fresh = or_(
        alarms.c.began_posted.is_(False), alarms.c.ended_at.is_not(None) & alarms.c.ended_posted.is_(False)
    )
    found = []
    for row in connection.execute(select(alarms).where(fresh).order_by(alarms.c.id)):
        if not row.began_posted:
            found.append(Notice(row.id, row.name, row.detail, row.began_at, None))
        if row.ended_at is not None:
            found.append(Notice(row.id, row.name, row.detail, row.began_at, row.ended_at))
    return found


def mark_posted(connection: Connection, notice: Notice) -> None:
    """Notes that a notice was posted."""
    posted = {"began_posted": True} if notice.ended_at is None else {"ended_posted": True}
    connection.execute(update(alarms).where(alarms.c.id == notice.alarm).values(posted))
