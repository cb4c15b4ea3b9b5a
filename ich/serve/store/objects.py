"""Objects that were received, and the associations that bring them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from ich.serve.states import StudyState
from ich.serve.store.tables import arrivals, associations, conflicts, objects, studies


@dataclass(frozen=True)
class Arrival:
    """An object that lies on the disk.

    Attributes:
        StudyInstanceUID: Its study.
        SeriesInstanceUID: Its series.
        SOPInstanceUID: Its own UID.
        SOPClassUID: Its storage class.
        syntax: UID of its transfer syntax.
        digest: SHA-256 of its data set.
        path: Its file, below the folder of the inbox.
        bytes: Size of the file.
        association: The association that brought it; None for none.
    """

    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str
    syntax: str
    digest: str
    path: str
    bytes: int
    association: int | None = None


MOST_CONFLICTS = 8
"""Contents that are set aside under one UID; more are a fault of the sender."""


class Added(Enum):
    """What became of an object."""

    NEW = auto()
    KNOWN = auto()  # the same content was there
    CONFLICT = auto()  # another content has its UID; it is set aside
    TOO_MANY = auto()  # its study, or the contents of its UID, are as many as are allowed; nothing changed


def open_association(connection: Connection, receiver: str, peer: str, now: float) -> int:
    """Notes that an association began; returns its number.

    Args:
        connection: An open transaction.
        receiver: The way in and the process, such as ``dimse/NAME``.
        peer: Who brings: an AE title, an address or a folder's number.
        now: The time.
    """
    row = associations.insert().values(receiver=receiver, peer=peer[:64], opened_at=now)
    return int(connection.execute(row.returning(associations.c.id)).scalar_one())


def close_association(connection: Connection, number: int, now: float) -> None:
    """Notes that an association ended."""
    connection.execute(update(associations).where(associations.c.id == number).values(closed_at=now))


def close_stale_associations(connection: Connection, receiver: str, now: float) -> int:
    """Closes what earlier processes left open; returns how many.

    Args:
        connection: An open transaction.
        receiver: The way in and the process that runs now, such as ``dimse/NAME``; other ways stay open.
        now: The time.
    """
    way = receiver.partition("/")[0]
    stale = (
        associations.c.closed_at.is_(None)
        & (associations.c.receiver != receiver)
        & associations.c.receiver.startswith(f"{way}/", autoescape=True)
    )
    return int(connection.execute(update(associations).where(stale).values(closed_at=now)).rowcount)


def count_objects(connection: Connection, study_uid: str) -> int:
    """Returns how many objects of a study are there."""
    query = select(studies.c.objects).where(studies.c.StudyInstanceUID == study_uid)
    return int(connection.execute(query).scalar() or 0)


def find_token(connection: Connection, uid: str) -> str:
    """Returns the token of the study that has an object."""
    query = select(studies.c.token).join(objects).where(objects.c.SOPInstanceUID == uid)
    return str(connection.execute(query).scalar_one())


def is_named(connection: Connection, arrival: Arrival) -> bool:
    """Returns whether a row names the file of an arrival."""
    own = objects.c.SOPInstanceUID == arrival.SOPInstanceUID
    first = select(objects.c.path).where(own)
    others = select(conflicts.c.path).join(objects).where(own)
    return arrival.path in connection.execute(first.union(others)).scalars().all()


def add_object(connection: Connection, arrival: Arrival, now: float, *, most: int | None = None) -> Added:
    """Adds an object whose file is on the disk already. Its study is then received again.

    The same object twice changes nothing. An object with the UID of another content is kept apart, and the
    first one stays.

    Args:
        connection: An open transaction.
        arrival: The object.
        now: The time.
        most: Most objects of a study; None for any number.

    Raises:
        IntegrityError: If its association is not in the database.
    """
    tries = 3  # another transaction may add the object, or the first one of its study, at the same time
    while True:
        found = connection.execute(
            select(objects.c.id, objects.c.digest).where(objects.c.SOPInstanceUID == arrival.SOPInstanceUID)
        ).first()
        if found is not None and found.digest == arrival.digest:
            return Added.KNOWN
        if found is not None:
            return _add_conflict(connection, found.id, arrival, now)
        if most is not None and count_objects(connection, arrival.StudyInstanceUID) >= most:
            return Added.TOO_MANY
        try:
            with connection.begin_nested():
                _add_new(connection, arrival, now)
        except IntegrityError:
            tries -= 1
            if not tries:
                raise
        else:
            return Added.NEW


def _add_new(connection: Connection, arrival: Arrival, now: float) -> None:
    study = _touch_study(connection, arrival.StudyInstanceUID, now)
    connection.execute(
        objects.insert().values(
            study_id=study,
            SOPInstanceUID=arrival.SOPInstanceUID,
            SeriesInstanceUID=arrival.SeriesInstanceUID,
            SOPClassUID=arrival.SOPClassUID,
            syntax=arrival.syntax,
            digest=arrival.digest,
            path=arrival.path,
            bytes=arrival.bytes,
            received_at=now,
            association_id=arrival.association,
        )
    )
    if arrival.association is not None:
        _note_arrival(connection, arrival.association, study)


def _add_conflict(connection: Connection, number: int, arrival: Arrival, now: float) -> Added:
    query = select(conflicts.c.digest).where(conflicts.c.object_id == number)
    known = connection.execute(query).scalars().all()
    if arrival.digest in known:
        return Added.CONFLICT
    if len(known) == MOST_CONFLICTS:
        return Added.TOO_MANY
    row = {"object_id": number, "digest": arrival.digest, "path": arrival.path, "received_at": now}
    with suppress(IntegrityError), connection.begin_nested():  # it may come twice at the same time
        connection.execute(conflicts.insert().values(row))
    return Added.CONFLICT


def _touch_study(connection: Connection, uid: str, now: float) -> int:
    """Makes or changes the row of a study for one more object; returns its number.

    A reader keeps a study that it is reading, and finds the higher generation when it is done.
    """
    found = connection.execute(
        select(studies.c.id, studies.c.state).where(studies.c.StudyInstanceUID == uid).with_for_update()
    ).first()
    if found is None:
        row = studies.insert().values(
            token=secrets.token_hex(16),
            StudyInstanceUID=uid,
            state=StudyState.RECEIVING,
            objects=1,
            first_at=now,
            last_at=now,
        )
        return int(connection.execute(row.returning(studies.c.id)).scalar_one())
    changed = {
        "objects": studies.c.objects + 1,
        "generation": studies.c.generation + 1,
        "last_at": now,
        "pixels_deleted": False,
    }
    if found.state in (StudyState.READ, StudyState.SET_ASIDE):
        changed["first_at"] = now
    if found.state != StudyState.READING:
        changed["state"] = StudyState.RECEIVING
    connection.execute(update(studies).where(studies.c.id == found.id).values(changed))
    return int(found.id)


def _note_arrival(connection: Connection, association: int, study: int) -> None:
    known = select(func.count()).where(arrivals.c.association_id == association, arrivals.c.study_id == study)
    if not connection.execute(known).scalar_one():
        connection.execute(arrivals.insert().values(association_id=association, study_id=study))
