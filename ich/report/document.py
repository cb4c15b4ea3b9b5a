"""A document: sections of text, tables and pictures, apart from what it is written as.

One document becomes a page to open in a browser, a report for print or a deck of slides, so that all of
them say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ich.schema import DISCLAIMER


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; ``strong`` where it must not be overlooked."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Listing:
    """Items one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"a row of the table {self.caption!r} has not {len(self.header)} cells")


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: Stem of its file where it is written to one.
        png: The picture, PNG.
        caption: Below it.
        alt: What is to be seen, for those who do not see it.
    """

    name: str
    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Missing:
    """What cannot be shown, and why: ``not available``."""

    what: str
    why: str


Block: TypeAlias = Text | Listing | Table | Picture | Missing


@dataclass(frozen=True)
class Section:
    """A titled part of a document."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """What is to be written; ``note`` stands at its head and on every printed page and slide."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    note: str = field(default=DISCLAIMER)

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in their order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]
