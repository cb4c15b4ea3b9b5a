"""Studies from their first object to their reading."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, ScalarSelect, and_, func, or_, select, update

from ich.serve.states import StudyState
from ich.serve.store.tables import arrivals, associations, objects, readings, studies


@dataclass(frozen=True)
class Claim:
    """A study that a reader has taken.

    Attributes:
        study: Its number in the database.
        token: Its name in logs.
        StudyInstanceUID: Its UID.
        generation: Its generation when it was taken.
        paths: Its files, below the folder of the inbox.
    """

    study: int
    token: str
    StudyInstanceUID: str
    generation: int
    paths: tuple[str, ...]


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


def claim_study(connection: Connection, reader: str) -> Claim | None:
    """Takes the next study for a reader: the highest priority first, then the one that waits longest."""
    row = connection.execute(
        select(studies)
        .where(studies.c.state == StudyState.QUEUED)
        .order_by(studies.c.priority.desc(), studies.c.first_at, studies.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    connection.execute(
        update(studies)
        .where(studies.c.id == row.id)
        .values(state=StudyState.READING, reader=reader, claimed_generation=row.generation)
    )
    paths = connection.execute(
        select(objects.c.path).where(objects.c.study_id == row.id).order_by(objects.c.id)
    ).scalars()
    return Claim(row.id, row.token, row.StudyInstanceUID, row.generation, tuple(paths))


def release_reader(connection: Connection, reader: str, *, most_kills: int) -> int:
    """Gives back what a reader that ended was reading; returns how many studies.

    Args:
        connection: An open transaction.
        reader: The reader.
        most_kills: A study that ended as many readers is set aside.
    """
    own = and_(studies.c.state == StudyState.READING, studies.c.reader == reader)
    given = connection.execute(
        update(studies)
        .where(own)
        .values(state=StudyState.QUEUED, reader="", kills=studies.c.kills + 1)
        .returning(studies.c.id)
    ).scalars()
    numbers = list(given)
    connection.execute(
        update(studies)
        .where(studies.c.id.in_(numbers), studies.c.kills >= most_kills)
        .values(state=StudyState.SET_ASIDE, reason=f"it ended {most_kills} readers")
    )
    return len(numbers)


def finish_study(connection: Connection, claim: Claim, reading: Reading, now: float) -> int | None:
    """Saves a reading; a study that received more meanwhile is received again.

    Returns:
        The number of the reading; None if the claim was given to another reader meanwhile, and then nothing
        is saved.
    """
    row = connection.execute(
        select(studies.c.state, studies.c.generation, studies.c.claimed_generation)
        .where(studies.c.id == claim.study)
        .with_for_update()
    ).one()
    if not reading.shadow and (row.state, row.claimed_generation) != (StudyState.READING, claim.generation):
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
    if not reading.shadow:
        is_newest = row.generation == claim.generation
        state = StudyState.READ if is_newest else StudyState.RECEIVING
        changed = {"state": state, "reader": "", **({} if is_newest else {"first_at": now})}
        connection.execute(update(studies).where(studies.c.id == claim.study).values(changed))
    return int(number)


def _find_last(study: int, started_at: float) -> ScalarSelect[float]:
    """Returns the time of the last object of a study before a reader began."""
    before = (objects.c.study_id == study) & (objects.c.received_at <= started_at)
    return select(func.max(objects.c.received_at)).where(before).scalar_subquery()


def set_aside(connection: Connection, study: int, reason: str) -> None:
    """Keeps a study out of the queue until it receives another object."""
    connection.execute(
        update(studies)
        .where(studies.c.id == study)
        .values(state=StudyState.SET_ASIDE, reason=reason, reader="")
    )
