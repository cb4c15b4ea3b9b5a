"""Receiving: objects per second beside DCMTK's storescp, and what was sent against what is there."""

import argparse
import multiprocessing
import socket
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from serve_shared import SLICES, answers, find, find_free_port, read_rss, send_all, wait_until, write_studies

from ich.serve.receive import run
from ich.serve.settings import Settings, make_settings


def add_command(commands: Any) -> None:
    parser = commands.add_parser("receive", help=__doc__)
    parser.add_argument("--associations", type=int, default=50, help="senders at once")
    parser.add_argument("--studies", type=int, default=50, help=f"of {SLICES} slices each")
    parser.add_argument("--echoes", type=int, default=2000, help="associations over which memory is watched")
    parser.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure_receive(arguments, Path(folder))


def record_echo(port: int) -> list[bytes]:
    sent: list[bytes] = []
    ae = AE("BENCH")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="ICH",
        evt_handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))],
    )
    association.send_c_echo()
    association.release()
    return sent


def echo(port: int, pdus: list[bytes]) -> float:
    """Asks once over a new association; returns the seconds until all was answered."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for pdu in pdus:
            sock.sendall(pdu)
            sock.recv(65536)
    return time.monotonic() - started


def measure_receive(arguments: argparse.Namespace, folder: Path) -> None:
    studies = write_studies(folder / "studies", arguments.studies)
    receive = {"port": find_free_port(), "most_associations": 200, "most_associations_of_a_peer": 200}
    settings = make_settings({"bundle": "none", "folder": str(folder / "service"), "receive": receive}, "")
    process = multiprocessing.get_context("spawn").Process(target=run, args=(settings, "bench"), daemon=True)
    process.start()
    port = settings.receive.port
    wait_until(lambda: answers(port), "a start of the receiver")
    ours = send_all(studies, port, arguments.associations)
    print(f"ich: {ours:.0f} objects/s; {describe(settings, len(studies) * SLICES)}")
    pdus = record_echo(port)
    for _ in range(200):
        echo(port, pdus)
    before = read_rss(process.pid or 0)
    seconds = sorted(echo(port, pdus) for _ in range(arguments.echoes))
    growth = read_rss(process.pid or 0) - before
    print(
        f"C-ECHO over {arguments.echoes} associations: p99 {seconds[int(0.99 * len(seconds))] * 1e3:.0f} ms, "
        f"memory grew by {growth:.1f} MiB"
    )
    process.terminate()
    process.join()
    other, out = find_free_port(), folder / "storescp"
    out.mkdir()
    command = [find("storescp"), "--fork", "-aet", "ICH", "-od", str(out), str(other)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: answers(other), "a start of storescp")
    theirs = send_all(studies, other, arguments.associations)
    server.kill()
    server.wait()
    print(f"storescp: {theirs:.0f} objects/s; ich reaches {100 * ours / theirs:.0f} % of it")


def describe(settings: Settings, sent: int) -> str:
    connection = sqlite3.connect(settings.store)
    (rows,) = connection.execute("SELECT count(*) FROM objects").fetchone()
    connection.close()
    files = sum(1 for path in settings.inbox.rglob("*.dcm"))
    return f"{sent} sent, {files} on the disk, {rows} in the queue"
