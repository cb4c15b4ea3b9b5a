"""Listens for DICOM peers; a thread for each connection, and bounds for all of them."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RP

from ich.schema import UserError
from ich.serve.receive.association import Association, Report
from ich.serve.receive.gate import Gate
from ich.serve.receive.intake import Intake, Visit
from ich.serve.receive.negotiation import (
    CALLED,
    CONGESTION,
    TITLE,
    Request,
    is_known_address,
    is_known_peer,
    read_request,
    write_acceptance,
    write_rejection,
)
from ich.serve.receive.refused_peers import RefusedPeers
from ich.serve.receive.wire import EndedError, Pdu, Wire
from ich.serve.settings.parts import Receive
from ich.serve.tls import make_context

REQUEST_SECONDS = 10.0
"""A connection that has not asked for an association by then is closed (ARTIM of PS3.8 9.1.5)."""
_BACKLOG = 1024  # a peer whose connection finds no room in it tries again after a second
_POLL_SECONDS = 0.2
_LINGER_SECONDS = 1.0
_DROPPED_BYTES = 1 << 16
_END_SECONDS = 5.0  # for associations to end when the service does
_log = logging.getLogger(__name__)


class Server:
    """Serves DICOM peers.

    Args:
        settings: Where to listen, who may come, and limits.
        intake: What takes the objects.
        receiver: Names the process in the database.
        report: What takes reports of storage commitment.
        clock: Returns the time, seconds since 1970.

    Raises:
        UserError: If it cannot listen, or the files of the encryption cannot be used.
    """

    def __init__(
        self,
        settings: Receive,
        intake: Intake,
        receiver: str,
        report: Report,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._receiver = receiver
        self._report = report
        self._context = make_context(settings.tls, "receive.tls") if settings.tls else None
        self._clock = clock
        self._gate: Gate[_Connection] = Gate(settings.most_associations, settings.most_associations_of_a_peer)
        self._refused = RefusedPeers(intake, clock)
        self._stops = threading.Event()
        self._listener = listen(settings)
        self._thread = threading.Thread(target=self._accept, name="dicom", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens at."""
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        """Starts to accept connections."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all connections, each after the object that it brings, and returns."""
        self._stops.set()
        self._thread.join()
        self._listener.close()
        for connection in self._gate.list_all():
            connection.hang_up(socket.SHUT_RD)
        deadline = time.monotonic() + _END_SECONDS
        while self._gate.list_all() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 10)

    def _accept(self) -> None:
        self._listener.settimeout(_POLL_SECONDS)
        while not self._stops.is_set():
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:  # such as too many open files
                _log.warning("a connection cannot be accepted: %s", error.strerror)
                time.sleep(_POLL_SECONDS)
                continue
            self._admit(sock, address[0])

    def _admit(self, sock: socket.socket, address: str) -> None:
        if not is_known_address(address, self._settings.peers):
            self._refused.note(address, "its address is not allowed")
            sock.close()
            return
        connection = _Connection(sock, address)
        if (other := self._gate.enter(connection, address)) is not None:
            self._refused.note(other.address, "too many connections wait")
            other.hang_up(socket.SHUT_RDWR)
        try:
            threading.Thread(target=self._serve, args=(connection,), name="peer", daemon=True).start()
        except RuntimeError:  # no more threads
            self._gate.leave(connection)
            sock.close()

    def _serve(self, connection: _Connection) -> None:
        """Serves a connection; whatever happens in it ends here."""
        deadline = time.monotonic() + REQUEST_SECONDS
        try:
            self._encrypt(connection)
            wire = Wire(connection.sock)
            self._associate(wire, connection, deadline)
        except EndedError as ended:
            self._refused.note(connection.address, str(ended))
            connection.abort(ended.abort)
        except Exception as error:
            _log.error("a connection of %s ended: %s", connection.address, type(error).__name__)
        finally:
            self._gate.leave(connection)
            connection.sock.close()

    def _encrypt(self, connection: _Connection) -> None:
        sock = connection.sock
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(REQUEST_SECONDS)  # for all of the handshake
                connection.sock = encrypted = self._context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                encrypted.do_handshake()
        except (OSError, ValueError) as error:
            raise EndedError("no encryption was agreed on") from error

    def _associate(self, wire: Wire, connection: _Connection, deadline: float) -> None:
        kind, data = wire.read(max(deadline - time.monotonic(), 0.1))
        if kind != Pdu.ASSOCIATE_RQ:
            raise EndedError("the first PDU is not a request for an association", abort=2)
        request = read_request(data)
        if (refusal := self._find_refusal(request, connection)) is not None:
            rejection, reason = refusal
            self._refused.note(connection.address, reason)
            wire.send(write_rejection(rejection))
            connection.linger()
            return
        answer, contexts = write_acceptance(request)
        wire.send(answer)
        visit = Visit(self._receiver, request.calling, self._clock())
        try:
            Association(
                wire,
                contexts,
                request.most,
                self._intake,
                visit,
                self._report,
                idle_seconds=self._settings.idle_seconds,
                most_bytes=self._settings.most_object_mb * 10**6,
            ).serve()
        finally:
            self._intake.close(visit)
        wire.send(A_RELEASE_RP().encode())
        connection.linger()

    def _find_refusal(
        self, request: Request, connection: _Connection
    ) -> tuple[tuple[int, int, int], str] | None:
        """Returns why an association is refused, for the peer and for the audit log; None takes its place."""
        if request.rejection is not None:
            return request.rejection, "an unknown version or application context"
        if request.called != self._settings.ae_title:
            return CALLED, "the called AE title is not ours"
        if not is_known_peer(request.calling, connection.address, self._settings.peers):
            return TITLE, "the calling AE title is not allowed"
        if not self._gate.accept(connection):
            return CONGESTION, "too many associations"
        return None


class _Connection:
    """A connection of a peer.

    Attributes:
        sock: Its socket; encryption replaces it.
        address: Address of the peer.
    """

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock = sock
        self.address = address

    def hang_up(self, how: int) -> None:
        """Ends what another thread waits for."""
        with suppress(OSError):  # it is closed already
            self.sock.shutdown(how)

    def abort(self, reason: int | None) -> None:
        """Tells the peer that the association is over (PS3.8 9.3.8); None if it is gone."""
        if reason is None:
            return
        pdu = A_ABORT_RQ()
        pdu.source, pdu.reason_diagnostic = (2, reason) if reason else (0, 0)
        with suppress(EndedError):
            Wire(self.sock).send(pdu.encode())
            self.linger()

    def linger(self) -> None:
        """Waits a moment for the peer to hang up, because a reset would take the last answer from it."""
        deadline = time.monotonic() + _LINGER_SECONDS
        with suppress(OSError, ValueError):
            self.sock.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(_DROPPED_BYTES):
                    return


def listen(settings: Receive) -> socket.socket:
    """Opens the socket that listens.

    Raises:
        UserError: If the port is in use, or the host is not an address of this machine.
    """
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"receive.host={host} and receive.port={port}: nothing can listen there: {error.strerror}"
        ) from error
