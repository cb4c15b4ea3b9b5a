"""The commands that are served and their answers (PS3.7 9.3, 10.3 and 6.3.1): implicit VR, little endian.

These few elements are written for each object, and general encoders take a millisecond or two for them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from ich.serve.receive.refusals import is_uid
from ich.serve.receive.wire import EndedError, Pdu

MOST_COMMAND = 1 << 12
"""Bytes of a command: two hundred are usual."""
_NO_DATA = 0x0101  # CommandDataSetType of a message without data set
_ELEMENT = struct.Struct("<HHL")


class Kind(IntEnum):
    """Commands that are served; an answer has the highest bit too."""

    STORE = 0x0001
    ECHO = 0x0030
    REPORT = 0x0100  # N-EVENT-REPORT


@dataclass(frozen=True)
class Command:
    """A request.

    Attributes:
        kind: What is asked for.
        context: Number of its presentation context.
        message: Its number.
        SOPClassUID: The SOP class.
        SOPInstanceUID: The object; empty for C-ECHO.
        has_data: Whether a data set follows.
        event: EventTypeID of a report; 0 for others.
    """

    kind: Kind
    context: int
    message: int
    SOPClassUID: str
    SOPInstanceUID: str
    has_data: bool
    event: int = 0


def read_command(data: bytes, context: int) -> Command:
    """Reads a request.

    Raises:
        EndedError: If it cannot be read, or is none of those that are served.
    """
    values, at = {}, 0
    while at + _ELEMENT.size <= len(data):
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group != 0 or at + length > len(data):
            break
        values[element] = data[at : at + length]
        at += length
    if at != len(data):
        raise EndedError("a command cannot be read", abort=6)
    try:
        kind = Kind(_read_number(values, 0x0100))
        message, form = _read_number(values, 0x0110), _read_number(values, 0x0800)
        event = _read_number(values, 0x1002) if kind == Kind.REPORT else 0
    except (KeyError, ValueError) as error:
        raise EndedError("a command is incomplete, or none of those that are served", abort=6) from error
    sop_class, instance = (values.get(element, b"").decode("latin-1").strip(" \0") for element in (2, 0x1000))
    return Command(kind, context, message, sop_class, instance, form != _NO_DATA, event)


def _read_number(values: dict[int, bytes], element: int) -> int:
    if len(value := values[element]) != 2:
        raise ValueError
    return int.from_bytes(value, "little")


def write_answer(command: Command, status: int, most: int) -> bytes:
    """Returns the answer to a request, as it is sent.

    Args:
        command: The request.
        status: Its status.
        most: Longest P-DATA-TF that the peer takes, bytes; 0 for any.
    """
    body = b"".join(
        (
            _write_uid(0x0002, command.SOPClassUID),
            _write(0x0100, struct.pack("<H", command.kind | 0x8000)),
            _write(0x0120, struct.pack("<H", command.message)),
            _write(0x0800, struct.pack("<H", _NO_DATA)),
            _write(0x0900, struct.pack("<H", status)),
            _write_uid(0x1000, command.SOPInstanceUID),
        )
    )
    body = _write(0x0000, struct.pack("<L", len(body))) + body
    size = max(most - 6, 64) if most else len(body)
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(
        struct.pack(">BxLLBB", Pdu.DATA, len(piece) + 6, len(piece) + 2, command.context, control) + piece
        for piece, control in zip(pieces, [1] * (len(pieces) - 1) + [3], strict=True)
    )


def _write_uid(element: int, text: str) -> bytes:
    """Returns a UID as the request has it; nothing of one that is missing or not valid."""
    return _write(element, text.encode("ascii")) if is_uid(text) else b""


def _write(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value
