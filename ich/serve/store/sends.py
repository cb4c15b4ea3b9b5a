"""Answers to nodes: which are due, who delivers them, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, func, or_, select, update

from ich.schema.results import Outcome
from ich.serve.settings.parts import Node
from ich.serve.states import SendState
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.tables import readings, sends, studies

LEASE_SECONDS = 900.0
"""A sender that has not said anything of a send for so long has lost it. It is longer than any delivery."""

FIRST_RETRY_SECONDS = 5.0
"""Time from the first failed attempt to the next one; each further one doubles it."""

LONGEST_RETRY_SECONDS = 300.0
"""The time between two attempts never grows beyond it."""

_LONGEST_ERROR = 200  # characters
_OPEN = (SendState.WAITING, SendState.SUPERSEDED)  # a sender may hold a send of these states


@dataclass(frozen=True)
class Send:
    """An answer on its way to a node.

    Attributes:
        id: Its number in the database.
        attempts: Number of the attempt. What an earlier attempt says of the send no longer counts.
        node: Name of the node.
        reading: Number of the reading.
        study: Token of the study.
        folder: Folder of the reading's files, below that of the results.
        created_at: When it was queued.
    """

    id: int
    attempts: int
    node: str
    reading: int
    study: str
    folder: str
    created_at: float


@dataclass(frozen=True)
class Unconfirmed:
    """A send that a node took, without saying yet that it keeps it.

    Attributes:
        study: Token of the study.
        node: Name of the node.
        sent_at: When the node took it.
        next_at: When it is sent again.
    """

    study: str
    node: str
    sent_at: float
    next_at: float


def queue_sends(connection: Connection, nodes: Sequence[Node], reading: int, outcome: str, now: float) -> int:
    """Queues a new reading for the nodes that want its outcome; returns for how many.

    A node that may have an older answer on the study gets the new one too, whatever outcomes it wants. The
    older answer would otherwise stand there uncorrected. Older answers that still wait are superseded. A
    study that could not be read has no outcome, and then nothing changes.

    Args:
        connection: An open transaction.
        nodes: All nodes.
        reading: Number of the reading.
        outcome: Its outcome; empty if the study could not be read.
        now: The time.
    """
    if not outcome:
        return 0
    study = connection.execute(select(readings.c.study_id).where(readings.c.id == reading)).scalar_one()
    older = select(readings.c.id).where(readings.c.study_id == study, readings.c.id < reading)
    connection.execute(
        update(sends)
        .where(sends.c.reading_id.in_(older), sends.c.state == SendState.WAITING)
        .values(state=SendState.SUPERSEDED)
    )
    told = set(
        connection.execute(
            select(sends.c.node).where(sends.c.reading_id.in_(older), sends.c.attempts > 0)
        ).scalars()
    )
    wanted = [node.name for node in nodes if outcome in node.outcomes or node.name in told]
    for name in wanted:
        connection.execute(
            sends.insert().values(
                reading_id=reading, node=name, state=SendState.WAITING, next_at=now, created_at=now
            )
        )
    return len(wanted)


def claim_send(connection: Connection, node: str, sender: str, now: float) -> Send | None:
    """Takes the next send to a node that is due: a POSITIVE one first, then the oldest.

    Two answers on a study are never on their way to a node at once, so that the newer one arrives last.

    Args:
        connection: An open transaction.
        node: Name of the node.
        sender: The process.
        now: The time.
    """
    due = and_(sends.c.node == node, sends.c.state == SendState.WAITING, sends.c.next_at <= now)
    row = connection.execute(
        _select_sends()
        .where(due, ~_has_other_on_its_way(now))
        .order_by(case((readings.c.outcome == Outcome.POSITIVE, 0), else_=1), sends.c.created_at, sends.c.id)
        .limit(1)
        .with_for_update(of=sends, skip_locked=True)
    ).first()
    if row is None:
        return None
    attempts = row.attempts + 1
    connection.execute(
        update(sends)
        .where(sends.c.id == row.id)
        .values(sender=sender, attempts=attempts, next_at=now + LEASE_SECONDS)
    )
    return _make_send(row, attempts)


def fail_unconfirmed(
    connection: Connection, node: str, actor: str, now: float, *, give_up_hours: float | None = None
) -> int:
    """Counts it as a failed attempt if a node took a send and did not confirm it in time.

    Args:
        connection: An open transaction.
        node: Name of the node.
        actor: The process.
        now: The time.
        give_up_hours: As in ``note_failed_attempt``.

    Returns:
        How many sends.
    """
    overdue = and_(sends.c.node == node, sends.c.state == SendState.SENT, sends.c.next_at <= now)
    rows = connection.execute(_select_sends().where(overdue)).all()
    for row in rows:
        send, error = _make_send(row, row.attempts), "the node did not confirm it in time"
        note_failed_attempt(connection, send, actor, now, error, give_up_hours=give_up_hours)
    return len(rows)


def release_sender(connection: Connection, sender: str | None, now: float) -> int:
    """Makes the sends due that an ended process had taken, or any process if None; returns how many."""
    state = case((sends.c.state == SendState.SENT, SendState.WAITING), else_=sends.c.state)
    is_held = sends.c.sender != "" if sender is None else sends.c.sender == sender
    held = update(sends).where(is_held).values(state=state, sender="", next_at=now)
    return int(connection.execute(held).rowcount)


def note_sent(
    connection: Connection, send: Send, actor: str, now: float, *, transaction_uid: str = ""
) -> bool:
    """Notes that the node took all objects of a send.

    Args:
        connection: An open transaction.
        send: The send.
        actor: The process.
        now: The time.
        transaction_uid: Names the commitment that the node is asked for next.

    Returns:
        Whether this attempt still counted.
    """
    changed = connection.execute(
        update(sends)
        .where(_is_attempt(send), sends.c.state.in_(_OPEN))
        .values(
            state=SendState.SENT,
            sent_at=now,
            transaction_uid=transaction_uid,
            next_at=now + LEASE_SECONDS,
            error="",
        )
    )
    return _tell(connection, changed.rowcount, send, actor, now, EventKind.SENT)


def note_asked(connection: Connection, send: Send, until: float) -> None:
    """Notes that the node was asked for its commitment, and when the send is due again without an answer."""
    connection.execute(
        update(sends)
        .where(_is_attempt(send), sends.c.state == SendState.SENT)
        .values(sender="", next_at=until)
    )


def note_confirmed(connection: Connection, send: Send, actor: str, now: float) -> bool:
    """Notes that the node keeps all objects of a send; returns whether this was news."""
    changed = connection.execute(
        update(sends)
        .where(_is_attempt(send), sends.c.state.in_((*_OPEN, SendState.SENT)))
        .values(
            state=SendState.CONFIRMED,
            confirmed_at=now,
            sent_at=func.coalesce(sends.c.sent_at, now),
            sender="",
            error="",
        )
    )
    return _tell(connection, changed.rowcount, send, actor, now, EventKind.CONFIRMED)


def note_failed_attempt(
    connection: Connection,
    send: Send,
    actor: str,
    now: float,
    error: str,
    *,
    give_up_hours: float | None = None,
    for_good: bool = False,
) -> SendState | None:
    """Notes that an attempt failed, and when the next one is due.

    The time to the next attempt doubles up to ``LONGEST_RETRY_SECONDS``. Only an error unlike the one before
    becomes an event, so that a node that is away does not fill the audit log.

    Args:
        connection: An open transaction.
        send: The send.
        actor: The process.
        now: The time.
        error: Why it failed; it names no patient.
        give_up_hours: The send is given up so many hours after it was queued; None for never.
        for_good: Whether another attempt is of no use.

    Returns:
        The new state; None if this attempt no longer counted.
    """
    row = connection.execute(
        select(sends.c.state, sends.c.error, _has_newer().label("has_newer"))
        .where(_is_attempt(send), or_(sends.c.state == SendState.SENT, sends.c.sender != ""))
        .with_for_update(of=sends)
    ).first()
    if row is None:
        return None
    state = SendState.WAITING
    if row.has_newer or row.state == SendState.SUPERSEDED:
        state = SendState.SUPERSEDED
    elif for_good or (give_up_hours is not None and now >= send.created_at + 3600 * give_up_hours):
        state = SendState.FAILED
    error = error[:_LONGEST_ERROR]
    connection.execute(
        update(sends)
        .where(sends.c.id == send.id)
        .values(state=state, sender="", error=error, next_at=now + _compute_delay(send.attempts))
    )
    if state == SendState.FAILED or error != row.error:
        detail = f"{send.node}: {error}" + ("; given up" if state == SendState.FAILED else "")
        add_event(connection, now, actor, EventKind.NOT_SENT, study=send.study, detail=detail)
    return state


def find_transaction(connection: Connection, transaction_uid: str) -> Send | None:
    """Finds the send whose commitment has a TransactionUID."""
    if not transaction_uid:
        return None
    row = connection.execute(_select_sends().where(sends.c.transaction_uid == transaction_uid)).first()
    return None if row is None else _make_send(row, row.attempts)


def list_unconfirmed(connection: Connection) -> list[Unconfirmed]:
    """Lists the sends that wait for a confirmation, the oldest first."""
    rows = connection.execute(
        select(studies.c.token, sends.c.node, sends.c.sent_at, sends.c.next_at)
        .select_from(sends.join(readings).join(studies))
        .where(sends.c.state == SendState.SENT)
        .order_by(sends.c.sent_at, sends.c.id)
    )
    return [Unconfirmed(*row) for row in rows]


def _compute_delay(attempts: int) -> float:
    """Computes the seconds to the next attempt after so many failed ones."""
    return float(min(FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 30), LONGEST_RETRY_SECONDS))


def _select_sends() -> Any:
    columns = (sends.c.id, sends.c.attempts, sends.c.node, sends.c.created_at)
    of_reading = (sends.c.reading_id, readings.c.folder, studies.c.token)
    return select(*columns, *of_reading).select_from(sends.join(readings).join(studies))


def _make_send(row: Row[Any], attempts: int) -> Send:
    return Send(row.id, attempts, row.node, row.reading_id, row.token, row.folder, row.created_at)


def _is_attempt(send: Send) -> Any:
    return and_(sends.c.id == send.id, sends.c.attempts == send.attempts)


def _tell(connection: Connection, changed: int, send: Send, actor: str, now: float, kind: EventKind) -> bool:
    if changed:
        add_event(connection, now, actor, kind, study=send.study, detail=send.node)
    return bool(changed)


def _has_newer() -> Any:
    """Whether the node has a send of a newer reading of the same study."""
    own, newer, other = readings.alias(), readings.alias(), sends.alias()
    return exists(
        select(other.c.id)
        .select_from(
            other.join(newer, newer.c.id == other.c.reading_id).join(own, own.c.study_id == newer.c.study_id)
        )
        .where(own.c.id == sends.c.reading_id, other.c.node == sends.c.node, newer.c.id > own.c.id)
        .correlate(sends)
    )


def _has_other_on_its_way(now: float) -> Any:
    """Whether a process delivers another answer on the same study to the node at this moment."""
    other, theirs = sends.alias(), readings.alias()
    return exists(
        select(other.c.id)
        .select_from(other.join(theirs, theirs.c.id == other.c.reading_id))
        .where(
            theirs.c.study_id == readings.c.study_id,
            other.c.node == sends.c.node,
            other.c.id != sends.c.id,
            other.c.sender != "",
            other.c.next_at > now,
        )
        .correlate(sends, readings)
    )
