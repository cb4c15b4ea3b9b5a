"""Walks a data set with pydicom, which knows more errors of writers than a quick walk can.

It runs in the process of ``decoding``, because pydicom uses as much memory and time as a file asks for, and
raises any exception. Exceptions may quote values, so their texts are not passed on.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection
from typing import Literal, NamedTuple

from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement

from ich.dicom.elements import MAX_TEXT, PIXEL_DATA, SEQUENCES, shorten


class Walked(NamedTuple):
    """Values that pydicom has read."""

    syntax: str
    order: Literal["little", "big"]
    raw: dict[int, bytes]  # values by tag
    pixels: tuple[int, bytes, int]  # tag, representation, length; a tag of 0 without pixels
    offset: int  # of their value, in bytes from the start


def walk(data: bytes, tags: Collection[int]) -> Walked:
    """Reads values from the bytes of a file.

    Args:
        data: The whole file.
        tags: The elements to read; for a sequence, only its presence is reported.

    Raises:
        EOFError: If a value ends with the file.
    """
    config.settings.reading_validation_mode = config.IGNORE
    ds = dcmread(io.BytesIO(data), defer_size=MAX_TEXT, specific_tags=[*tags, PIXEL_DATA])
    raw = {}
    for tag in tags:
        element = ds.get_item(tag, keep_deferred=True)
        if tag in SEQUENCES and element is not None:
            raw[tag] = b""
        elif isinstance(element, RawDataElement):
            raw[tag] = _find_value(data, element)
    little, pixels, offset = ds.original_encoding[1], (0, b"", 0), 0
    if isinstance(element := ds.get_item(PIXEL_DATA, keep_deferred=True), RawDataElement):
        pixels, offset = (PIXEL_DATA, (element.VR or "").encode(), element.length), element.value_tell
    syntax = str(ds.file_meta.get("TransferSyntaxUID", ""))
    return Walked(syntax, "little" if little else "big", raw, pixels, offset)


def _find_value(data: bytes, element: RawDataElement) -> bytes:
    value = data[element.value_tell : element.value_tell + min(element.length, MAX_TEXT)]
    if element.value_tell + element.length > len(data):
        raise EOFError
    return shorten(element.tag, value)


def to_json(walked: Walked) -> bytes:
    """Writes the values for another process."""
    syntax, order, raw, (tag, vr, length), offset = walked
    texts = {tag: base64.b64encode(value).decode() for tag, value in raw.items()}
    return json.dumps([syntax, order, texts, [tag, vr.decode(), length], offset]).encode()


def from_json(text: bytes | bytearray) -> Walked:
    """Reads the values from ``to_json``."""
    syntax, order, texts, (tag, vr, length), offset = json.loads(text)
    raw = {int(tag): base64.b64decode(value) for tag, value in texts.items()}
    return Walked(syntax, order, raw, (tag, vr.encode(), length), offset)
