"""Documents of text, tables and pictures in sections, and decks of slides, independent of their format.

One document becomes a page for a browser, a report for print or a text, so all have the same content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


Plain: TypeAlias = Text | Listing | Table | Picture | Missing
"""Blocks that stand on their own, on a page and on a slide."""


@dataclass(frozen=True)
class Highlight:
    """Something that a reader should see first.

    Attributes:
        title: What it is, in a few words.
        text: The same in full.
        picture: Its picture.
        section: Title of the section with the details, in the same document.
    """

    title: str
    text: str
    picture: Picture
    section: str


@dataclass(frozen=True)
class Details:
    """Blocks for a reader who wants to know more: a page folds them, and print shows them."""

    title: str
    blocks: Sequence[Block]


Block: TypeAlias = Plain | Highlight | Details


@dataclass(frozen=True)
class Section:
    """A section of a document, with a title."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A document whose first section says what matters; a page lists the contents after it.

    Its ``note`` appears at the top and on every printed page.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    note: str = field(default=DISCLAIMER)

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks in their order, also those within ``Details``."""
        for section in self.sections:
            yield from _flatten(section.blocks)

    @property
    def pictures(self) -> list[Picture]:
        """All pictures in their order."""
        found = (block.picture if isinstance(block, Highlight) else block for block in self.blocks)
        return [block for block in found if isinstance(block, Picture)]


def _flatten(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, Details):
            yield from _flatten(block.blocks)
        else:
            yield block


@dataclass(frozen=True)
class Slide:
    """A slide.

    Attributes:
        title: Its title.
        columns: The blocks of each column, from left to right.
        widths: Relative widths of the columns; the same for all by default.
    """

    title: str
    columns: Sequence[Sequence[Plain]]
    widths: Sequence[float] = ()


@dataclass(frozen=True)
class Deck:
    """A deck of slides; the first also shows ``title`` and ``subtitle``, and ``note`` stands on each."""

    title: str
    subtitle: str
    slides: Sequence[Slide]
    note: str = field(default=DISCLAIMER)
