"""What watches the service: the queue's loop, health, metrics, alarms and retention; on a simulated clock."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from ich.serve.settings import Settings
from ich.serve.states import StudyState
from ich.serve.store import Store, open_store
from ich.serve.store.objects import Arrival, add_object, close_association, open_association
from ich.serve.store.studies import Reading, claim_study, finish_study
from ich.serve.store.tables import studies
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
        claim = claim_study(connection, "r")
        assert claim is not None
        reading = Reading("f" * 64, 1, f"{claim.token}/1", now - 5, "NEGATIVE", 0.1, 0.5)
        assert finish_study(connection, claim, reading, now) is not None


def find_state(store: Store) -> StudyState:
    with store.view() as connection:
        return StudyState(connection.execute(select(studies.c.state)).scalar_one())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ask(settings: Settings, store: Store, clock: Clock) -> Iterator[Callable[[str], tuple[int, str]]]:
    app = FastAPI()
    app.include_router(make_router(settings, store, clock))
    with TestClient(app, client=("127.0.0.1", 50000)) as client:

        def get(path: str) -> tuple[int, str]:
            answer = client.get(path)
            return answer.status_code, answer.text

        yield get


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


def test_it_is_ready_while_nothing_stalls(ask: Callable[[str], tuple[int, str]]) -> None:
    assert ask("/health") == (200, "alive\n")
    assert ask("/ready") == (200, "ready\n")


def test_it_is_not_ready_when_studies_are_not_queued(
    ask: Callable[[str], tuple[int, str]], store: Store, clock: Clock
) -> None:
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
    ask: Callable[[str], tuple[int, str]], settings: Settings, store: Store, clock: Clock
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
    ask: Callable[[str], tuple[int, str]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ich.serve.inbox.Inbox.measure_free_bytes", lambda inbox: 10**9)
    assert ask("/ready") == (503, "disk full: 1.0 GB are free, and objects are refused below 2 GB\n")
    with store.begin() as connection:
        connection.exec_driver_sql("DROP TABLE arrivals")
    assert "no database: the database does not answer" in ask("/ready")[1]
