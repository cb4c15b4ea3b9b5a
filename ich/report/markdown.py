"""Writes a document as Markdown, for model cards and checklists beside code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ich.files import replacing
from ich.report.document import Block, Details, Document, Highlight, Listing, Missing, Picture, Table, Text

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def render_markdown(document: Document) -> str:
    """Returns a document as Markdown; its texts are never read as markup. Pictures become captions."""
    lines = [f"# {_escape(document.title)}", _escape(document.subtitle), f"**{_escape(document.note)}**"]
    for section in document.sections:
        lines.append(f"## {_escape(section.title)}")
        for block in section.blocks:
            lines += _render(block)
    return "\n\n".join(line for line in lines if line) + "\n"


def write_markdown(document: Document, path: str | Path) -> None:
    """Writes a document as Markdown, completely or not at all."""
    with replacing(Path(path)) as partial:
        partial.write_text(render_markdown(document), encoding="utf-8")


def _render(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        text = _escape(block.text)
        yield f"**{text}**" if block.strong else text
    elif isinstance(block, Listing):
        yield "\n".join(f"- {_escape(item)}" for item in block.items)
    elif isinstance(block, Missing):
        yield f"{_escape(block.what)}: not available. {_escape(block.why)}"
    elif isinstance(block, Picture):
        yield f"*{_escape(block.caption)}*"
    elif isinstance(block, Highlight):
        yield f"### {_escape(block.title)}"
        yield f"{_escape(block.text)} More: {_escape(block.section)}."
    elif isinstance(block, Details):
        yield f"### {_escape(block.title)}"
        for inner in block.blocks:
            yield from _render(inner)
    else:
        yield from _render_table(block)


def _render_table(table: Table) -> Iterator[str]:
    yield _escape(table.caption)
    lines = [_join(table.header), "|" + "---|" * len(table.header), *map(_join, table.rows)]
    yield "\n".join(lines)


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    escaped = _MARKUP.sub(r"\\\1", " ".join(text.split()))
    # At the start of a line these begin a list.
    return re.sub(r"^([-+]|\d+(?=[.)]))", r"\1\\" if escaped[:1].isdigit() else r"\\\1", escaped)
