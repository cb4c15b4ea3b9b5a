"""Writes a document as one HTML page that contains its pictures and needs no network."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2

from ich.files import replacing
from ich.report.document import Document, Listing, Missing, Picture, Table, Text


def render_html(document: Document) -> str:
    """Returns a document as a page; its texts are never read as markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ich.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests |= {
        kind.__name__.lower(): lambda block, kind=kind: isinstance(block, kind)
        for kind in (Text, Listing, Table, Picture, Missing)
    }
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template("page.html").render(document=document)


def write_html(document: Document, path: str | Path) -> None:
    """Writes a document as a page, completely or not at all."""
    with replacing(Path(path)) as partial:
        partial.write_text(render_html(document), encoding="utf-8")
