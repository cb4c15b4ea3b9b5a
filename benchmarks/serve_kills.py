"""Kills: kill -9 of receiver, readers and sender at random moments under load, and what is then there."""

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from serve_running import Running, archiving, copy_study, list_reports, write_heads, write_model

ROLES = ("receive", "read", "send")
VERIFICATION = "1.2.840.10008.1.1"
MOST_SECONDS = 300
MOST_WAITING = 6
"""Senders wait while so many studies are not read, so that what is to be read at the end is bounded."""


def add_command(commands: Any) -> None:
    parser = commands.add_parser("kills", help=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pause", type=float, default=4.0, help="longest pause before a kill, s")
    parser.add_argument("--minutes", type=float, default=30, help="no kill after so many")
    parser.add_argument("--senders", type=int, default=2)
    parser.add_argument("--slices", type=int, default=12, help="of a study")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=measure)


class Sender(threading.Thread):
    """A modality: sends study after study, and each object until it is acknowledged."""

    def __init__(self, service: Running, heads: list[Path], folder: Path, slices: int, seed: int) -> None:
        super().__init__()
        self._service, self._heads, self._folder, self._slices = service, heads, folder, slices
        self._random = random.Random(seed)
        self.stop = threading.Event()
        self.acknowledged: dict[str, str] = {}  # StudyInstanceUID by SOPInstanceUID
        self.repeated = 0

    def run(self) -> None:
        """Sends until it is told to stop; a study that was begun is finished."""
        ae = AE("MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 10
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        number = 0
        while not self.stop.is_set():
            waiting = "SELECT id FROM studies WHERE state NOT IN ('read', 'set aside')"
            if len(self._service.ask(waiting)) >= MOST_WAITING:
                self.stop.wait(0.2)
                continue
            number += 1
            folder = self._folder / str(number)
            study = copy_study(self._random.choice(self._heads), folder)
            self._send(ae, study, sorted(folder.iterdir())[: self._slices])

    def _send(self, ae: AE, study: str, paths: list[Path]) -> None:
        end = time.monotonic() + MOST_SECONDS
        left = list(paths)
        while left and time.monotonic() < end:
            association = ae.associate("127.0.0.1", self._service.port, ae_title="ICH")
            while left and association.is_established:
                ds = pydicom.dcmread(left[0])
                try:
                    status = association.send_c_store(ds)
                except RuntimeError:  # the association ended
                    self.repeated += 1
                    break
                if status and status.Status == 0:
                    self.acknowledged[str(ds.SOPInstanceUID)] = study
                    left.pop(0)
                else:
                    self.repeated += 1
            if association.is_established:
                association.release()
            if left:
                time.sleep(0.2)


def measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = write_model(folder / "model.zip", "test_resnet", 64)
        heads = write_heads(folder, 4, size=64, step=5.0)
        archive = folder / "archive"
        # A kill from outside looks like the study's fault, so the usual limit would set studies aside.
        read = {"most_kills": 10**6}
        with archiving(archive) as port, Running(folder / "one", model, port, read) as service:
            senders = [
                Sender(service, heads, folder / "sent" / str(n), arguments.slices, arguments.seed + n)
                for n in range(arguments.senders)
            ]
            for sender in senders:
                sender.start()
            try:
                kill_often(service, arguments)
            finally:
                for sender in senders:
                    sender.stop.set()
                for sender in senders:
                    sender.join()
            acknowledged = {uid: study for sender in senders for uid, study in sender.acknowledged.items()}
            repeated = sum(sender.repeated for sender in senders)
            print(f"{repeated} objects were refused or not answered, and repeated")
            wait_for_answers(service, set(acknowledged.values()), archive)
            report(service, acknowledged, archive, folder / "one" / "service" / "inbox")


def kill_often(service: Running, arguments: argparse.Namespace) -> None:
    rng = random.Random(arguments.seed)
    seconds = defaultdict(list)
    end = time.monotonic() + 60 * arguments.minutes
    for _ in range(arguments.kills):
        if time.monotonic() > end:
            break
        time.sleep(rng.uniform(0, arguments.pause))
        role = rng.choice(ROLES)
        identity, pid = service.find_process(role)
        started = time.monotonic()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        service.wait_for(lambda: echo(service.port), "a C-ECHO", 60)
        seconds["C-ECHO"].append(time.monotonic() - started)
        if role == "read":
            wait_for_reader(service, identity)
            seconds["a reader"].append(time.monotonic() - started)
        else:
            wait_for_start(service, role, identity)
        seconds[role].append(0.0)
    print(", ".join(f"{len(seconds[role])} kills of {role}" for role in ROLES), flush=True)
    for what in ("C-ECHO", "a reader"):
        found = seconds[what]
        if found:
            p50, p95, most = np.quantile(found, [0.5, 0.95, 1])
            print(f"{what} again after p50 {p50:.1f} s, p95 {p95:.1f} s, longest {most:.1f} s")


def wait_for_reader(service: Running, before: str) -> None:
    """Waits until another reader has loaded the model, and takes studies."""
    query = f"SELECT identity FROM readers WHERE identity != '{before}'"
    service.wait_for(lambda: service.ask(query), "another reader", 120)


def wait_for_start(service: Running, role: str, before: str) -> None:
    service.wait_for(lambda: service.find_process(role)[0] != before, "a start", 60)


def echo(port: int) -> bool:
    ae = AE("BENCH")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 2
    ae.add_requested_context(VERIFICATION)
    association = ae.associate("127.0.0.1", port, ae_title="ICH")
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool(status) and status.Status == 0


def wait_for_answers(service: Running, studies: set[str], archive: Path) -> None:
    end = time.monotonic() + MOST_SECONDS
    while len(list_reports(archive).keys() & studies) < len(studies) and time.monotonic() < end:
        time.sleep(1)
    open_sends = "SELECT id FROM sends WHERE state IN ('waiting', 'sent')"
    while service.ask(open_sends) and time.monotonic() < end:
        time.sleep(1)
    time.sleep(3)  # for anything that would come twice


def report(service: Running, acknowledged: dict[str, str], archive: Path, inbox: Path) -> None:
    rows = dict(service.ask("SELECT SOPInstanceUID, path FROM objects"))
    lost = [uid for uid in acknowledged if uid not in rows or not (inbox / rows[uid]).is_file()]
    studies = set(acknowledged.values())
    reports = list_reports(archive)
    answers = Counter(len(reports.get(study, {})) for study in studies)
    states = Counter(state for (state,) in service.ask("SELECT state FROM studies"))
    readings = service.ask("SELECT count(*) FROM readings")[0][0]
    attempts = service.ask("SELECT count(*) FROM attempts")[0][0]
    print(f"{len(acknowledged)} objects of {len(studies)} studies acknowledged; {len(lost)} of them lost")
    print(f"studies by state: {dict(states)}; {readings} readings in {attempts} attempts")
    print(f"studies by the number of reports at the archive: {dict(answers)}")
    print(f"studies at the archive that nobody sent: {len(reports.keys() - studies)}")
    sends = dict(service.ask("SELECT state, count(*) FROM sends GROUP BY state"))
    print(f"answers by state: {sends}")
