"""A document of text, tables and pictures in sections, independent of its format.

One document becomes a page for a browser, a report for print or a deck of slides, so all have the same
content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ich.schema import DISCLAIMER


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; ``strong`` if it must not be overlooked."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Listing:
    """A list of items."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row of the table {self.caption!r} does not have {len(self.header)} cells")


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: Stem of its file name, if it is written to a file.
        png: The picture, PNG.
        caption: Text below the picture.
        alt: Description for readers who cannot see the picture.
    """

    name: str
    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Missing:
    """An item that is not available, and the reason."""

    what: str
    why: str


Block: TypeAlias = Text | Listing | Table | Picture | Missing


@dataclass(frozen=True)
class Section:
    """A section of a document, with a title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A document; its ``note`` appears at the top and on every printed page and slide."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    note: str = field(default=DISCLAIMER)

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in their order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]
