"""Samples of readings: the first ones of a model, and the newest ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from ich.schema.results import Outcome
from ich.serve.states import Verdict
from ich.serve.store.tables import judgments, readings


@dataclass(frozen=True)
class Share:
    """A count out of another.

    Attributes:
        count: How many have it.
        of: How many there are.
    """

    count: int
    of: int

    def __str__(self) -> str:
        return f"{self.count} of {self.of}"


@dataclass(frozen=True)
class Sample:
    """Some readings of a model.

    Attributes:
        positive: Readings with the outcome POSITIVE.
        probs: (N,) probabilities of the label that decides, where known.
        distances: (N,) distances from the training data, where known.
        beyond: Readings whose distance is above the model's limit, among those with a limit.
    """

    positive: Share
    probs: tuple[float, ...]
    distances: tuple[float, ...]
    beyond: Share


def find_model(connection: Connection) -> str | None:
    """Finds the model that made the newest reading; None without a reading."""
    query = select(readings.c.model).where(_counts()).order_by(readings.c.id.desc()).limit(1)
    return connection.execute(query).scalar()


def count_readings(connection: Connection, model: str) -> int:
    """Counts the readings of a model that no later reading of their study supersedes."""
    query = select(func.count()).select_from(readings).where(_counts(), readings.c.model == model)
    return int(connection.execute(query).scalar_one())


def take_sample(connection: Connection, model: str, number: int, *, newest: bool) -> Sample:
    """Takes the newest readings of a model, or its first ones.

    Args:
        connection: An open transaction.
        model: SHA-256 of the model's file.
        number: How many readings.
        newest: Whether to take the newest ones.
    """
    order = readings.c.id.desc() if newest else readings.c.id.asc()
    query = select(readings.c.outcome, readings.c.prob, readings.c.distance, readings.c.distance_limit).where(
        _counts(), readings.c.model == model
    )
    rows = connection.execute(query.order_by(order).limit(number)).all()
    limited = [row for row in rows if row.distance is not None and row.distance_limit is not None]
    return Sample(
        positive=Share(sum(row.outcome == Outcome.POSITIVE for row in rows), len(rows)),
        probs=tuple(row.prob for row in rows if row.prob is not None),
        distances=tuple(row.distance for row in rows if row.distance is not None),
        beyond=Share(sum(row.distance > row.distance_limit for row in limited), len(limited)),
    )


def count_judgments(connection: Connection, model: str) -> int:
    """Counts the judgments of a model's readings; of each account and reading the newest one."""
    return int(connection.execute(select(func.count()).select_from(_judged(model).subquery())).scalar_one())


def take_agreement(connection: Connection, model: str, number: int, *, newest: bool) -> Share:
    """Takes the newest or the first judgments of a model's readings: how many accept the result."""
    judged = _judged(model).subquery()
    order = judged.c.id.desc() if newest else judged.c.id.asc()
    found = connection.execute(select(judged.c.verdict).order_by(order).limit(number)).scalars().all()
    return Share(found.count(Verdict.ACCEPT), len(found))


def _counts() -> ColumnElement[bool]:
    """The condition that a reading has an outcome, is not a shadow's, and is the last one of its study."""
    later = readings.alias()
    superseded = select(later.c.id).where(later.c.supersedes_id == readings.c.id, later.c.shadow.is_(False))
    return readings.c.outcome.in_(list(Outcome)) & readings.c.shadow.is_(False) & ~superseded.exists()


def _judged(model: str) -> Select[Any]:
    newest = select(func.max(judgments.c.id)).group_by(judgments.c.reading_id, judgments.c.account)
    return (
        select(judgments.c.id, judgments.c.verdict)
        .join(readings, readings.c.id == judgments.c.reading_id)
        .where(judgments.c.id.in_(newest), readings.c.model == model, readings.c.shadow.is_(False))
    )
