"""Writes a document as one HTML page that contains its pictures and needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import jinja2

from ich.files import replacing
from ich.report.document import (
    Block,
    Details,
    Document,
    Highlight,
    Listing,
    Missing,
    Picture,
    Table,
    Text,
)


def render_html(document: Document) -> str:
    """Returns a document as a page; its texts are never read as markup.

    Raises:
        KeyError: If a highlight names a section that the document does not have.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ich.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests |= {
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in (Text, Listing, Table, Picture, Missing, Highlight, Details)
    }
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    environment.filters["runs"] = _list_runs
    anchors = {section.title: f"section-{n}" for n, section in enumerate(document.sections, start=1)}
    blocks = document.blocks
    anchors = {block.section: anchors[block.section] for block in blocks if isinstance(block, Highlight)}
    return environment.get_template("page.html").render(document=document, anchors=anchors)


def _list_runs(blocks: Sequence[Block]) -> Iterator[tuple[bool, list[Block]]]:
    """Yields blocks that follow each other and are all highlights, or all not."""
    for highlighted, run in groupby(blocks, key=lambda block: isinstance(block, Highlight)):
        yield highlighted, list(run)


def write_html(document: Document, path: str | Path) -> None:
    """Writes a document as a page, completely or not at all."""
    with replacing(Path(path)) as partial:
        partial.write_text(render_html(document), encoding="utf-8")
