"""What watches the service: the queue's loop, health, metrics, alarms and retention; on a simulated clock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select

from ich.schema import UserError
from ich.serve.settings import Settings
from ich.serve.settings.parts import Upkeep
from ich.serve.states import StudyState
from ich.serve.store import Store, open_store
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.objects import Arrival, add_object, close_association, open_association
from ich.serve.store.studies import Reading, claim_study, finish_study
from ich.serve.store.tables import sends, studies
from ich.serve.upkeep import make_router, run
from ich.serve.upkeep.loop import Task, do_due, list_tasks

NOW = 1_000_000.0
MINUTE = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(bundle=str(tmp_path / "model.zip"), folder=str(tmp_path / "kept"))


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    opened = open_store(settings.store)
    yield opened
    opened.close()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def add(store: Store, number: int, now: float, association: int | None = None) -> None:
    with store.begin() as connection:
        uid = f"1.2.{number}"
        arrival = Arrival(uid, f"{uid}.1", f"{uid}.1.1", "1.2", "1.2", "a" * 64, "aa/a.dcm", 9, association)
        add_object(connection, arrival, now)


def read(store: Store, now: float, **changes: object) -> None:
    with store.begin() as connection:
        claim = claim_study(connection, "r", now)
        assert claim is not None
        made = Reading("f" * 64, 1, f"{claim.token}/1", now - 5, "NEGATIVE", 0.1, 0.5)
        reading = replace(made, **changes)
        assert finish_study(connection, claim, reading, now) is not None


def find_state(store: Store) -> StudyState:
    with store.view() as connection:
        return StudyState(connection.execute(select(studies.c.state)).scalar_one())


@pytest.fixture
def clock() -> Clock:
    return Clock()


Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(settings: Settings, store: Store, clock: Clock) -> Ask:
    app = FastAPI()
    app.include_router(make_router(settings, store, clock))

    def get(path: str, host: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
        answer = TestClient(app, client=(host, 50000), headers=headers).get(path)
        return answer.status_code, answer.text

    return get


def test_the_loop_queues_what_is_complete(settings: Settings, store: Store) -> None:
    tasks = list_tasks(settings, store, NOW)
    add(store, 1, NOW)
    for second in range(30):
        do_due(tasks, NOW + second)
        assert find_state(store) == StudyState.RECEIVING
    do_due(tasks, NOW + 30)
    assert find_state(store) == StudyState.QUEUED


def test_a_task_that_fails_is_tried_again_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    def fail(now: float) -> None:
        done.append(now)
        raise OSError(28, "No space left on device", "/secret/1.2.3")

    tasks = [Task("first", 10, fail), Task("second", 5, done.append)]
    for now in (0, 5, 9, 10, 3):  # the clock is set back in the end
        do_due(tasks, now)
    assert done == [0, 0, 5, 10, 10, 3, 3][: len(done)]
    assert "first failed and is tried again: No space left on device" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.races
def test_the_process_ends_when_it_is_told_to(settings: Settings, store: Store) -> None:
    add(store, 1, NOW)  # long ago for the clock of the machine
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        run(settings, "upkeep")
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert find_state(store) == StudyState.QUEUED


def test_it_is_ready_while_nothing_stalls(ask: Ask) -> None:
    assert ask("/health") == (200, "alive\n")
    assert ask("/ready") == (200, "ready\n")


def test_it_is_not_ready_when_studies_are_not_queued(ask: Ask, store: Store, clock: Clock) -> None:
    with store.begin() as connection:
        association = open_association(connection, "me", "CT1", NOW)
    add(store, 1, NOW, association)
    clock.now += 60 * MINUTE
    assert ask("/ready")[0] == 200  # more may come
    with store.begin() as connection:
        close_association(connection, association, clock.now)
    assert ask("/ready")[0] == 200  # the loop has a minute to find it
    clock.now += MINUTE
    assert ask("/ready") == (
        503,
        "not queued: 1 studies are complete for 60 seconds and not in the queue\n",
    )


def test_it_is_not_ready_when_studies_are_not_read(
    ask: Ask, settings: Settings, store: Store, clock: Clock
) -> None:
    add(store, 1, NOW)
    add(store, 2, NOW)
    clock.now += 5 * MINUTE
    do_due(list_tasks(settings, store, NOW), clock.now)
    assert ask("/ready")[0] == 200
    clock.now += 20 * MINUTE
    assert ask("/ready") == (503, "not read: 2 studies wait, and none was read to its end for 15 minutes\n")
    read(store, clock.now)
    assert ask("/ready")[0] == 200
    clock.now += 15 * MINUTE
    assert ask("/ready") == (503, "not read: 1 studies wait, and none was read to its end for 15 minutes\n")


def test_it_is_not_ready_without_room_or_database(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ich.serve.inbox.Inbox.measure_free_bytes", lambda inbox: 10**9)
    assert ask("/ready") == (503, "disk full: 1.0 GB are free, and objects are refused below 2 GB\n")
    with store.begin() as connection:
        connection.exec_driver_sql("DROP TABLE arrivals")
    assert "no database: the database does not answer" in ask("/ready")[1]


def read_metrics(page: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_metrics_count_what_happened(ask: Ask, settings: Settings, store: Store, clock: Clock) -> None:
    for number in range(3):
        add(store, number, NOW)
    clock.now += 40
    do_due(list_tasks(settings, store, NOW), clock.now)
    read(store, clock.now, outcome="POSITIVE", prob=0.9)
    read(store, clock.now + 30)
    with store.begin() as connection:
        for node, created in (("pacs", NOW + 40), ("pacs", NOW + 70), ("other", NOW + 40)):
            number = 1 + (created > NOW + 40)
            row = {
                "reading_id": number,
                "node": node,
                "state": "waiting",
                "next_at": 0,
                "created_at": created,
            }
            connection.execute(sends.insert().values(row))
        sent = {"state": "sent", "sent_at": NOW + 44}
        connection.execute(sends.update().where(sends.c.node == "other").values(sent))
        open_association(connection, "me", "CT1", NOW)
        for peer, detail in (
            ("CT1", "0xA700 the disk"),
            ("CT1", "0xA700 the disk"),
            ("10.0.0.9", "too many"),
        ):
            add_event(connection, NOW, peer, EventKind.REFUSED, detail=detail)
        add_event(connection, NOW - 4000, "CT1", EventKind.REFUSED, detail="0xA700 full")
    clock.now = NOW + 100
    found = read_metrics(ask("/metrics")[1])
    expected = {
        "ich_studies queued": 1,
        "ich_studies read": 2,
        "ich_studies receiving": 0,
        "ich_oldest_study_seconds": 100,
        "ich_readings_total ffffffffffff POSITIVE false": 1,
        "ich_readings_total ffffffffffff NEGATIVE false": 1,
        "ich_reading_seconds_bucket 30.0": 0,
        "ich_reading_seconds_bucket 45.0": 1,
        "ich_reading_seconds_bucket 90.0": 2,
        "ich_reading_seconds_bucket +Inf": 2,
        "ich_reading_seconds_count": 2,
        "ich_reading_seconds_sum": 110,
        "ich_answer_seconds_bucket 45.0 other": 1,
        "ich_answer_seconds_sum other": 44,
        "ich_sends pacs waiting": 2,
        "ich_sends other sent": 1,
        "ich_oldest_send_seconds pacs": 60,
        "ich_associations_open": 1,
        "ich_refusals_last_hour 0xA700 CT1": 2,
        "ich_refusals_last_hour connection 10.0.0.9": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["ich_disk_free_bytes"] > 0


def test_metrics_name_no_study_and_few_peers(
    ask: Ask, settings: Settings, store: Store, clock: Clock
) -> None:
    add(store, 1, NOW)
    clock.now += 40
    do_due(list_tasks(settings, store, NOW), clock.now)
    read(store, clock.now)
    with store.begin() as connection:
        token = connection.execute(select(studies.c.token)).scalar_one()
        for number in range(70):
            add_event(connection, NOW, f"PEER{number}", EventKind.REFUSED, study=token, detail="0xC000 1.2.1")
    page = ask("/metrics")[1]
    assert token not in page
    assert "1.2.1" not in page
    assert read_metrics(page)["ich_refusals_last_hour 0xC000 other"] == 20


def test_metrics_are_for_addresses_that_the_settings_name(ask: Ask, settings: Settings, store: Store) -> None:
    assert ask("/metrics")[0] == 200
    assert ask("/metrics", "10.0.0.1") == (403, "not from this address; see upkeep.metrics_from\n")
    assert ask("/metrics", "not an address")[0] == 403
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert ask("/metrics", **{header: "127.0.0.1"})[0] == 403
    assert ask("/ready", "10.0.0.1")[0] == 200
    with pytest.raises(UserError, match=r"upkeep.metrics_from: '10.0/8' is not an IP address or network"):
        make_router(replace(settings, upkeep=Upkeep(metrics_from=("10.0/8",))), store)
