"""A model and the parts of a service around a reader, for the tests of the service."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pydicom
from networks import make_model
from sqlalchemy import select

from ich.calibration import Decision, NotFitted
from ich.calibration.points import OperatingPoint
from ich.model_files.bundle import write_bundle
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec
from ich.serve.inbox import Inbox
from ich.serve.reading import run
from ich.serve.reading.reader import Reader
from ich.serve.reading.study import prepare_study
from ich.serve.results import ResultFiles
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.objects import Arrival, add_object
from ich.serve.store.studies import Content, queue_complete
from ich.serve.store.tables import readings


def write_model(path: Path, threshold: float | None = 0.0) -> Path:
    """A bundle of a network of random weights; with the threshold 0 each study is POSITIVE."""
    net = make_model(InputSpec(size=64), ood=False)
    missing = dict.fromkeys(LABELS, NotFitted("too few cases"))
    point = None if threshold is None else OperatingPoint(threshold, "sensitivity>=0.95", 1.0, 0.5)
    decision = Decision("max", missing, missing | ({} if point is None else {"any": point}))
    metadata = replace(net.metadata, decisions={"slice": decision, "study": decision})
    write_bundle(metadata, net.state_dict(), path)
    return path


@dataclass
class Service:
    """The parts of a service around a reader, on a simulated clock."""

    settings: Settings
    store: Store
    now: float = 0.0

    def receive(self, *paths: Path) -> None:
        inbox = Inbox(self.settings.inbox)
        for path in paths:
            content = path.read_bytes()
            kept = inbox.keep(content[:132], [content[132:]])
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID, ds.SOPClassUID)
            syntax = ds.file_meta.TransferSyntaxUID
            arrival = Arrival(*map(str, uids), str(syntax), kept.digest, kept.path, kept.bytes)
            with self.store.begin() as connection:
                add_object(connection, arrival, self.now)
        self.now += 1000
        with self.store.begin() as connection:
            queue_complete(connection, self.now, quiet=30, longest=900)

    def make_reader(self, predictor: Predictor, identity: str = "reader") -> Reader:
        return Reader(self.settings, self.store, predictor, identity, lambda: self.now)

    def list_rows(self, *columns: object) -> list[tuple[object, ...]]:
        with self.store.view() as connection:
            return [tuple(row) for row in connection.execute(select(*columns))]

    def find_files(self) -> list[ResultFiles]:
        rows = self.list_rows(readings.c.folder)
        return [ResultFiles(self.settings.results / str(folder)) for (folder,) in rows]


def list_slices(study: Path) -> list[Path]:
    return sorted(study.iterdir())


def read_and_die(settings: Settings, identity: str, uid: str) -> None:
    """A reader that the pixels of a study end, whenever it reads them.

    Args:
        settings: The settings of the service.
        identity: Its name.
        uid: The study.
    """

    def prepare(content: Content, *others: Any) -> Any:
        if content.StudyInstanceUID == uid:
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare_study(content, *others)

    with mock.patch("ich.serve.reading.reader.prepare_study", prepare):
        run(settings, identity)


def read_and_hold(settings: Settings, identity: str, sign: Path) -> None:
    """A reader that stands still when it has written the files of a study and is about to save its reading.

    Args:
        settings: The settings of the service.
        identity: Its name.
        sign: A file that it writes then.
    """

    def hold(*_: object) -> None:
        sign.touch()
        signal.pause()

    with mock.patch("ich.serve.reading.reader.finish_study", hold):
        run(settings, identity)
