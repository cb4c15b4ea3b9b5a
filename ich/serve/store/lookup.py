"""One study with its objects, its readings and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from ich.serve.states import SendState, StudyState
from ich.serve.store.tables import objects, readings, sends, studies


@dataclass(frozen=True)
class FoundStudy:
    """A study.

    Attributes:
        id: Its number in the database.
        token: Its name in addresses.
        StudyInstanceUID: Its UID.
        state: Where it is.
        reason: Why it was set aside.
        priority: Its priority.
        objects: How many objects it has.
        last_at: When its last object came.
        pixels_deleted: Whether retention has deleted its files.
    """

    id: int
    token: str
    StudyInstanceUID: str
    state: StudyState
    reason: str
    priority: int
    objects: int
    last_at: float
    pixels_deleted: bool


@dataclass(frozen=True)
class FoundReading:
    """A reading of a study.

    Attributes:
        id: Its number in the database.
        model: SHA-256 of the model's file.
        folder: Folder of its files, below that of the results.
        started_at: When it began.
        finished_at: When it ended.
        outcome: Its outcome; empty if the study could not be read.
    """

    id: int
    model: str
    folder: str
    started_at: float
    finished_at: float
    outcome: str


@dataclass(frozen=True)
class FoundSend:
    """An answer to a node.

    Attributes:
        reading: Number of the reading.
        node: Name of the node.
        state: Where the answer is.
        attempts: How often it was sent.
        created_at: When it was queued.
        sent_at: When the node took it.
        confirmed_at: When the node said that it keeps it.
        error: Why the last attempt failed.
    """

    reading: int
    node: str
    state: SendState
    attempts: int
    created_at: float
    sent_at: float | None
    confirmed_at: float | None
    error: str


def find_study(connection: Connection, token: str) -> FoundStudy | None:
    """Finds a study by its token."""
    row = connection.execute(select(studies).where(studies.c.token == token)).first()
    if row is None:
        return None
    return FoundStudy(
        row.id,
        row.token,
        row.StudyInstanceUID,
        StudyState(row.state),
        row.reason,
        row.priority,
        row.objects,
        row.last_at,
        row.pixels_deleted,
    )


def list_readings(connection: Connection, study: int) -> list[FoundReading]:
    """Lists the readings of a study, the newest first; those of a shadow model are not shown to anybody."""
    query = (
        select(readings)
        .where(readings.c.study_id == study, readings.c.shadow.is_(False))
        .order_by(readings.c.id.desc())
    )
    return [
        FoundReading(row.id, row.model, row.folder, row.started_at, row.finished_at, row.outcome)
        for row in connection.execute(query)
    ]


def list_sends(connection: Connection, numbers: Sequence[int]) -> list[FoundSend]:
    """Lists the answers of readings, the newest first."""
    query = select(sends).where(sends.c.reading_id.in_(numbers)).order_by(sends.c.id.desc())
    return [
        FoundSend(
            row.reading_id,
            row.node,
            SendState(row.state),
            row.attempts,
            row.created_at,
            row.sent_at,
            row.confirmed_at,
            row.error,
        )
        for row in connection.execute(query)
    ]


def find_object(connection: Connection, study: int, uid: str) -> tuple[str, str] | None:
    """Finds an object of a study; returns the path of its file in the inbox, and its digest."""
    query = select(objects.c.path, objects.c.digest).where(
        objects.c.study_id == study, objects.c.SOPInstanceUID == uid
    )
    row = connection.execute(query).first()
    return None if row is None else (row.path, row.digest)
