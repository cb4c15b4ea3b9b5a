"""One association: C-ECHO, C-STORE and reports of commitment, until the peer releases it (PS3.8 9.2).

pynetdicom serves an association with two threads that poll, reads without a deadline, and queues what a peer
sends without a bound. So this loop reads the PDUs itself, and pynetdicom reads and writes the negotiation.

``benchmarks/serve.py`` can put pynetdicom's acceptor before the same intake (``--acceptor pynetdicom``). On
two busy cores that took 143 objects a second, 32 % of DCMTK's storescp, and this loop took 301, 66 % of it.
Among hostile peers, the slowest of ten C-ECHO took 2.8 s with that acceptor. With this loop p99 of 1,149 was
0.7 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.dsutils import decode

from ich.serve.receive.commands import MOST_COMMAND, Command, Kind, read_command, write_answer
from ich.serve.receive.intake import Intake, Visit
from ich.serve.receive.meta import Meta
from ich.serve.receive.negotiation import Context
from ich.serve.receive.refusals import RefusedError, Status
from ich.serve.receive.syntaxes import VERIFICATION
from ich.serve.receive.wire import EndedError, Pdu, Pdv, Wire, split_values
from ich.serve.sending.commitment import STORAGE_COMMITMENT

Report = Callable[[int, Dataset], int]
"""Takes the EventTypeID and the data set of an N-EVENT-REPORT; returns its status."""

_KINDS = {VERIFICATION: Kind.ECHO, STORAGE_COMMITMENT: Kind.REPORT}  # by SOP class; the others are stored
_MOST_REPORT = 1 << 20  # bytes of a report, which names a hundred objects at most
_PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.5
_LEAST_RATE = 1000  # bytes a second of a message, beyond the time that an association may be idle


class Association:
    """An association that was accepted.

    Args:
        wire: The connection.
        contexts: Its presentation contexts.
        most: Longest P-DATA-TF that the peer takes, bytes; 0 for any.
        intake: What takes the objects.
        visit: The peer.
        report: What takes reports of storage commitment.
        idle_seconds: A PDU that takes longer ends the association.
        most_bytes: Largest object. As much again is read and dropped, so that the peer hears why.
    """

    def __init__(
        self,
        wire: Wire,
        contexts: Mapping[int, Context],
        most: int,
        intake: Intake,
        visit: Visit,
        report: Report,
        *,
        idle_seconds: float,
        most_bytes: int,
    ) -> None:
        self._wire = wire
        self._contexts = contexts
        self._most = most
        self._intake = intake
        self._visit = visit
        self._report = report
        self._idle_seconds = idle_seconds
        self._most_bytes = most_bytes
        self._values = self._read_values()

    def serve(self) -> None:
        """Serves until the peer releases the association.

        Raises:
            EndedError: If it ends in another way.
        """
        while (command := self._read_command()) is not None:
            status = self._serve(command)
            self._wire.send(write_answer(command, status, self._most))

    def _serve(self, command: Command) -> int:
        context = self._contexts.get(command.context)
        if context is None or command.kind != _KINDS.get(context.SOPClassUID, Kind.STORE):
            raise EndedError("a command in a wrong presentation context", abort=6)
        if command.kind == Kind.REPORT:
            return self._take_report(command, context)
        if command.kind == Kind.ECHO:
            if command.has_data:
                raise EndedError("a C-ECHO with a data set", abort=6)
            return Status.SUCCESS
        return self._store(command, context)

    def _take_report(self, command: Command, context: Context) -> int:
        data = bytearray()
        for piece in self._read_data(command) if command.has_data else ():
            data += piece
            if len(data) > _MOST_REPORT:
                raise EndedError("a report is far too large", abort=0)
        try:
            dataset = decode(BytesIO(data), context.syntax == ImplicitVRLittleEndian, True)
            return self._report(command.event, dataset)
        except Exception:  # pydicom raises any exception for what a peer has sent, and it may quote it
            return _PROCESSING_FAILURE

    def _store(self, command: Command, context: Context) -> Status:
        data = self._read_data(command) if command.has_data else iter(())
        try:
            # Of the context, so that an object of another class than was negotiated does not fit.
            meta = Meta(context.SOPClassUID, command.SOPInstanceUID, context.syntax)
            self._intake.take(self._visit, meta, data)
        except RefusedError as refused:
            for _ in data:
                pass
            return refused.status
        return Status.SUCCESS

    def _read_command(self) -> Command | None:
        """Reads a command; None if the peer released the association instead."""
        found = bytearray()
        for value in self._values:
            if not value.is_command:
                raise EndedError("a data set without a command", abort=6)
            found += value.data
            if len(found) > MOST_COMMAND:
                raise EndedError("a command is too long", abort=6)
            if value.is_last:
                return read_command(bytes(found), value.context)
        if found:
            raise EndedError("a release within a command", abort=2)
        return None

    def _read_data(self, command: Command) -> Iterator[bytes]:
        started, size = time.monotonic(), 0
        for value in self._values:
            if value.is_command or value.context != command.context:
                raise EndedError("a message within another", abort=6)
            size += len(value.data)
            if size > 2 * self._most_bytes:
                raise EndedError("an object is far too large", abort=0)
            if size < (time.monotonic() - started - self._idle_seconds) * _LEAST_RATE:
                raise EndedError("the peer is too slow", abort=0)
            yield value.data
            if value.is_last:
                return
        raise EndedError("a release within a data set", abort=2)

    def _read_values(self) -> Iterator[Pdv]:
        """Yields values until the peer releases the association."""
        while True:
            kind, data = self._wire.read(self._idle_seconds)
            if kind == Pdu.DATA:
                yield from split_values(data)
            elif kind == Pdu.RELEASE_RQ:
                return
            elif kind == Pdu.ABORT:
                raise EndedError("the peer aborted")
            else:
                raise EndedError("an unexpected PDU", abort=2)
