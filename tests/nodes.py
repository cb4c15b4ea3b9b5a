"""A DICOM node of the test, which counts what it stores and answers as the test says."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from ich.serve.settings.parts import Node

COMMITMENT = "1.2.840.10008.1.20.1"


@dataclass
class Archive:
    """Its state, and what it answers."""

    status: Callable[[Dataset], int | Dataset] = lambda _: 0x0000
    stored: Counter[str] = field(default_factory=Counter)
    asked: list[Dataset] = field(default_factory=list)
    action_status: Callable[[], int] = lambda: 0x0000
    make_report: Callable[[Dataset], Dataset | None] = lambda _: None
    port: int = 0

    def store(self, event: evt.Event) -> int | Dataset:
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
