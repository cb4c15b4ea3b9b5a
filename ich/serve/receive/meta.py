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
_LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT")  # of those that PS3.10 allows here, with 32 bits of length


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
    head = bytearray()
    _read_until(rest, head, 132)
    if head[128:132] != b"DICM":
        raise RefusedError(Status.NOT_UNDERSTOOD, "it is not a DICOM file")
    values, at = {}, 132
    while True:  # some writers leave out the length of the group, so each element is looked at
        _read_until(rest, head, at + 12)
        group, element = struct.unpack_from("<HH", head, at)
        if group != 2:
            break
        if bytes(head[at + 4 : at + 6]) in _LONG_VRS:
            start, length = at + 12, int.from_bytes(head[at + 8 : at + 12], "little")
        else:
            start, length = at + 8, int.from_bytes(head[at + 6 : at + 8], "little")
        at = start + length
        if at > _MOST:
            raise RefusedError(Status.NOT_UNDERSTOOD, "its file meta information is too long")
        _read_until(rest, head, at)
        values[element] = bytes(head[start:at])
    texts = (values.get(element, b"").decode("latin-1").strip(" \0") for element in (2, 3, 0x10))
    return Meta(*texts), _chain(bytes(head[at:]), rest)


def _read_until(pieces: Iterator[bytes], head: bytearray, size: int) -> None:
    while len(head) < size:
        if (piece := next(pieces, None)) is None:
            raise RefusedError(Status.NOT_UNDERSTOOD, "it is not a DICOM file, or only the beginning of one")
        head += piece


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
