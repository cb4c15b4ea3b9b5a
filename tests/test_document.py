"""A document says the same in every form that it is written in, and text in it is never markup."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ich.report.document import (
    Details,
    Document,
    Highlight,
    Listing,
    Missing,
    Picture,
    Section,
    Table,
    Text,
)
from ich.report.figures import encode_png
from ich.report.html import render_html, write_html
from ich.schema import DISCLAIMER

HOSTILE = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }}"


def make_document(text: str = "plain") -> Document:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [0, 1])
    png = encode_png(figure)
    small = Picture("small", png, f"Small, {text}", f"A rising line, {text}")
    first = Highlight(f"Highlight {text}", f"It stands out, {text}.", small, f"Last {text}")
    blocks = [
        first,
        Text(f"A paragraph, {text}.", strong=True),
        Listing([f"first {text}", "second"]),
        Table(["label", "AUROC"], [["any", "0.912"], [text, "n/a"]], caption=f"A table, {text}"),
        Picture("line", png, f"A line, {text}", f"A rising line, {text}"),
        Missing(f"Heat maps, {text}", "They need a checkpoint."),
        Details(f"Details {text}", [Text(f"Folded, {text}.")]),
    ]
    sections = [Section(f"First {text}", blocks), Section(f"Last {text}", [])]
    return Document(f"Title {text}", f"Subtitle {text}", sections)


class Reader(HTMLParser):
    """Keeps tags and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_page_has_all_and_needs_nothing() -> None:
    document = make_document()
    page = read(render_html(document))
    for text in (
        "A paragraph, plain.",
        "second",
        "0.912",
        "A table, plain",
        "Heat maps, plain: not available",
        "It stands out, plain.",
        "More: Last plain",
        "Folded, plain.",
    ):
        assert text in page.text
    assert page.text.count(DISCLAIMER) == 2
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert [base64.b64decode(str(source).partition(",")[2]) for source in sources] == [
        picture.png for picture in document.pictures
    ]
    addresses = [str(attrs[key]) for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    anchors = {f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs}
    assert {address for address in addresses if address.startswith("#")} == anchors - {
        "#section-1",
        "#contents",
    }
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_text_is_never_markup() -> None:
    page = read(render_html(make_document(HOSTILE)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert (
        page.text.count(HOSTILE) == 17
    )  # title, heading, subtitle, contents, two sections, eleven in blocks
    assert {attrs["alt"] for tag, attrs in page.tags if tag == "img"} == {f"A rising line, {HOSTILE}"}


def test_rows_fit_their_table() -> None:
    with pytest.raises(ValueError, match="does not have 2 cells"):
        Table(["a", "b"], [["1"]], caption="wrong")


def test_page_is_written_whole(tmp_path: Path) -> None:
    write_html(make_document(), tmp_path / "page.html")
    assert re.search(r"</html>\s*$", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
