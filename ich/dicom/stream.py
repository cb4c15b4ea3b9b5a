"""Walks a DICOM data set (PS3.5 7) from element to element, despite errors of its writer.

Elements that are not needed are skipped by their length. Some writers mix encodings, use representations that
do not exist, or close a sequence twice or not at all. Bytes with only one possible meaning are read with that
meaning. Damage raises an ``EOFError`` if bytes are missing, and otherwise a ``ValueError``. A data set beyond
the bounds of a walk raises a ``RefusedError``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from ich.dicom.refusal import RefusedError
from ich.schema.codes import Refusal

MAX_ELEMENTS = 50_000  # before the pixels, nested ones included: hundreds are usual
MAX_DEPTH = 32  # of sequences in sequences: a few are usual
UNDEFINED = 0xFFFFFFFF  # the length of what ends at a delimiter

LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # with a length of 32 bits
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # of 16
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DELIMITERS = (_ITEM_END, _SEQUENCE_END)
_PIECE = 1 << 16  # bytes that are searched at a time


class Element(NamedTuple):
    """An element without its value; ``vr`` is empty if the encoding omits it."""

    tag: int
    vr: bytes
    length: int


class Stream:
    """A file, or a data set inflated from one, that is walked from element to element.

    Args:
        file: The file, positioned at an element.
        size: Total size, bytes.
        order: Byte order of the numbers.
    """

    def __init__(self, file: BinaryIO, size: int, order: Literal["little", "big"] = "little") -> None:
        self.file, self.size, self.order = file, size, order
        self._left = MAX_ELEMENTS

    def take(self, length: int) -> bytes:
        """Reads exactly this many bytes."""
        if length > self.size:
            raise self._cut()
        value = self.file.read(length)
        if len(value) < length:
            raise self._cut()
        return value

    def next(self, explicit: bool) -> Element | None:
        """Reads an element up to its value; None at the end of the file."""
        self._left -= 1
        if self._left < 0:
            raise RefusedError(Refusal.CORRUPT, f"has more than {MAX_ELEMENTS} elements before the pixels")
        start = self.file.read(8)
        if not start:
            return None
        if len(start) < 8:
            raise self._cut()
        tag = self._read_tag(start)
        if not explicit or tag >> 16 == 0xFFFE:
            return Element(tag, b"", self._read_number(start[4:]))
        vr = start[4:6]
        if vr in SHORT_VRS:
            return Element(tag, vr, self._read_number(start[6:]))
        if vr in LONG_VRS and start[6:] == b"\0\0":
            return Element(tag, vr, self._read_number(self.take(4)))
        return self._guess(tag, start)

    def is_explicit(self) -> bool:
        """Whether the element at the current position names its representation; the position stays.

        Otherwise the two bytes are half of a length, which is above 16 KiB if they are letters.
        """
        start = self._peek(self.file.tell(), 6)
        return start[4:] in SHORT_VRS or start[4:] in LONG_VRS

    def skip(self, element: Element, explicit: bool, depth: int = 0) -> None:
        """Skips a value, a sequence of undefined length item by item, ``depth`` sequences down."""
        if depth > MAX_DEPTH:
            raise RefusedError(Refusal.CORRUPT, f"has sequences more than {MAX_DEPTH} deep")
        if element.length != UNDEFINED:
            if self.file.tell() + element.length > self.size:
                raise self._cut()
            self.file.seek(element.length, os.SEEK_CUR)
        elif self._read_tag(self._peek(self.file.tell(), 4)) in (_ITEM, *DELIMITERS):
            self._skip_items(element.vr, explicit, depth)
        else:
            self._skip_to_end()

    def items(self) -> Iterator[Element]:
        """Yields the items of a sequence or of encapsulated pixels up to its end (PS3.5 7.5, A.4)."""
        while (item := self.next(explicit=False)) is not None:
            if item.tag == _SEQUENCE_END:
                return
            if item.tag == _ITEM:
                yield item
            elif item.tag != _ITEM_END:  # one too many does no harm
                raise ValueError(f"has {_name(item.tag)} where an item is due")
        raise self._cut()

    def _skip_items(self, vr: bytes, explicit: bool, depth: int) -> None:
        for item in self.items():
            if item.length != UNDEFINED:
                self.skip(item, explicit, depth + 1)
                continue
            # Implicit in an item of unknown representation (PS3.5 6.2.2), but not every writer knows that.
            is_explicit = self.is_explicit() if vr == b"UN" else explicit
            while (nested := self.next(is_explicit)) is not None and nested.tag != _ITEM_END:
                if nested.tag == _SEQUENCE_END:  # which ends the item, too
                    return
                self.skip(nested, is_explicit, depth + 1)

    def _skip_to_end(self) -> None:
        """Skips bytes of undefined length that are not items, up to the delimiter of a sequence."""
        delimiter = b"".join(n.to_bytes(2, self.order) for n in (0xFFFE, 0xE0DD)) + bytes(4)
        start, before = self.file.tell(), b""
        while piece := self.file.read(_PIECE):
            found = (before + piece).find(delimiter)
            if found >= 0:
                self.file.seek(start - len(before) + found + len(delimiter))
                return
            start, before = start + len(piece), piece[1 - len(delimiter) :]
        raise self._cut()

    def _guess(self, tag: int, start: bytes) -> Element:
        """Guesses the form of an element with an invalid representation, so that another element follows.

        It may have implicit encoding, or a future representation with a length of 32 bits (PS3.5 7.1.2) or of
        16 bits.
        """
        place = self.file.tell()
        later = self._peek(place, 4)
        for begin, length in (
            (place, self._read_number(start[4:])),
            (place + 4, self._read_number(later)),
            (place, self._read_number(start[6:])),
        ):
            if self._may_follow(tag, begin, length):
                self.file.seek(begin)
                return Element(tag, b"", length)
        raise ValueError(f"{_name(tag)} has no value representation that there is")

    def _may_follow(self, tag: int, begin: int, length: int) -> bool:
        """Whether another element follows one whose value begins here and has this length."""
        if length == UNDEFINED:
            return self._read_tag(self._peek(begin, 4)) in (_ITEM, _SEQUENCE_END)
        place = begin + length
        start = self._peek(place, 8) if place < self.size else b""
        if len(start) < 8:
            return place == self.size
        if start[4:6] in SHORT_VRS or (start[4:6] in LONG_VRS and start[6:] != b"\0\0"):
            length = self._read_number(start[6:])
        elif start[4:6] in LONG_VRS:
            length = self._read_number(self._peek(place + 8, 4))
        elif self._read_tag(start) > tag:  # in their order, as they mostly are
            length = self._read_number(start[4:])
        else:
            return False
        return length == UNDEFINED or place + 8 + length <= self.size

    def _peek(self, place: int, length: int) -> bytes:
        now = self.file.tell()
        self.file.seek(place)
        value = self.file.read(length)
        self.file.seek(now)
        return value

    def _read_tag(self, start: bytes) -> int:
        return self._read_number(start[:2]) << 16 | self._read_number(start[2:4])

    def _read_number(self, value: bytes) -> int:
        return int.from_bytes(value, self.order)

    def _cut(self) -> EOFError:
        return EOFError(f"ends within an element, after {self.size} bytes")


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
