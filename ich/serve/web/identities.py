"""PatientID and StudyDate of studies, for pages that may show them. They are read from the files."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pydicom
from sqlalchemy import Connection, func, select

from ich.serve.inbox import Inbox
from ich.serve.store.tables import objects, studies

SEARCHED = 1000
"""The newest studies that a search by PatientID looks at."""

_TAGS = ["PatientID", "StudyDate"]


@dataclass(frozen=True)
class Identity:
    """Whose study it is.

    Attributes:
        PatientID: (0010,0020), as stored.
        StudyDate: (0008,0020), as stored.
    """

    PatientID: str
    StudyDate: str


class Identities:
    """Identities of studies; each is read once.

    Args:
        inbox: The objects that were received.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._known: dict[int, Identity] = {}
        self._lock = threading.Lock()

    def find(self, connection: Connection, numbers: list[int]) -> dict[int, Identity]:
        """Finds the identities of studies; those whose files are gone are missing.

        Args:
            connection: An open transaction.
            numbers: Numbers of the studies.
        """
        with self._lock:
            found = {number: self._known[number] for number in numbers if number in self._known}
        for number, path in _list_paths(connection, [each for each in numbers if each not in found]):
            if (identity := self._read(path)) is not None:
                found[number] = identity
        with self._lock:
            self._known |= found
        return found

    def search(self, connection: Connection, patient: str) -> list[int]:
        """Lists the newest studies of a patient; see ``SEARCHED``."""
        query = select(studies.c.id).order_by(studies.c.last_at.desc()).limit(SEARCHED)
        found = self.find(connection, list(connection.execute(query).scalars()))
        return [number for number, identity in found.items() if identity.PatientID == patient]

    def _read(self, path: str) -> Identity | None:
        try:
            header = pydicom.dcmread(self._inbox.locate(path), stop_before_pixels=True, specific_tags=_TAGS)
            return Identity(str(header.get("PatientID") or ""), str(header.get("StudyDate") or ""))
        except Exception:  # pydicom raises any exception
            return None


def _list_paths(connection: Connection, numbers: list[int]) -> list[tuple[int, str]]:
    first = select(func.min(objects.c.id)).where(objects.c.study_id.in_(numbers)).group_by(objects.c.study_id)
    query = select(objects.c.study_id, objects.c.path).where(objects.c.id.in_(first))
    return [(row.study_id, row.path) for row in connection.execute(query)]
