"""Metrics in the format of Prometheus, made from the database each time that they are asked for.

No label holds a patient attribute, a UID or a token. Labels have few values: a state, the name of a node, the
start of a model's hash, an outcome, a status and a peer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from ich import __version__
from ich.serve.states import SendState, StudyState
from ich.serve.store.alarms import list_active
from ich.serve.store.events import EventKind
from ich.serve.store.tables import associations, events, readings, sends, studies

BOUNDS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 600, 1800, 3600, 14400)
"""Upper bounds of the histograms, seconds."""

HOUR = 3600.0

MOST_PEERS = 50
"""Peers that have a label of their own; anybody can call itself anything, so the others share one."""

OTHER_PEERS = "other"

CONNECTION = "connection"
"""Status of a refusal that is about a connection, not an object."""

HASH_LETTERS = 12
"""Letters of a model's SHA-256 in a label."""


def make_page(connection: Connection, free: int | None, now: float) -> bytes:
    """Makes the page that Prometheus reads.

    Args:
        connection: An open transaction.
        free: Bytes that the disk of the inbox still takes; None if it cannot be read.
        now: The time.
    """
    registry = CollectorRegistry()
    registry.register(_Found(list(_measure(connection, free, now))))
    return generate_latest(registry)


class _Found(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _measure(connection: Connection, free: int | None, now: float) -> Iterator[Metric]:
    yield InfoMetricFamily("ich_build", "The version of ich", {"version": __version__})
    if free is not None:
        text = "Bytes that the disk of the inbox still takes"
        yield GaugeMetricFamily("ich_disk_free_bytes", text, value=free)
    yield from _measure_studies(connection, now)
    yield from _measure_readings(connection)
    yield from _measure_sends(connection, now)
    yield _measure_associations(connection)
    yield _measure_refusals(connection, now)
    active = GaugeMetricFamily("ich_alarm_active", "Alarms that began and did not end", labels=["alarm"])
    for name in list_active(connection):
        active.add_metric([name], 1)
    yield active


def _measure_studies(connection: Connection, now: float) -> Iterator[Metric]:
    query = select(studies.c.state, func.count(), func.min(studies.c.last_at)).group_by(studies.c.state)
    found = {state: (count, oldest) for state, count, oldest in connection.execute(query)}
    depth = GaugeMetricFamily("ich_studies", "Studies by their state", labels=["state"])
    for state in StudyState:
        depth.add_metric([state], found.get(state, (0, None))[0])
    yield depth
    waiting = [found[state][1] for state in (StudyState.QUEUED, StudyState.READING) if state in found]
    text = "Seconds since the last object of the study that waits longest for its result"
    yield GaugeMetricFamily("ich_oldest_study_seconds", text, value=now - min(waiting, default=now))


def _measure_readings(connection: Connection) -> Iterator[Metric]:
    query = select(readings.c.model, readings.c.outcome, readings.c.shadow, func.count()).group_by(
        readings.c.model, readings.c.outcome, readings.c.shadow
    )
    read = CounterMetricFamily(
        "ich_readings", "Readings by model and outcome", labels=["model", "outcome", "shadow"]
    )
    for model, outcome, shadow, count in connection.execute(query):
        read.add_metric([model[:HASH_LETTERS], outcome or "none", str(bool(shadow)).lower()], count)
    yield read
    seconds = readings.c.finished_at - readings.c.last_at
    known = and_(readings.c.shadow.is_(False), seconds.is_not(None))
    text = "Seconds from the last object of a study to its result"
    histogram = HistogramMetricFamily("ich_reading_seconds", text)
    row = connection.execute(select(*_count_bins(seconds)).where(known)).one()
    histogram.add_metric([], *_read_bins(row))
    yield histogram


def _measure_sends(connection: Connection, now: float) -> Iterator[Metric]:
    query = select(sends.c.node, sends.c.state, func.count(), func.min(sends.c.created_at)).group_by(
        sends.c.node, sends.c.state
    )
    counts = GaugeMetricFamily("ich_sends", "Answers by node and state", labels=["node", "state"])
    text = "Seconds since the oldest answer that waits for a node was made"
    oldest = GaugeMetricFamily("ich_oldest_send_seconds", text, labels=["node"])
    for node, state, count, first in connection.execute(query):
        counts.add_metric([node, state], count)
        if state == SendState.WAITING:
            oldest.add_metric([node], now - first)
    yield counts
    yield oldest
    seconds = sends.c.sent_at - readings.c.last_at
    found = connection.execute(
        select(sends.c.node, *_count_bins(seconds))
        .join(readings, readings.c.id == sends.c.reading_id)
        .where(seconds.is_not(None))
        .group_by(sends.c.node)
    )
    text = "Seconds from the last object of a study to its answer at a node"
    histogram = HistogramMetricFamily("ich_answer_seconds", text, labels=["node"])
    for node, *row in found:
        histogram.add_metric([node], *_read_bins(row))
    yield histogram


def _measure_associations(connection: Connection) -> Metric:
    query = select(func.count()).select_from(associations).where(associations.c.closed_at.is_(None))
    count = connection.execute(query).scalar_one()
    return GaugeMetricFamily("ich_associations_open", "Connections that bring objects now", value=count)


def _measure_refusals(connection: Connection, now: float) -> Metric:
    text = "Refused objects and connections of the last hour, by status and peer"
    metric = GaugeMetricFamily("ich_refusals_last_hour", text, labels=["code", "peer"])
    for (code, peer), count in sorted(count_refusals(connection, now - HOUR).items()):
        metric.add_metric([code, peer], count)
    return metric


def count_refusals(connection: Connection, since: float) -> Counter[tuple[str, str]]:
    """Counts the refusals since a time, by status and peer. See ``CONNECTION``."""
    query = select(events.c.actor, events.c.detail).where(
        events.c.kind == EventKind.REFUSED, events.c.at > since
    )
    counts: Counter[tuple[str, str]] = Counter()
    peers: set[str] = set()
    for actor, detail in connection.execute(query.order_by(events.c.id)):
        peer = actor if actor in peers or len(peers) < MOST_PEERS else OTHER_PEERS
        peers.add(peer)
        code = detail.partition(" ")[0]
        counts[code if code.startswith("0x") else CONNECTION, peer] += 1
    return counts


def _count_bins(seconds: ColumnElement[float]) -> list[ColumnElement[Any]]:
    """Columns with the number of values up to each bound, of all values, and their sum."""
    within = [func.coalesce(func.sum(case((seconds <= bound, 1), else_=0)), 0) for bound in BOUNDS]
    return [*within, func.count(), func.coalesce(func.sum(seconds), 0.0)]


def _read_bins(row: Sequence[Any]) -> tuple[list[tuple[str, float]], float]:
    *counts, count, total = row
    bins = [(str(float(bound)), float(number)) for bound, number in zip(BOUNDS, counts, strict=True)]
    return [*bins, ("+Inf", float(count))], float(total)
