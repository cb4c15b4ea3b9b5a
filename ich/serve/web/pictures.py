"""The pictures of slices with their heat maps, out of the page that a reading wrote."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

_NAME = re.compile(r"slice_(\d+)")
_DATA = "data:image/png;base64,"


@dataclass(frozen=True)
class SlicePicture:
    """A picture of a slice.

    Attributes:
        number: Number of the slice, from 1.
        png: The picture.
        alt: Description for readers who cannot see it.
        caption: Text below it.
    """

    number: int
    png: bytes
    alt: str
    caption: str


def read_pictures(page: Path) -> list[SlicePicture]:
    """Reads the pictures of slices of a page, in its order; there are none if it cannot be read."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    parser = _Parser()
    parser.feed(text)
    return parser.found


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[SlicePicture] = []
        self._number: int | None = None
        self._png = b""
        self._alt = ""
        self._caption: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a figure of a slice, its picture and where its caption begins."""
        given = dict(attrs)
        if tag == "figure":
            name = _NAME.fullmatch(given.get("data-name") or "")
            self._number = int(name[1]) + 1 if name else None
            self._png = b""
        elif tag == "img" and (source := given.get("src") or "").startswith(_DATA):
            try:
                self._png = base64.b64decode(source.removeprefix(_DATA), validate=True)
            except binascii.Error:
                self._png = b""
            self._alt = given.get("alt") or ""
        elif tag == "figcaption":
            self._caption = []

    def handle_data(self, data: str) -> None:
        """Collects the caption."""
        if self._caption is not None:
            self._caption.append(data)

    def handle_endtag(self, tag: str) -> None:
        """Adds a figure that has ended."""
        if tag == "figcaption" and self._caption is not None:
            if self._number is not None and self._png:
                caption = "".join(self._caption).strip()
                self.found.append(SlicePicture(self._number, self._png, self._alt, caption))
            self._caption = None
