"""What people say of readings. Nothing is overwritten: the newest judgment of an account counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select

from ich.serve.states import Verdict
from ich.serve.store.tables import judgments, readings, studies


@dataclass(frozen=True)
class Judgment:
    """What an account says of a reading.

    Attributes:
        reading: Number of the reading.
        account: Name of the account.
        verdict: Whether it agrees.
        labels: What it says of the study: label -> 0 or 1; labels may be missing.
        slices: What it says of slices: SOPInstanceUID -> label -> 0 or 1.
        judged_at: The time.
        id: Its number in the database; it is 0 for a new one.
    """

    reading: int
    account: str
    verdict: Verdict
    labels: Mapping[str, int]
    slices: Mapping[str, Mapping[str, int]]
    judged_at: float
    id: int = 0


@dataclass(frozen=True)
class JudgedReading:
    """A judgment with what was judged.

    Attributes:
        judgment: The judgment.
        StudyInstanceUID: Its study.
        outcome: Outcome of the reading.
        finished_at: When the study was read.
    """

    judgment: Judgment
    StudyInstanceUID: str
    outcome: str
    finished_at: float


def add_judgment(connection: Connection, judgment: Judgment) -> None:
    """Adds a judgment. An earlier one of the same account of the same reading stays as history."""
    connection.execute(
        judgments.insert().values(
            reading_id=judgment.reading,
            account=judgment.account,
            verdict=judgment.verdict,
            labels=json.dumps(dict(judgment.labels)),
            slices=json.dumps({uid: dict(labels) for uid, labels in judgment.slices.items()}),
            judged_at=judgment.judged_at,
        )
    )


def list_judgments(connection: Connection, numbers: Sequence[int]) -> list[Judgment]:
    """Lists all judgments of readings, the newest first."""
    query = select(judgments).where(judgments.c.reading_id.in_(numbers)).order_by(judgments.c.id.desc())
    return [_to_judgment(row) for row in connection.execute(query)]


def list_newest(connection: Connection, numbers: Sequence[int]) -> list[Judgment]:
    """Lists the newest judgment of each account of each of these readings, the newest first."""
    return pick_newest(list_judgments(connection, numbers))


def pick_newest(found: Sequence[Judgment]) -> list[Judgment]:
    """Picks the newest judgment of each account of each reading, in the same order."""
    newest: dict[tuple[int, str], int] = {}
    for each in found:
        key = each.reading, each.account
        newest[key] = max(each.id, newest.get(key, 0))
    return [each for each in found if newest[each.reading, each.account] == each.id]


def list_judged(connection: Connection) -> list[JudgedReading]:
    """Lists the newest judgment of each account of each reading, the oldest first."""
    newest = select(func.max(judgments.c.id)).group_by(judgments.c.reading_id, judgments.c.account)
    query = (
        select(judgments, studies.c.StudyInstanceUID, readings.c.outcome, readings.c.finished_at)
        .join(readings, readings.c.id == judgments.c.reading_id)
        .join(studies, studies.c.id == readings.c.study_id)
        .where(judgments.c.id.in_(newest))
        .order_by(judgments.c.id)
    )
    return [
        JudgedReading(_to_judgment(row), row.StudyInstanceUID, row.outcome, row.finished_at)
        for row in connection.execute(query)
    ]


def _to_judgment(row: Row[Any]) -> Judgment:
    return Judgment(
        row.reading_id,
        row.account,
        Verdict(row.verdict),
        json.loads(row.labels),
        json.loads(row.slices),
        row.judged_at,
        row.id,
    )
