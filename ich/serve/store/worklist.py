"""The studies in the order in which people look at them, a page at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    case,
    func,
    literal,
    select,
    tuple_,
)

from ich.schema.results import Outcome
from ich.serve.states import SendState, StudyState, Verdict
from ich.serve.store.judgments import list_newest
from ich.serve.store.tables import readings, sends, studies


@dataclass(frozen=True)
class Wanted:
    """What of the worklist is wanted.

    Attributes:
        state: Only studies in this state.
        outcome: Only studies whose newest reading has this outcome; an empty text is for those without any.
        since: Only studies that received something at or after this time.
        until: Only studies that received nothing at or after this time.
        token: Only studies whose token begins so.
        studies: Only studies with these numbers.
    """

    state: StudyState | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None
    token: str = ""
    studies: Collection[int] | None = None


@dataclass(frozen=True)
class Place:
    """The place of a study in the worklist; what follows it is the next page.

    Attributes:
        positive: 1 for a POSITIVE study of today, which come first. It is 0 for others.
        priority: Its priority, for those of today. It is -1 for others, which are in order of time only.
        last_at: When its last object came.
        id: Its number.
    """

    positive: int
    priority: int
    last_at: float
    id: int


@dataclass(frozen=True)
class Entry:
    """A study in the worklist.

    Attributes:
        place: Its place.
        token: Its name in addresses.
        state: Where it is.
        reason: Why it was set aside.
        priority: Its priority.
        objects: How many objects it has.
        last_at: When its last object came.
        reading: Number of its newest reading; None without one.
        folder: Folder of the reading's files, below that of the results.
        outcome: Outcome of the reading; empty if the study could not be read.
    """

    place: Place
    token: str
    state: StudyState
    reason: str
    priority: int
    objects: int
    last_at: float
    reading: int | None
    folder: str
    outcome: str


def list_entries(
    connection: Connection, wanted: Wanted, today: float, count: int, after: Place | None = None
) -> list[Entry]:
    """Lists a page of the worklist.

    The studies of today come first: the POSITIVE ones, then by priority, then the newest. Earlier ones follow
    by time. Each part is asked for alone, so that the database can follow its index.

    Args:
        connection: An open transaction.
        wanted: What is wanted.
        today: When the day began.
        count: Most studies of a page.
        after: Place of the last study of the page before; None for the first page.
    """
    found: list[Entry] = []
    if after is None or after.priority >= 0:
        found = _list_part(connection, wanted, studies.c.last_at >= today, _RANK, count, after)
        after = None
    if len(found) < count:
        earlier = studies.c.last_at < today
        found += _list_part(connection, wanted, earlier, _NO_RANK, count - len(found), after)
    return found


def count_today(connection: Connection, today: float) -> Mapping[str, int]:
    """Counts the studies of today by state, those that were read by outcome."""
    label = case((studies.c.state == StudyState.READ, _outcome()), else_=studies.c.state)
    query = select(label, func.count()).select_from(_join()).where(studies.c.last_at >= today).group_by(label)
    return {str(name): int(number) for name, number in connection.execute(query)}


def count_sends(connection: Connection, numbers: Sequence[int]) -> dict[int, dict[SendState, int]]:
    """Counts the answers of readings by their state."""
    query = (
        select(sends.c.reading_id, sends.c.state, func.count())
        .where(sends.c.reading_id.in_(numbers))
        .group_by(sends.c.reading_id, sends.c.state)
    )
    found: dict[int, dict[SendState, int]] = {}
    for number, state, count in connection.execute(query):
        found.setdefault(number, {})[SendState(state)] = count
    return found


def count_verdicts(connection: Connection, numbers: Sequence[int]) -> dict[int, dict[Verdict, int]]:
    """Counts what people say of readings, the newest judgment of each."""
    found: dict[int, dict[Verdict, int]] = {}
    for each in list_newest(connection, numbers):
        verdicts = found.setdefault(each.reading, {})
        verdicts[each.verdict] = verdicts.get(each.verdict, 0) + 1
    return found


_POSITIVE = case((readings.c.outcome == Outcome.POSITIVE, 1), else_=0)
_RANK: tuple[ColumnElement[int], ColumnElement[int]] = (_POSITIVE, studies.c.priority)
_NO_RANK: tuple[ColumnElement[int], ColumnElement[int]] = (literal(0), literal(-1))


def _outcome() -> ColumnElement[str]:
    return func.coalesce(readings.c.outcome, "")


def _join() -> FromClause:
    """Joins each study with its newest reading that counts."""
    newest = (
        select(func.max(readings.c.id))
        .where(readings.c.study_id == studies.c.id, readings.c.shadow.is_(False))
        .correlate(studies)
        .scalar_subquery()
    )
    return studies.outerjoin(readings, readings.c.id == newest)


def _list_part(
    connection: Connection,
    wanted: Wanted,
    part: ColumnElement[bool],
    rank: tuple[ColumnElement[int], ColumnElement[int]],
    count: int,
    after: Place | None,
) -> list[Entry]:
    by_time = (studies.c.last_at, studies.c.id)
    is_ranked = rank is _RANK
    keys = (*rank, *by_time) if is_ranked else by_time
    query: Select[Any] = (
        select(studies, readings.c.id.label("reading"), readings.c.folder, _outcome().label("outcome"))
        .add_columns(rank[0].label("positive"), rank[1].label("ranked_priority"))
        .select_from(_join())
        .where(part, *_limit(wanted))
        .order_by(*(key.desc() for key in keys))
        .limit(count)
    )
    if after is not None:
        place = (after.positive, after.priority, after.last_at, after.id) if is_ranked else (
            after.last_at, after.id
        )  # fmt: skip
        query = query.where(tuple_(*keys) < tuple_(*map(literal, place)))
    return [_to_entry(row) for row in connection.execute(query)]


def _limit(wanted: Wanted) -> list[ColumnElement[bool]]:
    limits: list[ColumnElement[bool]] = []
    if wanted.state is not None:
        limits.append(studies.c.state == wanted.state)
    if wanted.outcome is not None:
        limits.append(and_(readings.c.id.is_not(None), readings.c.outcome == wanted.outcome))
    if wanted.since is not None:
        limits.append(studies.c.last_at >= wanted.since)
    if wanted.until is not None:
        limits.append(studies.c.last_at < wanted.until)
    if wanted.token:
        limits.append(studies.c.token.startswith(wanted.token, autoescape=True))
    if wanted.studies is not None:
        limits.append(studies.c.id.in_(wanted.studies))
    return limits


def _to_entry(row: Row[Any]) -> Entry:
    return Entry(
        Place(row.positive, row.ranked_priority, row.last_at, row.id),
        row.token,
        StudyState(row.state),
        row.reason,
        row.priority,
        row.objects,
        row.last_at,
        row.reading,
        row.folder or "",
        row.outcome,
    )
