"""Bad peers and bad times: they cost nobody else anything, and what was refused for now is taken later."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from processes import FORKING
from pynetdicom import evt
from receiving import (
    GOOD_SECONDS,
    Start,
    ask,
    associate,
    echo,
    find_rejection,
    list_inbox,
    make_object,
    make_receive_settings,
    send,
    wait_for,
)

from ich.schema import UserError
from ich.serve.inbox import Inbox
from ich.serve.receive import check, run

pytestmark = pytest.mark.races

OUT_OF_RESOURCES, TOO_LARGE, TOO_MANY = 0xA700, 0xC001, 0xC002
DATA, RELEASE_RQ, ABORT = 4, 5, 7  # kinds of PDUs


def connect(port: int, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=GOOD_SECONDS)
    sock.sendall(data)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Reads until the receiver hangs up."""
    found = b""
    try:
        while piece := sock.recv(65536):
            found += piece
    except ConnectionError:
        pass
    sock.close()
    return found


def record_pdus(port: int) -> list[bytes]:
    """What a good sender sends: a request, an object and a release."""
    sent: list[bytes] = []
    association = associate(port, evt_handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))])
    association.send_c_store(make_object(1, 1))
    association.release()
    return sent


def test_silent_sockets_and_half_pdus_keep_nobody_out(start: Start) -> None:
    settings = start(most_associations=10, most_associations_of_a_peer=8)
    port = settings.receive.port
    request = record_pdus(port)[0]
    sockets = [connect(port, request[: number % 7 * 10]) for number in range(60)]
    assert all(echo(port) for _ in range(3))
    assert send(port, [make_object(2, 1)]) == [0]
    for sock in sockets:
        sock.close()


def test_associations_are_bounded_and_a_refused_peer_may_come_again(start: Start) -> None:
    settings = start(most_associations=3, most_associations_of_a_peer=2)
    port = settings.receive.port
    open_ones = [associate(port) for _ in range(2)]
    assert find_rejection(port)[0] == 2  # transient
    assert all(each.send_c_echo().Status == 0 for each in open_ones)
    open_ones[0].release()
    assert wait_for(lambda: echo(port))
    open_ones[1].release()
    (detail,) = wait_for(lambda: ask(settings, "SELECT actor, detail FROM events"))
    assert detail == ("127.0.0.1", "too many associations")


def test_a_silent_or_slow_association_is_ended(start: Start) -> None:
    settings = start(idle_seconds=0.5)
    request, command, *_ = record_pdus(settings.receive.port)
    silent = connect(settings.receive.port, request)
    slow = connect(settings.receive.port, request + command[:20])
    for sock in (silent, slow):
        answer = read_all(sock)
        size = 6 + int.from_bytes(answer[2:6], "big")
        assert answer[size] == ABORT
        assert len(answer) == size + 10
    details = wait_for(lambda: ask(settings, "SELECT detail FROM events"))
    assert ("the peer is silent or too slow",) in details


def test_titles_and_addresses_are_checked(start: Start) -> None:
    peers = [
        {"ae_title": "CT1", "addresses": ["127.0.0.0/8"]},
        {"ae_title": "CT2", "addresses": ["192.0.2.1"]},
    ]
    port = start(peers=peers).receive.port
    assert echo(port)
    for options, diagnostic in (({"title": "OTHER"}, 7), ({"calling": "CT2"}, 3), ({"calling": "X"}, 3)):
        assert find_rejection(port, **options) == (1, 1, diagnostic)


def test_a_peer_of_another_address_is_not_listened_to(start: Start) -> None:
    settings = start(peers=[{"ae_title": "CT1", "addresses": ["192.0.2.1"]}])
    assert read_all(connect(settings.receive.port)) == b""
    assert wait_for(lambda: ask(settings, "SELECT actor, detail FROM events")) == [
        ("127.0.0.1", "its address is not allowed")
    ]


def test_an_object_is_bounded_while_it_comes(start: Start) -> None:
    settings = start(most_object_mb=1)
    port = settings.receive.port
    large = make_object(1, 1, RedPaletteColorLookupTableData=bytes(1_500_000))
    association = associate(port)
    assert association.send_c_store(large).Status == TOO_LARGE
    assert association.send_c_store(make_object(1, 2)).Status == 0
    huge = make_object(1, 3, RedPaletteColorLookupTableData=bytes(4_000_000))
    assert "Status" not in association.send_c_store(huge)
    assert wait_for(lambda: association.is_aborted)
    assert ask(settings, "SELECT SOPInstanceUID FROM objects") == [("2.25.1.1.2",)]
    assert len(list_inbox(settings)) == 1


def test_objects_of_a_study_are_bounded(start: Start) -> None:
    settings = start(most_objects=2)
    objects = [make_object(1, number) for number in (1, 2, 3, 1)]
    assert send(settings.receive.port, objects) == [0, 0, TOO_MANY, 0]
    assert len(list_inbox(settings)) == 2
    assert send(settings.receive.port, [make_object(2, 1)]) == [0]


@pytest.mark.parametrize(
    "pdus",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes((DATA, 0)) + (1 << 24).to_bytes(4, "big"),
        bytes((1, 0)) + (1 << 30).to_bytes(4, "big"),
        bytes((RELEASE_RQ, 0, 0, 0, 0, 4)) + bytes(4),
        bytes((1, 0, 0, 0, 0, 68)) + bytes(68),
    ],
    ids=["http", "long data", "long request", "release first", "empty request"],
)
def test_nonsense_is_answered_with_an_abort(start: Start, pdus: bytes) -> None:
    settings = start()
    answer = read_all(connect(settings.receive.port, pdus))
    assert answer[:1] == bytes((ABORT,))
    assert len(answer) == 10


def test_mutated_pdus_cost_nobody_else_anything(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    settings = start(idle_seconds=0.3)
    port = settings.receive.port
    original = b"".join(record_pdus(port))
    rng = random.Random(7)
    with caplog.at_level(logging.DEBUG):
        for turn in range(300):
            data = bytearray(original)
            for _ in range(rng.choice((1, 1, 2, 8))):
                data[rng.randrange(rng.choice((300, len(data))))] = rng.randrange(256)
            if turn % 5 == 0:
                del data[rng.randrange(len(data)) :]
            sock = connect(port, data)
            sock.shutdown(socket.SHUT_WR)
            sock.close()
            if turn % 50 == 0:
                assert echo(port)
    assert echo(port)
    assert send(port, [make_object(3, 1)]) == [0]
    assert [record for record in caplog.records if record.name.startswith("ich")] == []
    named = {path for (path,) in ask(settings, "SELECT path FROM objects UNION SELECT path FROM conflicts")}
    assert wait_for(lambda: list_inbox(settings) == named)
    text = " ".join(detail for (detail,) in ask(settings, "SELECT detail FROM events"))
    assert "Marker" not in text
    assert "2.25" not in text


def test_a_full_disk_refuses_for_now(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = start(least_free_gb=1)
    port = settings.receive.port

    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "measure_free_bytes", lambda _: 10**8)
        assert send(port, [make_object()]) == [OUT_OF_RESOURCES]
        patch.setattr(Inbox, "measure_free_bytes", lambda _: 10**10)
        patch.setattr("ich.serve.inbox.flush_to_disk", fail)
        assert send(port, [make_object()]) == [OUT_OF_RESOURCES]
        assert list_inbox(settings) == set()
        assert echo(port)
    assert send(port, [make_object()]) == [0]
    details = [detail for (detail,) in ask(settings, "SELECT detail FROM events WHERE kind = 'refused'")]
    assert details == [
        "0xA700 the disk has too little room",
        "0xA700 the inbox cannot be written: No space left on device",
    ]


def test_a_locked_database_refuses_for_now_and_what_waits_is_written_later(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ich.serve.receive.LOCKED_SECONDS", 0.2)
    settings = start()
    port = settings.receive.port
    bringing = associate(port)
    assert bringing.send_c_store(make_object(1, 1)).Status == 0
    other = sqlite3.connect(settings.store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert bringing.send_c_store(make_object(1, 2)).Status == OUT_OF_RESOURCES
    assert echo(port)
    bringing.release()
    other.execute("ROLLBACK")
    other.close()
    assert send(port, [make_object(1, 2)]) == [0]
    assert wait_for(
        lambda: ask(settings, "SELECT count(*) FROM associations WHERE closed_at IS NULL") == [(0,)]
    )
    assert wait_for(lambda: ask(settings, "SELECT count(*) FROM events WHERE kind = 'refused'") == [(1,)])
    assert {row[0] for row in ask(settings, "SELECT path FROM objects")} == list_inbox(settings)


def listens(port: int) -> bool:
    try:
        connect(port).close()
    except OSError:
        return False
    return True


def test_a_killed_receiver_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    settings = make_receive_settings(tmp_path)
    port, rng = settings.receive.port, random.Random(1)
    acknowledged: list[int] = []
    ends = threading.Event()
    objects = [make_object(1, number) for number in range(400)]

    def keep_sending(number: int) -> None:
        while not ends.is_set():
            if not listens(port):  # pynetdicom would leave its socket open
                ends.wait(0.1)
                continue
            association = associate(port, seconds=2)  # pynetdicom waits as long after a kill
            with suppress(RuntimeError):  # pynetdicom's, when the receiver dies before it sends
                while association.is_established and not ends.is_set():
                    if association.send_c_store(objects[number]).get("Status") == 0:
                        acknowledged.append(number)
                        number += 2
            if association.is_established:
                association.release()

    def live(name: str) -> Any:
        process = FORKING.Process(target=run, args=(settings, name), daemon=True)
        process.start()
        return process

    senders = [threading.Thread(target=keep_sending, args=(first,), daemon=True) for first in (1, 2)]
    for sender in senders:
        sender.start()
    try:
        for turn in range(3):
            process, enough = live(f"life{turn}"), len(acknowledged) + 3 + rng.randrange(10)
            wait_for(lambda enough=enough: len(acknowledged) > enough)
            process.kill()
            process.join()
    finally:
        ends.set()
        for sender in senders:
            sender.join(GOOD_SECONDS)
    process = live("last")
    assert wait_for(lambda: echo(port))
    os.kill(process.pid, signal.SIGTERM)
    process.join(GOOD_SECONDS)
    assert process.exitcode == 0
    rows: dict[str, Any] = dict(ask(settings, "SELECT SOPInstanceUID, path FROM objects"))
    for number in acknowledged:
        assert pydicom.dcmread(settings.inbox / rows[f"2.25.1.1.{number}"]).InstanceNumber == number
    assert len(acknowledged) == len(set(acknowledged)) >= 12
    assert ask(settings, "SELECT count(*) FROM associations WHERE closed_at IS NULL") == [(0,)]
    assert not any((settings.inbox / "incoming").iterdir())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two certificates, each with its key, of nobody else."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder, found = tmp_path_factory.mktemp("tls"), {}
    for name in ("a", "b"):
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        words = (
            f"req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=localhost -keyout {key} -out {certificate}"
        )
        subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
        found |= {f"{name}_key": str(key), name: str(certificate)}
    return found


def test_encryption_keeps_others_out_and_a_bad_handshake_blocks_nobody(
    start: Start, certificates: dict[str, str]
) -> None:
    tls = {"certificate": certificates["a"], "key": certificates["a_key"], "authority": certificates["b"]}
    port = start(tls=tls).receive.port
    silent = [connect(port) for _ in range(3)]
    assert ABORT not in read_all(connect(port, random.Random(0).randbytes(500)))[:1]
    trusted = ssl.create_default_context(cafile=certificates["a"])
    stranger = ssl.create_default_context(cafile=certificates["a"])
    trusted.load_cert_chain(certificates["b"], certificates["b_key"])
    assert echo(port, tls_args=(trusted, "localhost"))
    assert not echo(port, tls_args=(stranger, "localhost"))
    assert not echo(port)
    for sock in silent:
        sock.close()


def test_faults_are_found_before_anything_listens(tmp_path: Path, certificates: dict[str, str]) -> None:
    def expect(message: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=message):
            check(make_receive_settings(tmp_path / "service", **changes))

    check(make_receive_settings(tmp_path / "service"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expect(f"receive.port={port}: nothing can listen there: Address already in use", port=port)
    tls = {"certificate": certificates["a"], "key": certificates["b_key"]}
    expect("they do not belong together", tls=tls)
    expect("cannot be used: No such file", tls=tls | {"key": "gone.pem"})
    expect("authority=.* cannot be used", tls=tls | {"key": certificates["a_key"], "authority": "gone.pem"})
    expect(
        "'10.0.0.0/99' of CT1 is not an IP address", peers=[{"ae_title": "CT1", "addresses": ["10.0.0.0/99"]}]
    )
    expect("gone is not a folder that can be read", folders=["gone"])
    expect("GB of room, and receive.least_free_gb=1e", least_free_gb=10**6)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"folder=\S+file cannot be written: Not a directory"):
        check(make_receive_settings(tmp_path / "file"))
