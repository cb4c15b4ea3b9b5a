"""Receiving: objects a second beside DCMTK's storescp, and what was acknowledged against what is there."""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from serve_shared import (
    ACCEPTORS,
    SLICES,
    answers,
    find,
    find_free_port,
    receiving,
    send_all,
    wait_until,
    write_studies,
)
from sqlalchemy import func, select

from ich.serve.settings import Settings
from ich.serve.states import StudyState
from ich.serve.store import open_store
from ich.serve.store.studies import queue_complete
from ich.serve.store.tables import objects, studies


def add_command(commands: Any) -> None:
    parser = commands.add_parser("receive", help=__doc__)
    parser.add_argument("--associations", type=int, default=50, help="senders at once")
    parser.add_argument("--studies", type=int, default=50, help=f"of {SLICES} slices each")
    parser.add_argument("--acceptor", choices=ACCEPTORS, default="ich")
    parser.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sent = write_studies(folder / "studies", arguments.studies)
        most = 4 * arguments.associations
        limits = {"most_associations": most, "most_associations_of_a_peer": most}
        print(f"load over a minute when the senders start: {os.getloadavg()[0]:.1f}")
        with receiving(folder / "service", folder / "log", arguments.acceptor, **limits) as (settings, _):
            ours, acknowledged = send_all(sent, settings.receive.port, arguments.associations)
        print(
            f"{arguments.acceptor}: {ours:.0f} objects/s; {acknowledged} acknowledged, {describe(settings)}"
        )
        theirs = measure_storescp(sent, folder / "storescp", arguments.associations)
        share = 100 * ours / theirs
        print(f"storescp: {theirs:.0f} objects/s; {arguments.acceptor} reaches {share:.0f} % of it")


def measure_storescp(sent: list[Path], out: Path, at_once: int) -> float:
    out.mkdir()
    port = find_free_port()
    command = [find("storescp"), "--fork", "-aet", "ICH", "-od", str(out), str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port), "a start of storescp")
        return send_all(sent, port, at_once)[0]
    finally:
        server.kill()
        server.wait()


def describe(settings: Settings) -> str:
    """Says what is there. All studies are complete, so each waits for a reader."""
    store = open_store(settings.store)
    with store.begin() as connection:
        now = time.time() + settings.complete.longest_seconds
        queue_complete(
            connection, now, quiet=settings.complete.quiet_seconds, longest=settings.complete.longest_seconds
        )
        rows = connection.execute(select(objects.c.path, objects.c.SOPInstanceUID)).all()
        queued = select(func.count(), func.sum(studies.c.objects)).where(studies.c.state == StudyState.QUEUED)
        waiting, in_queue = connection.execute(queued).one()
    store.close()
    files = {str(path.relative_to(settings.inbox)) for path in settings.inbox.rglob("*.dcm")}
    named, uids = {row.path for row in rows}, {row.SOPInstanceUID for row in rows}
    return (
        f"{len(files & named)} on the disk, {in_queue} in the queue in {waiting} studies; "
        f"{len(named - files)} lost, {len(rows) - len(uids) + len(files - named)} doubled"
    )
