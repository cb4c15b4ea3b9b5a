"""Hostile peers: what a good sender waits meanwhile, what they leave behind, and what memory grows by."""

import argparse
import multiprocessing
import re
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import serve_attacks
from pydicom import uid
from pynetdicom import AE, evt
from serve_shared import ACCEPTORS, make_slice, read_rss, receiving

from ich.serve.settings import Settings

ECHO = "1.2.840.10008.1.1"
WARM_UP = 500  # associations before memory is measured
_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}\.dcm")


def add_command(commands: Any) -> None:
    parser = commands.add_parser("hostile", help=__doc__)
    parser.add_argument(
        "--mutated",
        type=int,
        default=10_000,
        help="mutated associations; the attack lasts as long; 0 for none",
    )
    parser.add_argument(
        "--echoes", type=int, default=10_000, help="good associations over which memory is watched"
    )
    parser.add_argument("--acceptor", choices=ACCEPTORS, default="ich")
    parser.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = folder / "a" / "b" / "c" / "service"  # so that paths upward end in the folder too
        with receiving(place, folder / "log", arguments.acceptor) as (settings, process):
            pid = process.pid or 0
            pdus = record(settings, with_object=False)
            for _ in range(WARM_UP):
                echo(settings, pdus)
            before = read_rss(pid)
            if arguments.echoes:
                report("at peace", [echo(settings, pdus) for _ in range(arguments.echoes)])
                growth = read_rss(pid) - before
                print(f"memory grew by {growth:.1f} MiB over {arguments.echoes} associations")
            if arguments.mutated:
                before = read_rss(pid)
                report("under attack", attack(settings, arguments.mutated, pdus))
                report("after it", [echo(settings, pdus) for _ in range(WARM_UP)])
                print(f"memory grew by {read_rss(pid) - before:.1f} MiB")
                print(look(folder, settings))


def attack(settings: Settings, mutated: int, pdus: list[bytes]) -> list[float | None]:
    """Asks again and again until all mutated associations are sent; returns the seconds of each echo."""
    stop = multiprocessing.get_context("fork").Event()
    uids = tuple(f"2.25.{number}".encode() for number in (777001, 777002, 777003))
    target = serve_attacks.Target(
        settings.receive.port, tuple(record(settings, with_object=True)), uids, stop
    )
    attackers = serve_attacks.start(target, mutated)
    seconds = []
    try:
        while attackers["mutated"].is_alive():
            seconds.append(echo(settings, pdus))
            time.sleep(0.02)
    finally:
        stop.set()
        for name, process in attackers.items():
            process.join(10)
            if process.exitcode:
                print(f"the attacker {name} ended with {process.exitcode}")
    return seconds


def record(settings: Settings, *, with_object: bool) -> list[bytes]:
    """Returns what a good sender sends for a C-ECHO or a C-STORE, one PDU each."""
    sent: list[bytes] = []
    ae = AE("BENCH")
    ae.add_requested_context(ECHO)
    ae.add_requested_context(uid.CTImageStorage, uid.ExplicitVRLittleEndian)
    handlers = [(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))]
    association = ae.associate("127.0.0.1", settings.receive.port, ae_title="ICH", evt_handlers=handlers)
    if with_object:
        ds = make_slice(1, 1)
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
            "2.25.777001",
            "2.25.777002",
            "2.25.777003",
        )
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        association.send_c_store(ds)
    else:
        association.send_c_echo()
    association.release()
    return sent


def echo(settings: Settings, pdus: list[bytes]) -> float | None:
    """Asks once over a new association; returns the seconds until all was answered, None if it was not."""
    started = time.monotonic()
    kinds = []
    try:
        with socket.create_connection(("127.0.0.1", settings.receive.port), 10) as sock:
            for pdu in pdus:
                sock.sendall(pdu)
                kinds.append(sock.recv(65536)[:1])
    except OSError:
        return None
    is_answered = kinds == [b"\2", b"\4", b"\6"]  # accepted, answered, released
    return time.monotonic() - started if is_answered else None


def report(when: str, seconds: Iterable[float | None]) -> None:
    seconds = list(seconds)
    answered = sorted(each for each in seconds if each is not None)
    if not answered:
        print(f"C-ECHO {when}: none of {len(seconds)} answered")
        return
    p50, p99 = (answered[int(share * len(answered))] * 1e3 for share in (0.5, 0.99))
    print(
        f"C-ECHO {when}: {len(answered)} of {len(seconds)} answered, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
        f"longest {answered[-1] * 1e3:.0f} ms"
    )


def look(folder: Path, settings: Settings) -> str:
    """Says what lies where nothing should, and what the receiver logged."""
    ours = {folder / "log", *folder.glob("a/b/c/service/queue.sqlite*")}
    files = [path for path in folder.rglob("*") if path.is_file() and path not in ours]
    kept = [path for path in files if path.is_relative_to(settings.inbox)]
    connection = sqlite3.connect(settings.store)
    query = "SELECT path FROM objects UNION SELECT path FROM conflicts"
    named = {settings.inbox / path for (path,) in connection.execute(query)}
    connection.close()
    odd = [path for path in kept if not _NAME.fullmatch(str(path.relative_to(settings.inbox)))]
    lines = (folder / "log").read_text().splitlines()
    foreign = sum("Traceback" in line or " ended: " in line for line in lines)
    return (
        f"{len(kept)} files in the inbox, {len(odd)} of other names, {len(set(kept) ^ named)} without a row "
        f"or missing; {len(files) - len(kept)} files outside; "
        f"{len(lines)} lines in the log, {foreign} of exceptions"
    )
