"""The file meta information of an object (PS3.10 7.1): writes it, and separates it from a data set."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ich.serve.receive.refusals import RefusedError, Status

IMPLEMENTATION_UID = "2.25.107359634325073375370337163528537938758"
"""Names this implementation in files and associations (PS3.7 D.3.3.2); made from a random UUID."""

_PREAMBLE = bytes(128) + b"DICM"
_MOST = 1 << 16  # bytes of file meta information that are looked at: some hundreds are usual
_CLASS, _INSTANCE, _SYNTAX = (2, 2), (2, 3), (2, 0x10)


@dataclass(frozen=True)
class Meta:
    """What is known of an object before its data set.

    Attributes:
        SOPClassUID: Its storage class.
        SOPInstanceUID: Its own UID.
        syntax: UID of its transfer syntax.
    """

    SOPClassUID: str
    SOPInstanceUID: str
    syntax: str


def write_head(meta: Meta) -> bytes:
    """Returns the preamble and the file meta information.

    They depend on the object alone, so the same object from several senders becomes the same file.
    """
    body = _write_element(1, b"OB", b"\0\1")
    for element, text in (
        (2, meta.SOPClassUID),
        (3, meta.SOPInstanceUID),
        (0x10, meta.syntax),
        (0x12, IMPLEMENTATION_UID),
    ):
        body += _write_element(element, b"UI", text.encode("ascii"))
    return _PREAMBLE + _write_element(0, b"UL", struct.pack("<I", len(body))) + body


def _write_element(element: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", 2, element) + vr + length + value


def split_file(pieces: Iterable[bytes]) -> tuple[Meta, Iterator[bytes]]:
    """Separates a DICOM file into its file meta information and its data set, which is not held in memory.

    Args:
        pieces: The file, in pieces of any size.

    Returns:
        What the file meta information says, and the data set in pieces.

    Raises:
        RefusedError: If this is not a DICOM file with file meta information (PS3.10 7.1).
    """
    rest = iter(pieces)
    head = _read_until(rest, bytearray(), 144)
    if head[128:138] != b"DICM\2\0\0\0UL":
        raise RefusedError(Status.NOT_UNDERSTOOD, "it is not a DICOM file")
    size = 144 + int.from_bytes(head[140:144], "little")
    if size > _MOST:
        raise RefusedError(Status.NOT_UNDERSTOOD, "its file meta information is too long")
    head = _read_until(rest, head, size)
    values = _read_elements(bytes(head[144:size]))
    texts = (values.get(tag, b"").decode("latin-1").strip(" \0") for tag in (_CLASS, _INSTANCE, _SYNTAX))
    return Meta(*texts), _chain(bytes(head[size:]), rest)


def _read_until(pieces: Iterator[bytes], head: bytearray, size: int) -> bytearray:
    while len(head) < size:
        if (piece := next(pieces, None)) is None:
            raise RefusedError(Status.NOT_UNDERSTOOD, "it is not a DICOM file, or only the beginning of one")
        head += piece
    return head


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _read_elements(data: bytes) -> dict[tuple[int, int], bytes]:
    """Reads elements with explicit VR, little endian, as far as they are whole."""
    values, at = {}, 0
    while at + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, at)
        if data[at + 4 : at + 6] in (b"OB", b"UN", b"UT", b"OW", b"SQ"):
            length, at = int.from_bytes(data[at + 8 : at + 12], "little"), at + 12
        else:
            length, at = int.from_bytes(data[at + 6 : at + 8], "little"), at + 8
        values[group, element] = data[at : at + length]
        at += length
    return values
