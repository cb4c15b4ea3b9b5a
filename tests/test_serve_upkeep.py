"""What watches the service: the queue's loop, health, metrics, alarms and retention; on a simulated clock."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from serve_roles import wait_until
from sqlalchemy import func, select

from ich.calibration import Decision, NotFitted
from ich.calibration.points import OperatingPoint
from ich.files import hash_file
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelArguments, ModelMetadata, Recalibration
from ich.schema import InputSpec, UserError
from ich.schema.labels import RSNA_LABELS
from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.settings.parts import Upkeep
from ich.serve.states import StudyState
from ich.serve.store import Store, open_store
from ich.serve.store.alarms import begin_alarm, end_alarm, list_active
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.objects import Arrival, add_object, close_association, open_association
from ich.serve.store.studies import Reading, claim_study, finish_study
from ich.serve.store.tables import events, judgments, objects, readings, sends, studies
from ich.serve.upkeep import check, make_router
from ich.serve.upkeep.audit import export_events, move_events
from ich.serve.upkeep.loop import Task, do_due, list_slow_tasks, make_queue_task
from ich.serve.upkeep.references import expect_positive
from ich.serve.upkeep.samples import Share

NOW = 1_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


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
    tasks = [make_queue_task(settings, store)]
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
    assert done == [0, 0, 5, 10, 10, 3, 3]
    assert "first failed and is tried again: No space left on device" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.races
def test_the_process_ends_when_it_is_told_to(settings: Settings, store: Store) -> None:
    add(store, 1, NOW)  # long ago for the clock of the machine
    program = (
        "import sys; from ich.serve.settings import Settings; from ich.serve.upkeep import run; "
        "run(Settings(bundle=sys.argv[1], folder=sys.argv[2]), 'upkeep')"
    )
    command = [sys.executable, "-c", program, str(settings.bundle), str(settings.folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: find_state(store) == StudyState.QUEUED or process.poll() is not None)
        finally:
            process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert (process.returncode, said) == (0, "")
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
        "stall.not_queued: 1 studies are complete for 60 seconds and not in the queue\n",
    )


def test_it_is_not_ready_when_studies_are_not_read(
    ask: Ask, settings: Settings, store: Store, clock: Clock
) -> None:
    add(store, 1, NOW)
    add(store, 2, NOW)
    clock.now += 5 * MINUTE
    make_queue_task(settings, store).act(clock.now)
    assert ask("/ready")[0] == 200
    clock.now += 20 * MINUTE
    assert ask("/ready") == (
        503,
        "stall.not_read: 2 studies wait, and none was read to its end for 15 minutes\n",
    )
    read(store, clock.now)
    assert ask("/ready")[0] == 200
    clock.now += 15 * MINUTE
    assert ask("/ready") == (
        503,
        "stall.not_read: 1 studies wait, and none was read to its end for 15 minutes\n",
    )


def test_it_is_not_ready_without_room_or_database(
    ask: Ask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ich.serve.inbox.Inbox.measure_free_bytes", lambda inbox: 10**9)
    assert ask("/ready") == (503, "disk.full: 1.0 GB are free, and objects are refused below 2 GB\n")
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
    make_queue_task(settings, store).act(clock.now)
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
    make_queue_task(settings, store).act(clock.now)
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


def insert_readings(
    store: Store,
    probs: Sequence[float],
    *,
    positive: float = 0.1,
    distance: float = 1.0,
    accepted: float | None = None,
    model: str = "f" * 64,
) -> None:
    """Readings of a study each; ``positive`` and ``accepted`` are shares, spread evenly."""
    with store.begin() as connection:
        first = (connection.execute(select(func.max(readings.c.id))).scalar() or 0) + 1
        for number, prob in enumerate(probs, first):
            key = f"{number:032x}"
            row = {"token": key, "StudyInstanceUID": key, "state": "read", "first_at": NOW, "last_at": NOW}
            connection.execute(studies.insert().values(id=number, **row))
            outcome = "POSITIVE" if is_spread(number, positive) else "NEGATIVE"
            made = {"model": model, "outcome": outcome, "prob": prob, "distance": distance + 0.1 * prob}
            files = {"number": 1, "folder": f"{key}/1", "started_at": NOW, "finished_at": NOW}
            row = {"study_id": number, "generation": 1, "distance_limit": 1.5, **made, **files}
            connection.execute(readings.insert().values(row))
            if accepted is not None:
                verdict = "accept" if is_spread(number, accepted) else "reject"
                row = {"reading_id": number, "account": "me", "verdict": verdict, "judged_at": NOW}
                connection.execute(judgments.insert().values(row))


def is_spread(number: int, share: float) -> bool:
    return int((number + 1) * share) > int(number * share)


def make_probs(count: int, power: float = 3.0) -> list[float]:
    """Probabilities in an order that repeats, so that no sample differs from another by chance."""
    return [((number * 37 % 100) / 100) ** power for number in range(count)]


def look(settings: Settings, store: Store, name: str, now: float = NOW) -> list[str]:
    """Does one of the slow tasks; returns the alarms that are active then."""
    (task,) = [each for each in list_slow_tasks(settings, store, "upkeep", NOW) if name in each.name]
    task.act(now)
    with store.view() as connection:
        return list_active(connection)


def list_events(store: Store, kind: EventKind) -> list[str]:
    with store.view() as connection:
        query = select(events.c.detail).where(events.c.kind == kind).order_by(events.c.id)
        return list(connection.execute(query).scalars())


def test_a_stable_stream_raises_no_alarm(settings: Settings, store: Store) -> None:
    for _ in range(6):
        insert_readings(store, make_probs(100), accepted=0.9)
        assert look(settings, store, "drift") == []


@pytest.mark.parametrize(
    ("change", "alarms"),
    [
        ({"probs": make_probs(100, 1.0)}, ["drift.probabilities"]),
        ({"positive": 0.5}, ["drift.positives"]),
        ({"distance": 1.2}, ["drift.distances"]),
        ({"distance": 1.6}, ["drift.distances", "drift.out_of_distribution"]),
        ({"accepted": 0.4}, ["drift.agreement"]),
    ],
)
def test_drift_raises_an_alarm_that_begins_and_ends_once(
    settings: Settings, store: Store, change: dict[str, Any], alarms: list[str]
) -> None:
    usual: dict[str, Any] = {"probs": make_probs(100), "accepted": 0.9}
    for _ in range(4):
        insert_readings(store, **usual)
    assert look(settings, store, "drift") == []
    insert_readings(store, **(usual | change))
    for _ in range(3):
        assert [name for name in look(settings, store, "drift") if name in alarms] == alarms
    insert_readings(store, **usual)
    assert look(settings, store, "drift") == []
    told = list_events(store, EventKind.ALARM)
    for name in alarms:
        assert [each.partition(":")[0] for each in told if name in each] == ["began", "ended"]


def test_a_new_model_has_its_own_reference(settings: Settings, store: Store) -> None:
    insert_readings(store, make_probs(300))
    insert_readings(store, make_probs(100, 1.0), positive=0.5)
    assert look(settings, store, "drift") == ["drift.distances", "drift.positives", "drift.probabilities"]
    insert_readings(store, make_probs(200, 1.0), positive=0.5, model="e" * 64)
    assert look(settings, store, "drift") == []


def test_a_reading_that_was_superseded_or_is_a_shadow_does_not_count(
    settings: Settings, store: Store
) -> None:
    insert_readings(store, make_probs(200))
    insert_readings(store, make_probs(100), positive=1.0)
    insert_readings(store, make_probs(100))
    with store.begin() as connection:
        changed = readings.update().where(readings.c.id > 300)
        connection.execute(changed.values(supersedes_id=readings.c.id - 100))
    insert_readings(store, make_probs(100, 1.0), positive=1.0)
    with store.begin() as connection:
        connection.execute(readings.update().where(readings.c.id > 400).values(shadow=True))
    assert look(settings, store, "drift") == []


def write_description(ensemble: EnsembleMetadata, path: Path) -> None:
    """A bundle without weights, which nothing here looks at."""
    versions = {"ich": "1", "torch": "1", "timm": "1"}
    fields = {"format": "ich bundle 5", "note": "test", "versions": versions, "weights_sha256": "0" * 64}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", json.dumps(fields | {"ensemble": ensemble.to_plain()}))
        archive.writestr("model.safetensors", b"")


@pytest.mark.parametrize(("studies", "alarms"), [(400, ["drift.positives"]), (60, [])])
def test_a_recalibrated_bundle_says_how_many_studies_are_positive(
    settings: Settings, store: Store, studies: int, alarms: list[str]
) -> None:
    """The first readings cannot say it, because they are no different."""
    sensitive = OperatingPoint(0.5, "sensitivity>=0.95", 0.95, 0.9)
    names = RSNA_LABELS.names
    decision = Decision("mean_top3", dict.fromkeys(names, NotFitted("few")), dict.fromkeys(names, sensitive))
    site = Recalibration("here", studies, studies, dict.fromkeys(names, studies // 2))
    arguments = ModelArguments("resnet18", InputSpec(), 0.0, 0.0, "sigmoid", channels_last=False)
    metadata = ModelMetadata(arguments, decisions={"study": decision}, recalibration=site)
    ensemble = EnsembleMetadata((metadata,))
    assert expect_positive(ensemble) == Share(round(studies * 0.525), studies)
    write_description(ensemble, Path(settings.bundle))
    insert_readings(store, make_probs(300), positive=0.1, model=hash_file(settings.bundle))
    assert look(settings, store, "drift") == alarms
    Path(settings.bundle).write_bytes(b"another model, which made none of these readings")
    assert look(settings, store, "drift") == []


def test_what_stalls_raises_alarms(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        add(store, number, NOW)
    make_queue_task(settings, store).act(NOW + 40)
    read(store, NOW + 40)
    with store.begin() as connection:
        row = {"reading_id": 1, "node": "pacs", "state": "waiting", "next_at": 0, "created_at": NOW + 40}
        connection.execute(sends.insert().values(row))
        taken = open_association(connection, "me", "CT2", NOW)
        for peer, code in (("CT1", "0xC000 a UID"), ("CT2", "0xC000 a UID"), ("10.0.0.9", "not allowed")):
            for _ in range(10):
                add_event(connection, NOW, peer, EventKind.REFUSED, detail=code)
    add(store, 3, NOW, taken)
    assert look(settings, store, "stalls", NOW + 41) == ["stall.refused.CT1"]
    with store.begin() as connection:
        close_association(connection, taken, NOW + 42)
    assert look(settings, store, "stalls", NOW + 5 * HOUR) == [
        "stall.not_queued",
        "stall.not_read",
        "stall.not_sent.pacs",
    ]
    monkeypatch.setattr("ich.serve.inbox.Inbox.measure_free_bytes", lambda inbox: 10**9)
    assert "disk.full" in look(settings, store, "disk")
    monkeypatch.undo()
    assert "disk.full" not in look(settings, store, "disk")


def test_alarms_wait_until_the_service_had_time_to_start(settings: Settings, store: Store) -> None:
    add(store, 1, NOW - 9 * HOUR)
    make_queue_task(settings, store).act(NOW)
    tasks = list_slow_tasks(settings, store, "upkeep", NOW)
    for minutes in (0, 1, 14):
        do_due(tasks, NOW + minutes * MINUTE)
        with store.view() as connection:
            assert list_active(connection) == []
    do_due(tasks, NOW + 16 * MINUTE)
    with store.view() as connection:
        assert list_active(connection) == ["stall.not_read"]


class Listener(BaseHTTPRequestHandler):
    """Takes what is posted, or refuses it."""

    status = 204
    posted: ClassVar[list[tuple[bytes, dict[str, str]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.status < 300:
            self.posted.append((body, dict(self.headers)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.races
def test_alarms_are_posted_once_and_signed(
    settings: Settings, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = b"k" * 32
    (tmp_path / "secret").write_bytes(b"whsec_" + base64.b64encode(key))
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/alarms"
        upkeep = Upkeep(alarm_url=url, alarm_secret_file=str(tmp_path / "secret"))
        settings = replace(settings, upkeep=upkeep)
        with store.begin() as connection:
            assert begin_alarm(connection, NOW, "me", "disk.full", "1 GB are free")
            assert not begin_alarm(connection, NOW + 1, "another", "disk.full", "0 GB are free")
        tasks = [each for each in list_slow_tasks(settings, store, "me", NOW) if "posting" in each.name]
        Listener.status = 500
        do_due(tasks, NOW)
        assert "upkeep.alarm_url answered with HTTP status 500" in caplog.text
        Listener.status = 204
        do_due(tasks, NOW + 60)
        with store.begin() as connection:
            assert end_alarm(connection, NOW + 90, "me", "disk.full")
            assert not end_alarm(connection, NOW + 91, "me", "disk.full")
        do_due(tasks, NOW + 120)
        do_due(tasks, NOW + 180)
        server.shutdown()
    found = [json.loads(body) for body, _ in Listener.posted]
    began, ended = "1970-01-12T13:46:40+00:00", "1970-01-12T13:48:10+00:00"
    data = {"alarm": 1, "name": "disk.full", "detail": "1 GB are free", "began_at": began}
    assert found == [
        {"type": "alarm.began", "timestamp": began, "data": data | {"ended_at": None}},
        {"type": "alarm.ended", "timestamp": ended, "data": data | {"ended_at": ended}},
    ]
    for state, (body, headers) in zip(("began", "ended"), Listener.posted, strict=True):
        signed = f"alarm-1-{state}.{headers['webhook-timestamp']}.".encode() + body
        signature = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
    with store.view() as connection:
        assert connection.execute(select(func.count()).select_from(events)).scalar_one() == 2


def test_faults_of_the_settings_are_named(settings: Settings, tmp_path: Path) -> None:
    check(settings)
    (tmp_path / "empty").touch()
    for upkeep, message in (
        (Upkeep(alarm_url="alarms.example"), "upkeep.alarm_url=alarms.example: expected a URL"),
        (Upkeep(alarm_secret_file=str(tmp_path / "empty")), "must hold one line with the secret"),
        (Upkeep(alarm_secret_file="gone"), "upkeep.alarm_secret_file=gone cannot be read: No such file"),
        (Upkeep(metrics_from=("here",)), "upkeep.metrics_from: 'here' is not an IP address or network"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            check(replace(settings, upkeep=upkeep))


def bring(store: Store, inbox: Inbox, study: int, content: bytes, now: float) -> Path:
    """An object as a receiver takes it: its file first, and then its row."""
    kept = inbox.keep(b"", [content])
    path = inbox.locate(kept.path)
    os.utime(path, (now, now))
    digest = hashlib.sha256(content).hexdigest()
    with store.begin() as connection:
        arrival = Arrival(
            f"1.2.{study}", "1.2.1", f"1.2.{study}.1", "1.2", "1.2", digest, kept.path, len(content)
        )
        add_object(connection, arrival, now)
    return path


def clean(settings: Settings, store: Store, now: float) -> None:
    for task in list_slow_tasks(settings, store, "upkeep", now):
        if task.name in ("retention", "the daily cleaning"):
            task.act(now)


@pytest.fixture
def inbox(settings: Settings) -> Inbox:
    return Inbox(settings.inbox)


@pytest.fixture
def forgetful(settings: Settings) -> Settings:
    return replace(settings, upkeep=Upkeep(keep_days=30))


def test_retention_deletes_pixels_of_finished_studies_only(
    forgetful: Settings, store: Store, inbox: Inbox
) -> None:
    files = [bring(store, inbox, number, b"%d" % number, NOW) for number in range(4)]
    files.append(bring(store, inbox, 0, b"another content of the same UID", NOW))
    make_queue_task(forgetful, store).act(NOW + 40)
    read(store, NOW + 40)  # study 0; study 1 is being read, 2 waits, 3 arrives again and again
    with store.begin() as connection:
        claim_study(connection, "r", NOW + 40)
        receiving = studies.update().where(studies.c.StudyInstanceUID == "1.2.3")
        connection.execute(receiving.values(state="receiving"))
    (forgetful.results / "kept").mkdir(parents=True)
    clean(forgetful, store, NOW + 29 * DAY)
    assert [path.exists() for path in files] == [True] * 5
    for _ in range(2):
        clean(forgetful, store, NOW + 31 * DAY)
        assert [path.exists() for path in files] == [False, True, True, True, False]
    with store.view() as connection:
        rows = connection.execute(select(studies.c.pixels_deleted, studies.c.objects)).all()
        assert connection.execute(select(func.count()).select_from(readings)).scalar_one() == 1
    assert rows == [(True, 0)] + [(False, 1)] * 3
    assert list_events(store, EventKind.DELETED) == ["2 files"]
    assert (forgetful.results / "kept").exists()


def test_without_a_limit_all_pixels_stay(settings: Settings, store: Store, inbox: Inbox) -> None:
    path = bring(store, inbox, 1, b"1", NOW)
    make_queue_task(settings, store).act(NOW + 40)
    read(store, NOW + 40)
    clean(settings, store, NOW + 9999 * DAY)
    assert path.exists()


def test_a_study_that_comes_again_after_its_pixels_were_deleted_is_read_again(
    forgetful: Settings, store: Store, inbox: Inbox
) -> None:
    first = bring(store, inbox, 1, b"1", NOW)
    make_queue_task(forgetful, store).act(NOW + 40)
    read(store, NOW + 40)
    clean(forgetful, store, NOW + 31 * DAY)
    assert not first.exists()
    again = bring(store, inbox, 1, b"1", NOW + 40 * DAY)
    clean(forgetful, store, NOW + 41 * DAY)
    assert again.exists()
    make_queue_task(forgetful, store).act(NOW + 41 * DAY)
    with store.begin() as connection:
        claim = claim_study(connection, "r", NOW + 41 * DAY)
        assert claim is not None
        assert [inbox.locate(path) for path in claim.paths] == [again]


@pytest.mark.parametrize("killed_at", range(1, 8))
def test_retention_can_be_killed_at_any_step(
    forgetful: Settings, store: Store, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """Each change of the disk or the database may be the last one. The next run ends the work."""
    files = [bring(store, inbox, number, b"%d" % number, NOW) for number in range(2)]
    late = bring(store, inbox, 2, b"2", NOW + 30 * DAY)
    make_queue_task(forgetful, store).act(NOW + 31 * DAY)
    for _ in range(3):
        read(store, NOW + 31 * DAY)
    steps = iter(range(1, 99))

    class KilledError(Exception):
        pass

    def break_at(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def act(*args: Any, **kwargs: Any) -> Any:
            if next(steps) == killed_at:
                raise KilledError
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, act)

    with monkeypatch.context():
        for owner, name in ((Path, "replace"), (Path, "unlink"), (Store, "begin")):
            break_at(owner, name)
        with suppress(KilledError):
            clean(forgetful, store, NOW + 32 * DAY)
    monkeypatch.undo()
    with store.view() as connection:
        named = [inbox.locate(path) for path in connection.execute(select(objects.c.path)).scalars()]
    assert all(path.exists() for path in named)
    clean(forgetful, store, NOW + 32 * DAY)
    left = sorted(path for path in inbox.folder.rglob("*") if path.is_file())
    assert left == [late]
    assert not any(path.exists() for path in files)


def test_an_object_that_comes_while_its_file_is_deleted_stays(inbox: Inbox) -> None:
    path = inbox.keep(b"", [b"1"]).path  # now, by the clock of the machine
    assert not inbox.remove_settled(path, time.time() - HOUR)
    assert inbox.locate(path).read_bytes() == b"1"
    assert inbox.remove_settled(path, time.time() + HOUR)
    assert inbox.remove_settled(path, time.time() + HOUR)


def test_files_that_no_row_names_are_removed_after_a_day(
    settings: Settings, store: Store, inbox: Inbox
) -> None:
    named = bring(store, inbox, 1, b"1", NOW)
    stray = inbox.locate(inbox.keep(b"", [b"2"]).path)
    os.utime(stray, (NOW, NOW))
    clean(settings, store, NOW + 0.9 * DAY)
    assert stray.exists()
    clean(settings, store, NOW + 1.1 * DAY)
    assert [named.exists(), stray.exists()] == [True, False]


def test_old_events_move_to_files_and_the_export_has_all(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.begin() as connection:
        for number in range(4):
            at = NOW + number * 20 * DAY
            add_event(connection, at, "me", EventKind.READ, study=f"{number}", detail="POSITIVE \u00fc")

    def export() -> list[str]:
        with store.view() as connection:
            return list(export_events(connection, settings.audit))

    whole = export()
    first = {"id": 1, "at": "1970-01-12T13:46:40.000+00:00", "actor": "me", "kind": "read", "study": "0"}
    assert json.loads(whole[0]) == first | {"detail": "POSITIVE \u00fc"}
    with monkeypatch.context() as killed:  # before the events leave the database, and amid a line
        killed.setattr(Store, "begin", lambda store: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            move_events(store, settings.audit, NOW + 50 * DAY)
    with (settings.audit / "events-1970-01.jsonl").open("a") as file:
        file.write('{"id": 2')
    clean(settings, store, NOW + (365 + 50) * DAY)
    assert sorted(path.name for path in settings.audit.iterdir()) == [
        "events-1970-01.jsonl",
        "events-1970-02.jsonl",
    ]
    assert export() == whole
    with store.view() as connection:
        assert connection.execute(select(events.c.id)).scalars().all() == [4]
