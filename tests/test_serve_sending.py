"""Answers by DICOM reach their nodes, which are peers of the test on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from answers import WAIT, Desk, opening_desks, write_reading
from drawings import draw_once
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from sqlalchemy import select
from test_orthanc import find_port

from ich.schema.formats import to_plain
from ich.serve.results import ResultFiles
from ich.serve.sending.commitment import Reports, make_report_context
from ich.serve.sending.worker import Worker
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node, Tls
from ich.serve.states import SendState
from ich.serve.store.tables import sends

COMMITMENT = "1.2.840.10008.1.20.1"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> ResultFiles:
    phantom = draw_once(tmp_path_factory, patients=1, seed=5, conformant=True)
    return write_reading(phantom, tmp_path_factory.mktemp("reading"))


@pytest.fixture
def open_desk(written: ResultFiles, tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    with opening_desks(written, tmp_path) as open_one:
        yield open_one


@dataclass
class Archive:
    """A DICOM node that counts what it stores, and answers as the test says."""

    status: Callable[[Dataset], int] = lambda _: 0x0000
    stored: Counter[str] = field(default_factory=Counter)
    asked: list[Dataset] = field(default_factory=list)
    action_status: Callable[[], int] = lambda: 0x0000
    make_report: Callable[[Dataset], Dataset | None] = lambda _: None
    port: int = 0

    def store(self, event: evt.Event) -> int:
        status = self.status(event.dataset)
        if status in (0x0000, 0xB000):
            self.stored[event.dataset.SOPInstanceUID] += 1
        return status

    def take_question(self, event: evt.Event) -> tuple[int, None]:
        self.asked.append(event.action_information)
        return self.action_status(), None

    def report(self, event: evt.Event) -> None:
        """Reports on the same association, when the answer to the question has gone out."""
        if type(event.message).__name__ == "N_ACTION_RSP" and (told := self.make_report(self.asked[-1])):
            threading.Thread(target=try_report, args=(event.assoc, told)).start()


def send_report(association: Any, report: Dataset) -> int:
    kind = 2 if "FailedSOPSequence" in report else 1
    answer, _ = association.send_n_event_report(report, kind, COMMITMENT, f"{COMMITMENT}.1")
    return int(answer.Status)


def try_report(association: Any, report: Dataset) -> None:
    with suppress(AttributeError, RuntimeError):  # the one who asked is gone
        send_report(association, report)


def commit(question: Dataset, lost: int = 0) -> Dataset:
    """A report on all objects of a question, the first ones lost."""
    report, items = Dataset(), list(question.ReferencedSOPSequence)
    report.TransactionUID = question.TransactionUID
    report.ReferencedSOPSequence = items[lost:]
    if lost:
        for item in items[:lost]:
            item.FailureReason = 0x0112
        report.FailedSOPSequence = items[:lost]
    return report


CLASSES = ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.7")


@contextmanager
def serving(
    archive: Archive, *, classes: tuple[str, ...] = CLASSES, commits: bool = True, **ways: Any
) -> Iterator[Node]:
    entity = AE(ae_title="PACS")
    entity.require_called_aet = True
    for uid in classes:
        entity.add_supported_context(uid)
    if commits:
        entity.add_supported_context(COMMITMENT)
    handlers = [
        (evt.EVT_C_STORE, archive.store),
        (evt.EVT_N_ACTION, archive.take_question),
        (evt.EVT_DIMSE_SENT, archive.report),
    ]
    server = entity.start_server(("127.0.0.1", archive.port), block=False, evt_handlers=handlers, **ways)
    try:
        yield Node("pacs", "dicom", f"127.0.0.1:{server.server_address[1]}", ae_title="PACS")
    finally:
        server.shutdown()


def list_uids(files: ResultFiles) -> set[str]:
    return {str(dcmread(path).SOPInstanceUID) for path in (files.report, *files.list_images())}


def test_an_archive_that_takes_all_has_the_answer(
    open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    archive = Archive()
    with serving(archive) as node:
        desk = open_desk(node)
        assert desk.send() == (SendState.CONFIRMED, "")
    assert archive.stored == dict.fromkeys(list_uids(written), 1)
    assert desk.list_events() == [("sent", "sender-1", "pacs"), ("confirmed", "sender-1", "pacs")]
    assert not desk.make_worker().deliver_next()


@pytest.mark.parametrize(("what", "count"), [(("sr",), 1), (("sc",), 3)])
def test_a_node_gets_what_it_wants(open_desk: Callable[..., Desk], what: Any, count: int) -> None:
    archive = Archive()
    with serving(archive) as node:
        assert open_desk(replace(node, what=what)).send() == (SendState.CONFIRMED, "")
    assert archive.stored.total() == count


@pytest.mark.parametrize(
    ("status", "state", "error"),
    [
        (0xB000, SendState.CONFIRMED, ""),
        (0xA700, SendState.WAITING, "0xA700 for Secondary Capture Image Storage"),
        (0xC123, SendState.WAITING, "0xC123 for Secondary Capture Image Storage"),
        (0x0122, SendState.WAITING, "0x0122 for Secondary Capture Image Storage"),
    ],
)
def test_only_success_and_warnings_count(
    open_desk: Callable[..., Desk], status: int, state: str, error: str
) -> None:
    archive = Archive(status=lambda ds: status if ds.Modality == "OT" else 0)
    with serving(archive) as node:
        desk = open_desk(node)
        assert desk.send() == (state, error)
        if state == SendState.WAITING:
            archive.status, desk.now = lambda _: 0, desk.now + 100
            assert desk.send() == (SendState.CONFIRMED, "")
    assert len(archive.stored) == 4  # the report went twice under one UID


def test_what_an_archive_does_not_offer_is_not_sent(open_desk: Callable[..., Desk]) -> None:
    with serving(Archive(), classes=CLASSES[1:]) as node:
        error = "the node does not take Comprehensive 3D SR Storage"
        assert open_desk(node).send() == (SendState.WAITING, error)


def test_an_archive_that_rejects_or_is_away_is_named(open_desk: Callable[..., Desk]) -> None:
    with serving(Archive()) as node:
        desk = open_desk(replace(node, ae_title="ANOTHER"))
        state, error = desk.send()
        assert (state, error) == (
            SendState.WAITING,
            "the association was rejected: Called AE title not recognised",
        )
    desk.now += 100
    assert desk.send() == (SendState.WAITING, "no connection")


def test_a_reading_without_files_is_given_up(open_desk: Callable[..., Desk], tmp_path: Path) -> None:
    desk = open_desk(Node("pacs", "dicom", f"127.0.0.1:{find_port()}", ae_title="PACS", what=("sr",)))
    next(desk.settings.results.rglob("report.dcm")).unlink()
    assert desk.send() == (SendState.FAILED, "the reading has no file for what=sr")


@pytest.mark.races
def test_an_archive_that_commits_itself_at_once(open_desk: Callable[..., Desk]) -> None:
    archive = Archive(make_report=commit)
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.CONFIRMED)
    assert len(archive.asked[0].ReferencedSOPSequence) == 4
    assert [kind for kind, *_ in desk.list_events()] == ["sent", "confirmed"]


@pytest.mark.races
def test_an_archive_that_lost_something_gets_it_again(open_desk: Callable[..., Desk]) -> None:
    archive = Archive(make_report=lambda question: commit(question, lost=1))
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.WAITING)
        assert desk.tell()[1] == "the node keeps 3 of 4 objects"
        archive.make_report, desk.now = commit, desk.now + 100
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.CONFIRMED)
    assert list(archive.stored.values()) == [2] * 4
    first, second = archive.asked
    assert first.TransactionUID != second.TransactionUID


def test_an_archive_that_forgets_is_asked_again(open_desk: Callable[..., Desk]) -> None:
    archive = Archive()
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True, commitment_minutes=5))
        assert desk.send() == (SendState.SENT, "")
        desk.now += 300
        assert not desk.make_worker().deliver_next()
        assert desk.tell() == (SendState.WAITING, "the node did not confirm it in time")
        desk.now += 100
        assert desk.send() == (SendState.SENT, "")
    assert len(archive.asked) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [(0x0112, "0x0112 for the request for storage commitment"), (None, "the node does not take requests")],
)
def test_an_archive_that_does_not_take_the_question(
    open_desk: Callable[..., Desk], status: int | None, error: str
) -> None:
    archive = Archive(action_status=lambda: status or 0)
    with serving(archive, commits=status is not None) as node:
        state, said = open_desk(replace(node, commitment=True)).send()
    assert state == SendState.WAITING
    assert said.startswith(error)


@pytest.fixture
def receiver() -> Iterator[Callable[[Desk], int]]:
    """The part of a receiver that takes reports, in another process as a rule; returns its port."""
    servers = []

    def start(desk: Desk) -> int:
        reports = Reports(desk.settings, desk.store, "receiver-1", lambda: desk.now)
        entity = AE(ae_title="ICH")
        entity.supported_contexts = [make_report_context()]
        handler = lambda event: (reports.take(event.event_type, event.event_information), None)  # noqa: E731
        servers.append(
            entity.start_server(
                ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, handler)]
            )
        )
        return int(servers[-1].server_address[1])

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("role", [True, False])
def test_a_report_on_a_new_association_counts(
    open_desk: Callable[..., Desk], receiver: Callable[[Desk], int], role: bool
) -> None:
    archive = Archive()
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.send() == (SendState.SENT, "")
        (question,) = archive.asked
        stranger, partly, broken = commit(question), commit(question), commit(question)
        stranger.TransactionUID = "2.25.1"
        del partly.ReferencedSOPSequence[0]
        del broken.TransactionUID
        entity = AE(ae_title="PACS")
        entity.add_requested_context(COMMITMENT)
        ways = {"ext_neg": [build_role(COMMITMENT, scp_role=True)]} if role else {}
        association = entity.associate("127.0.0.1", receiver(desk), ae_title="ICH", **ways)
        assert association.is_established
        assert send_report(association, stranger) == 0x0000
        assert desk.tell() == (SendState.SENT, "")
        assert send_report(association, broken) == 0x0110
        assert send_report(association, partly) == 0x0000
        assert desk.tell() == (SendState.WAITING, "the node keeps 3 of 4 objects")
        assert send_report(association, commit(question)) == 0x0000
        association.release()
    assert desk.tell() == (SendState.CONFIRMED, "")


SENDER = """
import sys
from ich.serve.sending import run
from ich.serve.settings import make_settings
import json
run(make_settings(json.loads(sys.argv[1]), "test"), "sender-1")
"""


@contextmanager
def sending(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A sender in a process of its own."""
    process = subprocess.Popen([sys.executable, "-c", SENDER, json.dumps(to_plain(settings))])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.races
@pytest.mark.parametrize(
    ("moment", "state"), [(1, SendState.WAITING), (4, SendState.WAITING), (5, SendState.SENT)]
)
def test_a_sender_that_is_killed_doubles_and_loses_nothing(
    open_desk: Callable[..., Desk], written: ResultFiles, moment: int, state: SendState
) -> None:
    came, go = [threading.Event() for _ in range(10)], threading.Event()

    def hold(*_: object) -> int:
        """The archive holds its answer to the object, or after four of them to the question."""
        number = sum(event.is_set() for event in came)
        came[number].set()
        if number + 1 >= moment:
            go.wait(WAIT)
        return 0x0000

    archive = Archive(status=hold, action_status=hold, make_report=commit)
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        with sending(desk.settings) as process:
            assert came[moment - 1].wait(WAIT)
            process.kill()
            process.wait()
        assert desk.tell()[0] == state  # and not shown as confirmed
        go.set()
        with sending(desk.settings) as process:
            desk.await_state(SendState.CONFIRMED)
            process.terminate()
            assert process.wait(WAIT) == 0
    assert set(archive.stored) == list_uids(written)


@pytest.mark.races
def test_a_node_that_is_away_delays_no_other(open_desk: Callable[..., Desk]) -> None:
    with serving(Archive()) as node, socket.create_server(("127.0.0.1", 0)) as silent:
        away = replace(node, name="away", address=f"127.0.0.1:{silent.getsockname()[1]}")
        desk = open_desk(away, node)
        with sending(desk.settings) as process:
            end = time.monotonic() + WAIT
            while [kind for kind, *_ in desk.list_events()] != ["sent", "confirmed"]:
                assert time.monotonic() < end
                time.sleep(0.05)
            process.kill()


@pytest.fixture
def certificate(tmp_path: Path) -> Tls:
    return make_certificate(tmp_path, "node")


def make_certificate(folder: Path, name: str) -> Tls:
    """A certificate that is its own authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, path = folder / f"{name}.key", folder / f"{name}.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    subprocess.run([*command, "-keyout", key, "-out", path], check=True, capture_output=True)
    return Tls(str(path), str(key), str(path))


def test_a_node_may_be_reached_encrypted(
    open_desk: Callable[..., Desk], certificate: Tls, tmp_path: Path
) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate.certificate, certificate.key)
    server.load_verify_locations(certificate.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    archive = Archive()
    with serving(archive, ssl_context=server) as node:
        desk = open_desk(replace(node, tls=certificate))
        assert desk.send() == (SendState.CONFIRMED, "")
    other = make_certificate(tmp_path, "other")
    with serving(archive, ssl_context=server) as node:
        node = replace(node, tls=replace(certificate, authority=other.authority))
        worker = Worker(replace(desk.settings, send=(node,)), desk.store, node, "sender-1", lambda: desk.now)
        desk.read()
        assert worker.deliver_next()
    with desk.store.begin() as connection:
        errors = connection.execute(select(sends.c.error).order_by(sends.c.id)).scalars().all()
    assert errors == ["", "no connection"]
    assert archive.stored.total() == 4


STORESCP = shutil.which("storescp")


@pytest.mark.races
@pytest.mark.skipif(STORESCP is None, reason="DCMTK's storescp is not installed")
def test_dcmtk_takes_an_answer(open_desk: Callable[..., Desk], written: ResultFiles, tmp_path: Path) -> None:
    out, port = tmp_path / "stored", find_port()
    out.mkdir()
    server = subprocess.Popen([str(STORESCP), "-od", str(out), "-aet", "PACS", str(port)])
    try:
        desk = open_desk(Node("pacs", "dicom", f"127.0.0.1:{port}", ae_title="PACS"))
        end = time.monotonic() + WAIT
        while desk.send() != (SendState.CONFIRMED, ""):
            assert time.monotonic() < end, desk.tell()
            desk.now += 300
            time.sleep(0.1)
    finally:
        server.terminate()
        server.wait(WAIT)
    assert {str(dcmread(path).SOPInstanceUID) for path in out.iterdir()} == list_uids(written)
