"""The supervisor of the service: what is killed starts again, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from serve_roles import HOLD, LIMIT, supervising, wait_until
from sqlalchemy import select

from ich.files import hash_file
from ich.serve.settings import read_settings
from ich.serve.store import Store, open_store
from ich.serve.store.objects import Arrival, add_object
from ich.serve.store.studies import claim_study, queue_complete
from ich.serve.store.tables import attempts, events, readers, readings, studies
from ich.serve.supervisor import holding
from ich.serve.supervisor.child import Child, Role, give_back

pytestmark = pytest.mark.races


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def test_files_and_the_log_are_as_the_settings_say_and_the_database_stays_private(config: Path) -> None:
    log = config.with_name("log.jsonl")
    config.write_text(config.read_text() + f"mode: '640'\nlog: {log}\n")
    folder = Path(read_settings(config).folder)
    with supervising(config, "touch"):
        wait_until((folder / "touched").exists)
    assert (folder / "touched").stat().st_mode & 0o777 == 0o640
    assert [path.stat().st_mode & 0o777 for path in folder.glob("queue.sqlite*")] == [0o600]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (started,) = (line for line in lines if "started as process" in line["message"])
    assert (started["process"], started["level"], started["logger"]) == (
        "supervisor",
        "INFO",
        "ich.serve.supervisor",
    )
    assert datetime.fromisoformat(started["time"]).tzinfo == UTC


def write_config(folder: Path, **read: object) -> Path:
    (folder / "model.zip").write_bytes(b"first")
    read = {"spare": False} | read
    settings = {"bundle": str(folder / "model.zip"), "folder": str(folder / "serve"), "read": read}
    (folder / "serve.yaml").write_text(yaml.safe_dump(settings))
    return folder / "serve.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(str(tmp_path / "serve" / "queue.sqlite"))
    yield opened
    opened.close()


def list_rows(store: Store, *columns: object) -> list[tuple[object, ...]]:
    with store.view() as connection:
        return [tuple(row) for row in connection.execute(select(*columns))]


def list_events(store: Store, kind: str) -> list[tuple[object, ...]]:
    rows = list_rows(store, events.c.kind, events.c.actor, events.c.detail)
    return [row[1:] for row in rows if row[0] == kind]


def list_running(parent: int) -> set[int]:
    """Lists the processes that the supervisor started for roles."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = set()
    for child in children:
        with suppress(OSError):  # it may have ended since
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def list_started(config: Path) -> list[int]:
    """Lists the processes that got a role, in this order."""
    return [int(pid) for pid in re.findall(r"started as process (\d+)", (config.parent / "log").read_text())]


def queue_study(store: Store, instance: str = "1.2.3.1") -> None:
    arrival = Arrival("1.2", "1.2.3", instance, "1.2", "1.2", "a" * 64, "aa/a.dcm", 9)
    with store.begin() as connection:
        add_object(connection, arrival, 0.0)
        queue_complete(connection, 100.0, quiet=30, longest=900)


def test_what_is_killed_starts_again_and_all_end_with_the_supervisor(config: Path, store: Store) -> None:
    with supervising(config, "work", "load") as supervisor:
        wait_until(lambda: len(list_rows(store, readers)) == 1)
        wait_until(lambda: len(list_running(supervisor.pid)) == 2)
        first = list_running(supervisor.pid)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(list_running(supervisor.pid) - first) == 2)
        wait_until(lambda: len(list_events(store, "ended")) == 2)
        wait_until(lambda: len(list_rows(store, readers)) == 1)  # the new one; the old one is forgotten
        left = list_running(supervisor.pid)
        supervisor.terminate()
        assert supervisor.wait(LIMIT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    ended = [detail for _, detail in list_events(store, "ended")]
    assert ended[:2] == ["ended by SIGKILL"] * 2
    assert len(list_events(store, "started")) == len(ended) == 4
    assert list_rows(store, readers) == []


def test_a_spare_process_takes_the_place_of_a_killed_reader(tmp_path: Path, store: Store) -> None:
    config = write_config(tmp_path, spare=True)
    with supervising(config, "load") as supervisor:
        wait_until(lambda: len(list_running(supervisor.pid)) == 2)
        (first,) = list_started(config)
        (spare,) = list_running(supervisor.pid) - {first}
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: list_started(config) == [first, spare])
        wait_until(lambda: len(list_rows(store, readers)) == 1)
        wait_until(lambda: len(list_running(supervisor.pid)) == 2)  # with the next spare
        left = list_running(supervisor.pid)
        supervisor.terminate()
        assert supervisor.wait(LIMIT) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_only_a_reader_that_ended_before_it_was_told_to_counts_against_its_study(
    config: Path, store: Store
) -> None:
    role, settings = Role("work", "serve_roles", "work", is_reader=True), read_settings(config)
    told, killed = Child(role, 1, settings), Child(role, 2, settings)
    killed.process.kill()
    for child in (killed, told):
        if child is killed:
            child.process.join(LIMIT)
        child.stop()
    assert (killed.is_stopping, told.is_stopping) == (False, True)
    told.process.join(LIMIT)
    queue_study(store)
    with store.begin() as connection:
        claim_study(connection, told.identity, 200.0)
    give_back(settings, told.identity)  # as a reader does whose supervisor is gone
    assert list_rows(store, studies.c.state, studies.c.kills) == [("queued", 0)]


def test_processes_end_by_themselves_when_the_supervisor_is_killed(config: Path, store: Store) -> None:
    with supervising(config, "work", "load") as supervisor:
        wait_until(lambda: len(list_rows(store, readers)) == 1)
        left = list_running(supervisor.pid)
        supervisor.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    queue_study(store)
    with store.begin() as connection:
        claim_study(connection, "read-1-gone", 200.0)
    with supervising(config):  # the folder is free again, and lost readers are forgotten
        wait_until(lambda: list_rows(store, readers) == [])
        wait_until(lambda: list_rows(store, studies.c.state, studies.c.kills) == [("queued", 1)])


@pytest.mark.parametrize("role", ["die", "hang"])
def test_a_study_that_ends_its_readers_is_set_aside(config: Path, store: Store, role: str) -> None:
    queue_study(store)
    with supervising(config, role):
        wait_until(lambda: list_rows(store, studies.c.state) == [("set aside",)])
    assert list_rows(store, studies.c.reason, studies.c.kills) == [("it ended 2 readers", 2)]
    assert [detail for _, detail in list_events(store, "set aside")] == ["it ended 2 readers"]


def test_an_error_of_a_process_is_logged_without_what_it_says(config: Path, store: Store) -> None:
    with supervising(config, "fail"):
        wait_until(lambda: list_events(store, "ended"))
    log = (config.parent / "log").read_text()
    assert "ends by ValueError" in log
    assert "SECRET" not in log
    assert "Traceback" not in log


def test_a_new_model_takes_over_when_it_is_loaded_and_a_broken_one_never(config: Path, store: Store) -> None:
    model = config.parent / "model.zip"

    def list_models() -> list[object]:
        return [row[0] for row in list_rows(store, readers.c.model)]

    def replace(content: bytes) -> str:
        (new := model.with_name("new.zip")).write_bytes(content)
        new.replace(model)
        return hash_file(model)

    with supervising(config, "load") as supervisor:
        first = hash_file(model)
        wait_until(lambda: list_models() == [first])
        (pid,) = list_running(supervisor.pid)
        replace(b"")
        wait_until(lambda: len(list_events(store, "model")) == 2)
        assert list_models() == [first]
        assert pid in list_running(supervisor.pid)
        second = replace(b"second")
        wait_until(lambda: list_models() == [second])
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        (pid,) = list_running(supervisor.pid)
        supervisor.send_signal(signal.SIGHUP)
        wait_until(lambda: list_running(supervisor.pid).isdisjoint({pid}))
    said = [detail for _, detail in list_events(store, "model")]
    assert said[1] == "a reader could not start with the new model; the others keep the old one"
    assert said[2:] == [f"readers start with {second[:12]}"] * 2


def test_one_service_has_the_folder(config: Path) -> None:
    with holding(read_settings(config)), supervising(config) as second:
        assert second.wait(LIMIT) != 0
    assert "another ich serve runs there" in (config.parent / "log").read_text()


def test_a_killed_reader_loses_and_doubles_nothing_and_the_next_has_the_new_model(
    config: Path, store: Store
) -> None:
    model = config.parent / "model.zip"
    first = hash_file(model)
    (hold := config.parent / "serve" / HOLD).touch()
    queue_study(store)
    with supervising(config, "pretend") as supervisor:
        wait_until(lambda: list_rows(store, studies.c.state) == [("reading",)])
        (pid,) = list_running(supervisor.pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        hold.unlink()
        wait_until(lambda: list_rows(store, studies.c.state) == [("read",)])
        (new := model.with_name("new.zip")).write_bytes(b"second")
        second = hash_file(new.replace(model))
        wait_until(lambda: list_rows(store, readers.c.model) == [(second,)])
        queue_study(store, "1.2.3.2")  # a late slice
        wait_until(lambda: len(list_rows(store, readings)) == 2)
    assert list_rows(store, studies.c.kills, studies.c.state) == [(0, "read")]
    assert list_rows(store, readings.c.model, readings.c.number) == [(first, 2), (second, 3)]
    assert len(list_rows(store, attempts)) == 3
