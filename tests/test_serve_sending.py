"""Answers by DICOM reach their nodes, which are peers of the test on loopback."""

from __future__ import annotations

import shutil
import sqlite3
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import WAIT, Desk, list_uids
from nodes import CLASSES, Archive, serving
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from test_orthanc import find_port

from ich.serve.results import ResultFiles
from ich.serve.sending.worker import Worker
from ich.serve.settings.parts import Node, Tls
from ich.serve.states import SendState
from ich.serve.store import open_store
from ich.serve.store.sends import LEASE_SECONDS
from ich.serve.store.tables import sends


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


def test_an_answer_is_sent_again_if_the_database_was_locked_when_it_arrived(
    open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    def lock(*_: object) -> int:
        if not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")
        return 0x0000

    archive = Archive(status=lock)
    with serving(archive) as node:
        desk = open_desk(node)
        other = sqlite3.connect(desk.settings.store, isolation_level=None, check_same_thread=False)
        desk.store.close()
        desk.store = open_store(desk.settings.store, busy_seconds=0.1)
        with pytest.raises(OperationalError, match="locked"):
            desk.make_worker().deliver_next()
        other.execute("ROLLBACK")
        assert desk.tell() == (SendState.WAITING, "")
        archive.status = lambda _: 0x0000
        desk.now += LEASE_SECONDS
        assert desk.send() == (SendState.CONFIRMED, "")
        other.close()
    assert archive.stored == dict.fromkeys(list_uids(written), 2)
    assert [kind for kind, *_ in desk.list_events()] == ["sent", "confirmed"]


def test_a_reading_without_files_is_given_up(open_desk: Callable[..., Desk], tmp_path: Path) -> None:
    desk = open_desk(Node("pacs", "dicom", f"127.0.0.1:{find_port()}", ae_title="PACS", what=("sr",)))
    next(desk.settings.results.rglob("report.dcm")).unlink()
    assert desk.send() == (SendState.FAILED, "the reading has no file for what=sr")


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
    assert {str(dcmread(path).SOPInstanceUID) for path in out.iterdir()} == set(list_uids(written))


def test_what_a_node_says_of_a_patient_is_not_kept(
    open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    header = dcmread(written.report)
    answer = Dataset()
    answer.Status = 0xA700
    answer.ErrorComment = f"{header.PatientName} {header.PatientID}"[:64]
    with serving(Archive(status=lambda _: answer)) as node:
        desk = open_desk(node)
        assert desk.send() == (SendState.WAITING, "0xA700 for Comprehensive 3D SR Storage")
    assert desk.list_events() == [("not sent", "sender-1", "pacs: 0xA700 for Comprehensive 3D SR Storage")]
