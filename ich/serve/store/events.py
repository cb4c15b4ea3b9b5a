"""What happened: the audit log. An event names a study by its token and holds no patient attribute."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection

from ich.serve.store.tables import events


class EventKind(StrEnum):
    """Kinds of events."""

    STARTED = "started"  # a process
    ENDED = "ended"  # a process, with why
    REFUSED = "refused"  # an object or an association, with its status
    CONFLICT = "conflict"  # another content under a known UID
    SET_ASIDE = "set aside"  # a study, with its reason
    READ = "read"  # a study, with its outcome
    SHADOW = "shadow"  # a result of the shadow model
    MODEL = "model"  # the model was exchanged
    SENT = "sent"
    NOT_SENT = "not sent"
    CONFIRMED = "confirmed"
    LOGIN = "login"
    LOGIN_REFUSED = "login refused"
    LOGOUT = "logout"
    OPENED = "opened"  # an account looked at a study
    JUDGED = "judged"
    ACCOUNT = "account"  # an account was made or changed
    DELETED = "deleted"  # pixels, by retention
    ALARM = "alarm"  # drift or a stall


def add_event(
    connection: Connection, now: float, actor: str, kind: EventKind, *, study: str = "", detail: str = ""
) -> None:
    """Adds an event.

    Args:
        connection: An open transaction.
        now: The time.
        actor: The process, peer or account that did it.
        kind: What happened.
        study: Token of the study, if it is about one.
        detail: What else is to be known; it names no patient.
    """
    row = events.insert().values(at=now, actor=actor[:64], kind=kind, study=study, detail=detail)
    connection.execute(row)
