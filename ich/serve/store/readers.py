"""Processes that read: their signs of life, and the models that they have loaded."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, union, update

from ich.serve.states import StudyState
from ich.serve.store.tables import readers, studies


def add_reader(
    connection: Connection, identity: str, model: str, now: float, *, shadow: bool = False
) -> None:
    """Notes that a reader has loaded its model.

    Args:
        connection: An open transaction.
        identity: The reader.
        model: SHA-256 of the model's file.
        now: The time.
        shadow: Whether its results go to the log only.
    """
    row = readers.insert().values(identity=identity, model=model, shadow=shadow, beat_at=now)
    connection.execute(row)


def note_beat(connection: Connection, identity: str, now: float) -> None:
    """Notes a sign of life."""
    connection.execute(update(readers).where(readers.c.identity == identity).values(beat_at=now))


def list_ready(connection: Connection) -> dict[str, float]:
    """Lists the readers that have loaded their model, with the time of their last sign of life."""
    found = connection.execute(select(readers.c.identity, readers.c.beat_at))
    return {row.identity: row.beat_at for row in found}


def list_lost(connection: Connection, since: float) -> list[str]:
    """Lists the readers without a sign of life since a time, and those that hold a study but are unknown."""
    silent = select(readers.c.identity).where(readers.c.beat_at < since)
    known = select(readers.c.identity)
    unknown = select(studies.c.reader).where(
        studies.c.state == StudyState.READING, studies.c.reader.not_in(known)
    )
    return sorted(connection.execute(union(silent, unknown)).scalars())


def remove_reader(connection: Connection, identity: str) -> None:
    """Forgets a reader that has ended."""
    connection.execute(delete(readers).where(readers.c.identity == identity))
