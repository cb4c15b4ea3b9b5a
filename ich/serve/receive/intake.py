"""Takes objects in, from any way: each is on the disk and in the database before this returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ich.dicom.attributes import read_attributes
from ich.schema import ReadError
from ich.serve.inbox import Inbox, Kept
from ich.serve.receive.commits import Commits
from ich.serve.receive.meta import Meta, write_head
from ich.serve.receive.refusals import RefusedError, Status, check_uid
from ich.serve.receive.syntaxes import SYNTAXES
from ich.serve.settings.parts import Receive
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.objects import (
    Added,
    Arrival,
    add_objects,
    close_association,
    find_token,
    is_named,
    open_association,
)


@dataclass
class Visit:
    """A connection that brings objects.

    Attributes:
        receiver: The process and its way in, such as dimse/NAME.
        peer: Who brings: an AE title or an address.
        opened_at: When it began.
        number: Its number in the database; None until its first object is there.
    """

    receiver: str
    peer: str
    opened_at: float
    number: int | None = None


class Intake:
    """Takes objects into the inbox and the database.

    Args:
        inbox: The files.
        commits: What commits the rows.
        settings: Limits.
        clock: Returns the time, seconds since 1970.
    """

    def __init__(
        self, inbox: Inbox, commits: Commits, settings: Receive, clock: Callable[[], float] = time.time
    ) -> None:
        self._inbox = inbox
        self._commits = commits
        self._settings = settings
        self._clock = clock

    def take(self, visit: Visit, meta: Meta, pieces: Iterable[bytes], study: str | None = None) -> str:
        """Takes one object.

        The file is on the disk before its row is committed, and the row is committed before this returns.

        Args:
            visit: The connection that brings it.
            meta: What the sender says of it.
            pieces: Its data set.
            study: The StudyInstanceUID that it must have; None for any.

        Returns:
            Its StudyInstanceUID.

        Raises:
            RefusedError: If it is not taken. Nothing of it stays, and the audit log says why.
            Exception: What ``pieces`` raises. Nothing stays then either.
        """
        try:
            return self._take(visit, meta, pieces, study)
        except RefusedError as refused:
            self.note(visit.peer, EventKind.REFUSED, str(refused))
            raise

    def close(self, visit: Visit) -> None:
        """Notes the end of a connection."""
        number, now = visit.number, self._clock()
        if number is not None:
            self._commits.note(lambda connection: close_association(connection, number, now))

    def note(self, actor: str, kind: EventKind, detail: str) -> None:
        """Adds an event to the audit log when there is time."""
        now = self._clock()
        self._commits.note(lambda connection: add_event(connection, now, actor, kind, detail=detail))

    def _take(self, visit: Visit, meta: Meta, pieces: Iterable[bytes], study: str | None) -> str:
        check_uid(meta.SOPClassUID, "SOPClassUID")
        check_uid(meta.SOPInstanceUID, "SOPInstanceUID")
        if meta.syntax not in SYNTAXES:
            raise RefusedError(Status.NOT_UNDERSTOOD, "its transfer syntax cannot be decoded")
        kept = self._keep(write_head(meta), pieces)
        try:
            arrival = self._read(meta, kept, study)
        except RefusedError:
            self._inbox.remove(kept.path)
            raise
        added = self._add(visit, arrival)
        visit.number = added.number
        if not added.is_named:
            self._inbox.remove(kept.path)
        if added.what == Added.TOO_MANY:
            raise RefusedError(Status.TOO_MANY, "its study or its UID has as many objects as are allowed")
        return arrival.StudyInstanceUID

    def _keep(self, head: bytes, pieces: Iterable[bytes]) -> Kept:
        if self._inbox.measure_free_bytes() < self._settings.least_free_gb * 1e9:
            raise RefusedError(Status.OUT_OF_RESOURCES, "the disk has too little room")
        try:
            return self._inbox.keep(head, self._bound(pieces))
        except OSError as error:
            raise RefusedError(
                Status.OUT_OF_RESOURCES, f"the inbox cannot be written: {error.strerror}"
            ) from error

    def _bound(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        left = self._settings.most_object_mb * 10**6
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise RefusedError(Status.TOO_LARGE, f"it has more than {self._settings.most_object_mb} MB")
            yield piece

    def _read(self, meta: Meta, kept: Kept, study: str | None) -> Arrival:
        try:
            found = read_attributes(self._inbox.locate(kept.path))
        except ReadError as error:
            raise RefusedError(Status.NOT_UNDERSTOOD, "its data set cannot be read") from error
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            check_uid(getattr(found, keyword), keyword)
        announced = {"SOPInstanceUID": meta.SOPInstanceUID, "SOPClassUID": meta.SOPClassUID}
        if study is not None:
            announced["StudyInstanceUID"] = study
        for keyword, value in announced.items():
            if getattr(found, keyword) != value:
                raise RefusedError(Status.MISMATCH, f"{keyword} is not the one that was announced")
        return Arrival(
            StudyInstanceUID=found.StudyInstanceUID,
            SeriesInstanceUID=found.SeriesInstanceUID,
            SOPInstanceUID=found.SOPInstanceUID,
            SOPClassUID=found.SOPClassUID,
            syntax=meta.syntax,
            digest=kept.digest,
            path=kept.path,
            bytes=kept.bytes,
        )

    def _add(self, visit: Visit, arrival: Arrival) -> _Result:
        """Commits the row. A file whose row fails stays, because an earlier row may name it."""
        try:
            return self._commits.run_together(self._add_all, (visit, arrival))
        except SQLAlchemyError as error:
            raise RefusedError(
                Status.OUT_OF_RESOURCES, f"the database cannot be written: {type(error).__name__}"
            ) from error

    def _add_all(self, connection: Connection, given: Sequence[tuple[Visit, Arrival]]) -> list[_Result]:
        now = self._clock()
        numbered = [replace(arrival, association=_find_number(connection, visit)) for visit, arrival in given]
        added = add_objects(connection, numbered, now, most=self._settings.most_objects)
        for (visit, arrival), what in zip(given, added, strict=True):
            if what == Added.CONFLICT:
                token = find_token(connection, arrival.SOPInstanceUID)
                detail = "another content has the UID of an object"
                add_event(connection, now, visit.peer, EventKind.CONFLICT, study=token, detail=detail)
        return [
            _Result(what, arrival.association, what == Added.NEW or is_named(connection, arrival))
            for arrival, what in zip(numbered, added, strict=True)
        ]


def _find_number(connection: Connection, visit: Visit) -> int:
    if visit.number is not None:
        return visit.number
    return open_association(connection, visit.receiver, visit.peer, visit.opened_at)


@dataclass(frozen=True)
class _Result:
    """What became of an object.

    Attributes:
        what: As ``add_objects`` says.
        number: The association that brought it.
        is_named: Whether a row names its file.
    """

    what: Added
    number: int | None
    is_named: bool
