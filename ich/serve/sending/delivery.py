"""One answer to one node: what is sent, and how a node says that it did not take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset

from ich.outputs.records import read_json
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.serve.results import ResultFiles
from ich.serve.settings.parts import Node

CONNECT_SECONDS = 10.0
"""A node that does not accept a connection for so long is away."""

ANSWER_SECONDS = 30.0
"""A node that does not answer a message for so long did not take it."""

SUCCESS = 0x0000
_WARNINGS = range(0xB000, 0xC000)


class NotTaken(Exception):  # noqa: N818 - it says what happened
    """A node did not take an answer.

    Args:
        reason: Why, without any text of the node, which could name a patient.
        for_good: Whether another attempt is of no use.
    """

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


@dataclass(frozen=True)
class Delivery:
    """An answer, and the node that gets it.

    Attributes:
        node: The node.
        ae_title: The AE title of the service.
        study: Token of the study.
        reading: Number of the reading.
        files: Files of the reading.
        announce: Called with a TransactionUID when a node took all objects, before it is asked for its
            commitment. The report may come in another process at once.
        take_report: Takes the type and data set of its report, and returns the status for the node; see
            ``ich.serve.sending.commitment``.
    """

    node: Node
    ae_title: str
    study: str
    reading: int
    files: ResultFiles
    announce: Callable[[str], object]
    take_report: Callable[[int, Dataset], int]


Waiting = Callable[[], None]
"""Ends the wait for a report on the same association."""

Deliver = Callable[[Delivery], Waiting | None]
"""Delivers an answer. It returns None if the node keeps it, and else what ends the wait for its report.

It raises ``NotTaken`` if the node did not take all of it.
"""


def list_objects(node: Node, files: ResultFiles) -> list[Path]:
    """Lists the DICOM files that a node gets, the report first.

    Raises:
        NotTaken: If the reading has none of them, for good.
    """
    paths = [files.report] if "sr" in node.what and files.report.exists() else []
    paths += files.list_images() if "sc" in node.what else []
    if not paths:
        raise NotTaken(f"the reading has no file for what={','.join(node.what)}", for_good=True)
    return paths


def read_objects(node: Node, files: ResultFiles) -> list[Dataset]:
    """Reads the DICOM files that a node gets, the report first.

    Raises:
        NotTaken: If there is none, or one cannot be read.
    """
    return [_read(path) for path in list_objects(node, files)]


def read_result(files: ResultFiles) -> StudyResult:
    """Reads the result of a reading.

    Raises:
        NotTaken: If it cannot be read, for good.
    """
    try:
        return read_json(files.result)
    except UserError as error:  # its message may quote the file
        raise NotTaken("the result of the reading cannot be read", for_good=True) from error


def read_header(files: ResultFiles) -> Dataset:
    """Reads whose report it is, with the attributes that it copied from the study.

    Raises:
        NotTaken: If the reading has no report, for good. A message without a patient helps nobody.
    """
    if not files.report.exists():
        raise NotTaken("the reading has no DICOM report that names the patient", for_good=True)
    return _read(files.report)


def is_taken(status: int) -> bool:
    """Whether a status of storage means that the object is stored (PS3.7 C, PS3.4 B.2.3).

    Warnings are those: an object that was coerced is stored too.
    """
    return status == SUCCESS or status in _WARNINGS


def _read(path: Path) -> Dataset:
    try:
        return dcmread(path)
    except Exception as error:  # pydicom raises any exception
        raise NotTaken(f"{path.name} of the reading cannot be read") from error
