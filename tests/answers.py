"""Readings to be sent, in a service of the test on a clock that the test sets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import dcmread
from results import make_result
from sqlalchemy import select
from test_dicom_outputs import read_series

from ich.outputs.captures import write_key_images
from ich.outputs.records import write_json
from ich.outputs.sr import write_sr
from ich.serve.results import ResultFiles
from ich.serve.sending.worker import Worker
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node
from ich.serve.states import SendState
from ich.serve.store import Store, open_store
from ich.serve.store.sends import queue_sends
from ich.serve.store.tables import events, readings, sends, studies

WAIT = 30  # seconds for a peer, on a machine with other work


def write_reading(phantom: Path, folder: Path) -> ResultFiles:
    """Writes the files of a positive reading of a conformant phantom."""
    series = read_series(phantom / "stage_2_train")
    files, result = ResultFiles(folder), make_result(series.index)
    write_json(result, files.result)
    write_sr(result, series.files, files.report)
    write_key_images(result, series.files, files.folder)
    return files


def list_uids(files: ResultFiles) -> list[str]:
    """The SOPInstanceUIDs of the report and the key images, in this order."""
    return [str(dcmread(path).SOPInstanceUID) for path in (files.report, *files.list_images())]


@dataclass
class Desk:
    """A service with readings to send, on a clock that the test sets."""

    settings: Settings
    store: Store
    written: ResultFiles
    now: float = 1e9
    workers: list[Worker] = field(default_factory=list)

    def read(self) -> None:
        """A reading of a new study, queued for all nodes."""
        with self.store.begin() as connection:
            number = len(connection.execute(select(studies.c.id)).all()) + 1
            row = {"id": number, "token": f"{number:032x}", "StudyInstanceUID": f"1.{number}"}
            connection.execute(studies.insert().values(**row, state="read", first_at=0, last_at=0))
            values = {"generation": 1, "model": "f" * 64, "number": 1, "folder": f"{number:032x}/1"}
            values |= {"started_at": 0, "finished_at": 0, "outcome": "POSITIVE", "id": number}
            connection.execute(readings.insert().values(study_id=number, **values))
            queue_sends(connection, self.settings.send, number, "POSITIVE", self.now)
        folder = self.settings.results / f"{number:032x}/1"
        folder.mkdir(parents=True)
        for path in self.written.folder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())

    def make_worker(self) -> Worker:
        worker = Worker(self.settings, self.store, self.settings.send[0], "sender-1", lambda: self.now)
        self.workers.append(worker)
        return worker

    def send(self) -> tuple[str, str]:
        """One attempt to send what is due; returns the state and the error."""
        assert self.make_worker().deliver_next()
        return self.tell()

    def tell(self) -> tuple[str, str]:
        with self.store.begin() as connection:
            return tuple(
                connection.execute(select(sends.c.state, sends.c.error).order_by(sends.c.id)).first()
            )

    def await_state(self, state: SendState) -> None:
        end = time.monotonic() + WAIT
        while self.tell()[0] != state:
            assert time.monotonic() < end, self.tell()
            time.sleep(0.02)

    def list_events(self) -> list[tuple[str, str, str]]:
        with self.store.begin() as connection:
            rows = connection.execute(select(events.c.kind, events.c.actor, events.c.detail))
            return [tuple(row) for row in rows]


@contextmanager
def opening_desks(written: ResultFiles, folder: Path) -> Iterator[Callable[..., Desk]]:
    """Opens services, each with one reading to send, and closes them."""
    desks: list[Desk] = []

    def open_one(*nodes: Node, **changes: Any) -> Desk:
        settings = Settings(bundle="", folder=str(folder / "service"), send=nodes, **changes)
        desk = Desk(settings, open_store(settings.store), written)
        desks.append(desk)
        desk.read()
        return desk

    yield open_one
    for desk in desks:
        for worker in desk.workers:
            worker.close()
        desk.store.close()
