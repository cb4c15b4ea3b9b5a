"""One connection: protocol data units (PS3.8 9.3) in and out, each within bounds of size and time."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MOST_PDU = 1 << 17
"""Bytes of a P-DATA-TF after its length; the most that is announced to a peer (PS3.8 D.1)."""
_MOST_REQUEST = 1 << 18  # bytes of an A-ASSOCIATE-RQ: tens of thousands are many
_SEND_SECONDS = 10.0  # an answer is some hundred bytes, so a peer that does not take it does not read
_HEAD = struct.Struct(">BxL")
_PDV = struct.Struct(">LBB")


class Pdu(IntEnum):
    """Kinds of protocol data units (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


_MOST = {Pdu.ASSOCIATE_RQ: _MOST_REQUEST, Pdu.DATA: MOST_PDU, Pdu.RELEASE_RQ: 4, Pdu.ABORT: 4}


class EndedError(Exception):
    """A connection is over.

    Args:
        reason: What the audit log says.
        abort: Reason of the A-ABORT that the peer is told (PS3.8 9.3.8); None if the peer is gone.
    """

    def __init__(self, reason: str, abort: int | None = None) -> None:
        super().__init__(reason)
        self.abort = abort


class Pdv(NamedTuple):
    """A presentation data value (PS3.8 9.3.5.1)."""

    context: int
    is_command: bool
    is_last: bool
    data: bytes


class Wire:
    """A connection of a peer.

    Args:
        sock: The socket; encrypted if the service is.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self, seconds: float) -> tuple[Pdu, bytes]:
        """Reads a PDU; returns its kind and what follows its length.

        Args:
            seconds: The time for all of it, so that no peer holds a thread with single bytes.

        Raises:
            EndedError: If it does not come in time, is not known, is too long, or the peer is gone.
        """
        deadline = time.monotonic() + seconds
        number, size = _HEAD.unpack(self._read_exactly(_HEAD.size, deadline))
        most = _MOST.get(number)
        if most is None:
            raise EndedError("a PDU of an unknown or unexpected kind", abort=1)
        if size > most:
            raise EndedError("a PDU is too long", abort=6)
        return Pdu(number), self._read_exactly(size, deadline)

    def send(self, data: bytes) -> None:
        """Sends bytes.

        Raises:
            EndedError: If the peer does not take them.
        """
        try:
            self._socket.settimeout(_SEND_SECONDS)
            self._socket.sendall(data)
        except (OSError, ValueError) as error:
            raise EndedError("the peer does not take an answer") from error

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray(size)
        view, at = memoryview(data), 0
        while at < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise EndedError("the peer is silent or too slow", abort=0)
            try:
                self._socket.settimeout(left)
                count = self._socket.recv_into(view[at:])
            except (TimeoutError, ssl.SSLWantReadError) as error:
                raise EndedError("the peer is silent or too slow", abort=0) from error
            except (OSError, ValueError) as error:
                raise EndedError("the connection broke") from error
            if count == 0:
                raise EndedError("the peer hung up")
            at += count
        return bytes(data)


def split_values(data: bytes) -> Iterator[Pdv]:
    """Yields the presentation data values of a P-DATA-TF (PS3.8 9.3.5 and E.2).

    Raises:
        EndedError: If their lengths do not agree with the length of the PDU.
    """
    at = 0
    while at < len(data):
        if at + _PDV.size > len(data):
            raise EndedError("a presentation data value is cut off", abort=6)
        length, context, control = _PDV.unpack_from(data, at)
        end = at + 4 + length
        if length < 2 or end > len(data):
            raise EndedError("a presentation data value has a wrong length", abort=6)
        yield Pdv(context, bool(control & 1), bool(control & 2), data[at + _PDV.size : end])
        at = end
