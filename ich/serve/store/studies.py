"""Studies from their first object to their reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, ScalarSelect, and_, func, or_, select, update

from ich.serve.states import StudyState
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.tables import arrivals, associations, attempts, objects, readings, studies


class Content(NamedTuple):
    """What a study holds at a time.

    Attributes:
        study: Its number in the database.
        StudyInstanceUID: Its UID.
        generation: Grows with what it receives.
        paths: Its files, below the folder of the inbox.
    """

    study: int
    StudyInstanceUID: str
    generation: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A study that a reader has taken.

    Attributes:
        study: Its number in the database.
        token: Its name in logs.
        StudyInstanceUID: Its UID.
        generation: Its generation when it was taken.
        reader: The reader.
        number: Number of the attempt to read it, which no other attempt has.
        paths: Its files, below the folder of the inbox.
        kills: Number of readers that it may have ended.
    """

    study: int
    token: str
    StudyInstanceUID: str
    generation: int
    reader: str
    number: int
    paths: tuple[str, ...]
    kills: int

    @property
    def content(self) -> Content:
        """What the study held when it was taken."""
        return Content(self.study, self.StudyInstanceUID, self.generation, self.paths)


@dataclass(frozen=True)
class Reading:
    """A finished reading.

    Attributes:
        model: SHA-256 of the model's file.
        number: Number of the study in its result.
        folder: Folder of its files, below that of the results.
        started_at: When it began.
        outcome: POSITIVE, NEGATIVE, INDETERMINATE; empty if the study could not be read.
        prob: Probability of the label that decides.
        distance: Distance from the training data.
        shadow: Whether a shadow model made it.
        distance_limit: The distance above which a study is out of distribution.
    """

    model: str
    number: int
    folder: str
    started_at: float
    outcome: str
    prob: float | None
    distance: float | None
    shadow: bool = False
    distance_limit: float | None = None


def find_complete(now: float, *, quiet: float, longest: float) -> ColumnElement[bool]:
    """Returns the condition that a study was complete at a time and is not in the queue.

    A study is complete when nothing came for ``quiet`` seconds, or ``longest`` seconds after its first
    object, and no association that brought some of it was open.
    """
    bringing = (
        select(arrivals.c.study_id)
        .join(associations, associations.c.id == arrivals.c.association_id)
        .where(or_(associations.c.closed_at.is_(None), associations.c.closed_at > now))
    )
    return and_(
        studies.c.state == StudyState.RECEIVING,
        or_(studies.c.last_at <= now - quiet, studies.c.first_at <= now - longest),
        studies.c.id.not_in(bringing),
    )


def queue_complete(connection: Connection, now: float, *, quiet: float, longest: float) -> int:
    """Queues the studies that are complete, see ``find_complete``; returns how many."""
    complete = find_complete(now, quiet=quiet, longest=longest)
    queued = update(studies).where(complete).values(state=StudyState.QUEUED, kills=0)
    return int(connection.execute(queued).rowcount)


def list_unranked(connection: Connection) -> dict[int, str]:
    """Lists the queued studies whose priority nobody looked up yet, each with the path of its first file."""
    first = (
        select(func.min(objects.c.id).label("id"))
        .join(studies, studies.c.id == objects.c.study_id)
        .where(studies.c.state == StudyState.QUEUED, studies.c.ranked.is_(False))
        .group_by(objects.c.study_id)
        .subquery()
    )
    query = select(objects.c.study_id.label("id"), objects.c.path).join(first, first.c.id == objects.c.id)
    return {row.id: row.path for row in connection.execute(query)}


def set_priority(connection: Connection, study: int, priority: int) -> None:
    """Sets the priority of a study; a higher one is read first."""
    changed = update(studies).where(studies.c.id == study).values(priority=priority, ranked=True)
    connection.execute(changed)


def has_queued(connection: Connection) -> bool:
    """Whether a study waits for a reader."""
    query = select(studies.c.id).where(studies.c.state == StudyState.QUEUED).limit(1)
    return connection.execute(query).first() is not None


_NEXT = (
    select(studies)
    .where(studies.c.state == StudyState.QUEUED)
    .order_by(studies.c.priority.desc(), studies.c.kills, studies.c.first_at, studies.c.id)
    .limit(1)
)


def find_next(connection: Connection) -> Content | None:
    """Finds what ``claim_study`` would take now, and leaves it in the queue.

    None if the queue is empty, or if that study may have ended a reader.
    """
    row = connection.execute(_NEXT).first()
    if row is None or row.kills:
        return None
    return Content(row.id, row.StudyInstanceUID, row.generation, _list_paths(connection, row.id))


def _list_paths(connection: Connection, study: int) -> tuple[str, ...]:
    query = select(objects.c.path).where(objects.c.study_id == study).order_by(objects.c.id)
    return tuple(connection.execute(query).scalars())


def claim_study(connection: Connection, reader: str, now: float) -> Claim | None:
    """Takes the next study for a reader: the highest priority first, then the one that waits longest.

    A study that ended a reader waits until the others of its priority are read.
    """
    row = connection.execute(_NEXT.with_for_update(skip_locked=True)).first()
    if row is None:
        return None
    connection.execute(
        update(studies)
        .where(studies.c.id == row.id)
        .values(state=StudyState.READING, reader=reader, claimed_generation=row.generation)
    )
    return begin_attempt(connection, row, reader, now)


def begin_attempt(connection: Connection, study: Row[Any], reader: str, now: float) -> Claim:
    """Notes that a reader begins to read a study, whose row is given."""
    attempt = attempts.insert().values(study_id=study.id, reader=reader, started_at=now)
    number = connection.execute(attempt.returning(attempts.c.id)).scalar_one()
    return Claim(
        study=study.id,
        token=study.token,
        StudyInstanceUID=study.StudyInstanceUID,
        generation=study.generation,
        reader=reader,
        number=int(number),
        paths=_list_paths(connection, study.id),
        kills=study.kills,
    )


def release_reader(
    connection: Connection, reader: str, now: float, *, most_kills: int, is_blamed: bool = True
) -> int:
    """Gives back what a reader that ended was reading; returns how many studies.

    Args:
        connection: An open transaction.
        reader: The reader.
        now: The time.
        most_kills: A study that ended as many readers is set aside.
        is_blamed: Whether the study may have ended the reader.
    """
    own = and_(studies.c.state == StudyState.READING, studies.c.reader == reader)
    given = connection.execute(
        update(studies)
        .where(own)
        .values(state=StudyState.QUEUED, reader="", kills=studies.c.kills + int(is_blamed))
        .returning(studies.c.id)
    ).scalars()
    numbers = list(given)
    reason = f"it ended {most_kills} readers"
    aside = connection.execute(
        update(studies)
        .where(studies.c.id.in_(numbers), studies.c.kills >= most_kills)
        .values(state=StudyState.SET_ASIDE, reason=reason)
        .returning(studies.c.token)
    ).scalars()
    for token in list(aside):
        add_event(connection, now, reader, EventKind.SET_ASIDE, study=token, detail=reason)
    return len(numbers)


def finish_study(connection: Connection, claim: Claim, reading: Reading, now: float) -> int | None:
    """Saves a reading; a study that received more meanwhile is received again.

    Returns:
        The number of the reading; None if the claim was given to another reader meanwhile, and then nothing
        is saved.
    """
    if not reading.shadow and not _end_claim(connection, claim, StudyState.READ, "", now):
        return None
    before = connection.execute(
        select(func.max(readings.c.id)).where(
            readings.c.study_id == claim.study, readings.c.shadow == reading.shadow
        )
    ).scalar()
    number = connection.execute(
        readings.insert()
        .values(
            study_id=claim.study,
            generation=claim.generation,
            shadow=reading.shadow,
            model=reading.model,
            number=reading.number,
            folder=reading.folder,
            started_at=reading.started_at,
            finished_at=now,
            outcome=reading.outcome,
            prob=reading.prob,
            distance=reading.distance,
            distance_limit=reading.distance_limit,
            last_at=_find_last(claim.study, reading.started_at),
            supersedes_id=before,
        )
        .returning(readings.c.id)
    ).scalar_one()
    return int(number)


def _find_last(study: int, started_at: float) -> ScalarSelect[float]:
    """Returns the time of the last object of a study before a reader began."""
    before = (objects.c.study_id == study) & (objects.c.received_at <= started_at)
    return select(func.max(objects.c.received_at)).where(before).scalar_subquery()


def set_aside(connection: Connection, claim: Claim, reason: str, now: float) -> bool:
    """Keeps a study out of the queue until it receives another object.

    Returns:
        False if the claim was given to another reader meanwhile, and then nothing is changed.
    """
    is_own = _end_claim(connection, claim, StudyState.SET_ASIDE, reason, now)
    if is_own:
        add_event(connection, now, claim.reader, EventKind.SET_ASIDE, study=claim.token, detail=reason)
    return is_own


def _end_claim(connection: Connection, claim: Claim, state: StudyState, reason: str, now: float) -> bool:
    """Ends a claim if it still holds. A study that received more meanwhile is received again."""
    row = connection.execute(
        select(studies.c.state, studies.c.reader, studies.c.generation, studies.c.claimed_generation)
        .where(studies.c.id == claim.study)
        .with_for_update()
    ).one()
    held = (row.state, row.reader, row.claimed_generation)
    if held != (StudyState.READING, claim.reader, claim.generation):
        return False
    changed: dict[str, object] = {"state": state, "reason": reason, "reader": ""}
    if row.generation != claim.generation:
        changed |= {"state": StudyState.RECEIVING, "first_at": now}
    connection.execute(update(studies).where(studies.c.id == claim.study).values(changed))
    return True
