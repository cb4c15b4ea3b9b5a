"""Objects that were received, and the associations that bring them."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, case, exists, or_, select, update
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


# The statements that run for each object are made once: to make one costs more than to run it.
_FIND_OBJECT = select(objects.c.id, objects.c.digest).where(objects.c.SOPInstanceUID == bindparam("uid"))
_FIND_OBJECTS = select(objects.c.SOPInstanceUID).where(
    objects.c.SOPInstanceUID.in_(bindparam("uids", expanding=True))
)
_FIND_STUDIES = (
    select(studies.c.id, studies.c.StudyInstanceUID, studies.c.objects)
    .where(studies.c.StudyInstanceUID.in_(bindparam("uids", expanding=True)))
    .order_by(studies.c.id)  # two transactions lock them in the same order
    .with_for_update()
)
_ADD_STUDIES = studies.insert().returning(studies.c.id, studies.c.StudyInstanceUID)
# A reader keeps a study that it is reading, and finds the higher generation when it is done.
_TOUCH_STUDY = (
    update(studies)
    .where(studies.c.id == bindparam("study"))
    .values(
        objects=studies.c.objects + bindparam("count"),
        generation=studies.c.generation + bindparam("count"),
        first_at=case(
            (
                or_(studies.c.state == StudyState.READ, studies.c.state == StudyState.SET_ASIDE),
                bindparam("now"),
            ),
            else_=studies.c.first_at,
        ),
        last_at=bindparam("now"),
        state=case((studies.c.state == StudyState.READING, studies.c.state), else_=StudyState.RECEIVING),
        pixels_deleted=False,
    )
)
_ADD_OBJECT = objects.insert()
_ASSOCIATION, _STUDY = bindparam("association", type_=Integer), bindparam("study", type_=Integer)
_NOTE_ARRIVAL = arrivals.insert().from_select(
    ["association_id", "study_id"],
    select(_ASSOCIATION, _STUDY).where(
        ~exists().where(arrivals.c.association_id == _ASSOCIATION, arrivals.c.study_id == _STUDY)
    ),
)

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
        found = connection.execute(_FIND_OBJECT, {"uid": arrival.SOPInstanceUID}).first()
        if found is not None and found.digest == arrival.digest:
            return Added.KNOWN
        if found is not None:
            return _add_conflict(connection, found.id, arrival, now)
        try:
            is_new = bool(_add_new(connection, [arrival], now, most))
        except IntegrityError:
            tries -= 1
            if not tries:
                raise
        else:
            return Added.NEW if is_new else Added.TOO_MANY


def add_objects(
    connection: Connection, given: Sequence[Arrival], now: float, *, most: int | None = None
) -> list[Added]:
    """Adds several objects as ``add_object`` does, with few statements for all that are new.

    Args:
        connection: An open transaction.
        given: The objects.
        now: The time.
        most: Most objects of a study; None for any number.

    Returns:
        What became of each.

    Raises:
        IntegrityError: If the association of one is not in the database.
    """
    counts = Counter(arrival.SOPInstanceUID for arrival in given)
    known = set(connection.execute(_FIND_OBJECTS, {"uids": list(counts)}).scalars())
    alone = [each for each in given if counts[each.SOPInstanceUID] == 1 and each.SOPInstanceUID not in known]
    try:
        new = _add_new(connection, alone, now, most)
    except IntegrityError:  # another transaction added some at the same time
        new = set()
    return [
        Added.NEW if each.SOPInstanceUID in new else add_object(connection, each, now, most=most)
        for each in given
    ]


def _add_new(connection: Connection, given: Sequence[Arrival], now: float, most: int | None) -> set[str]:
    """Adds objects whose UIDs are not there; returns the UIDs of those whose study has room for them."""
    counts = Counter(arrival.StudyInstanceUID for arrival in given)
    found = {row.StudyInstanceUID: row for row in connection.execute(_FIND_STUDIES, {"uids": list(counts)})}
    if most is not None:
        before = {uid: found[uid].objects if uid in found else 0 for uid in counts}
        given = [
            each for each in given if before[each.StudyInstanceUID] + counts[each.StudyInstanceUID] <= most
        ]
    if not given:
        return set()
    with connection.begin_nested():
        numbers = _touch_studies(connection, given, {uid: row.id for uid, row in found.items()}, now)
        rows = [_to_row(arrival, numbers[arrival.StudyInstanceUID], now) for arrival in given]
        connection.execute(_ADD_OBJECT, rows)
        brought = {
            (row["association_id"], row["study_id"]) for row in rows if row["association_id"] is not None
        }
        if brought:
            connection.execute(
                _NOTE_ARRIVAL, [{"association": one, "study": other} for one, other in brought]
            )
    return {arrival.SOPInstanceUID for arrival in given}


def _touch_studies(
    connection: Connection, given: Sequence[Arrival], numbers: Mapping[str, int], now: float
) -> dict[str, int]:
    """Makes or changes the rows of the studies of new objects; returns their numbers.

    Args:
        connection: An open transaction.
        given: The objects.
        numbers: Numbers of the studies that are there, by UID.
        now: The time.
    """
    counts = Counter(arrival.StudyInstanceUID for arrival in given)
    touched = [
        {"study": number, "count": counts[uid], "now": now}
        for uid, number in numbers.items()
        if uid in counts
    ]
    if touched:
        connection.execute(_TOUCH_STUDY, touched)
    rows = [
        {
            "token": secrets.token_hex(16),
            "StudyInstanceUID": uid,
            "state": StudyState.RECEIVING,
            "objects": count,
            "first_at": now,
            "last_at": now,
        }
        for uid, count in counts.items()
        if uid not in numbers
    ]
    made = connection.execute(_ADD_STUDIES, rows).all() if rows else ()
    return {**numbers, **{row.StudyInstanceUID: row.id for row in made}}


def _to_row(arrival: Arrival, study: int, now: float) -> dict[str, Any]:
    return {
        "study_id": study,
        "SOPInstanceUID": arrival.SOPInstanceUID,
        "SeriesInstanceUID": arrival.SeriesInstanceUID,
        "SOPClassUID": arrival.SOPClassUID,
        "syntax": arrival.syntax,
        "digest": arrival.digest,
        "path": arrival.path,
        "bytes": arrival.bytes,
        "received_at": now,
        "association_id": arrival.association,
    }


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
