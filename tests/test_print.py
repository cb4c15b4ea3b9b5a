"""A document for print and as slides: all of it is there, nothing overflows, the note stands on each."""

from __future__ import annotations

import sys
from pathlib import Path

import pypdf
import pytest
from matplotlib.figure import Figure
from pptx import Presentation
from test_document import HOSTILE, make_document

from ich.report.document import Deck, Document, Listing, Picture, Section, Slide, Table, Text
from ich.report.figures import encode_png
from ich.report.pdf import write_pdf
from ich.report.slides import write_slides
from ich.schema import DISCLAIMER, UserError

SIGNS = "\N{MINUS SIGN}0.018 · ≥ 0.95 \N{EN DASH} ° ²"


def make_picture(name: str, width: float, height: float) -> Picture:
    figure = Figure(figsize=(width, height))
    figure.subplots().plot([0, 1], [0, 1])
    return Picture(name, encode_png(figure), f"Caption of {name}. " * 12, f"A line, {name}")


def make_long_document() -> Document:
    rows = [[f"row {i}", f"0.{i:03} (0.880-0.940)", SIGNS, "words that go on " * 4] for i in range(120)]
    blocks = [
        Text("sentence " * 1500),
        Table(["name", "AUROC (95 %)", "signs", "remark"], rows, "A long table"),
        Table(["name", "text"], [["one", "endless " * 2500], ["x" * 400, "y"]], "Rows higher than a page"),
        *(make_picture(*given) for given in (("wide", 20, 2), ("tall", 2, 24), ("small", 1, 1))),
    ]
    return Document(f"Title {SIGNS}", "Subtitle", [Section("Long " * 30, blocks), Section("End", [])])


def read_pages(path: Path) -> list[str]:
    return [" ".join(page.extract_text().split()) for page in pypdf.PdfReader(path).pages]


def test_pdf_has_all(tmp_path: Path) -> None:
    document = make_document(HOSTILE)
    write_pdf(document, tmp_path / "report.pdf")
    text = " ".join(read_pages(tmp_path / "report.pdf"))
    hostile = " ".join(HOSTILE.split())
    for piece in (
        "Title",
        "Subtitle",
        "A paragraph,",
        "first",
        "A table,",
        "A line,",
        "Heat maps,",
        "Folded,",
    ):
        assert f"{piece} {hostile}" in text
    assert "second" in text
    assert "0.912" in text
    assert f"Heat maps, {hostile}: not available. They need a checkpoint." in text
    reader = pypdf.PdfReader(tmp_path / "report.pdf")
    assert [entry["/Title"] for entry in reader.outline] == [f"First {HOSTILE}", f"Last {HOSTILE}"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"]


def test_pdf_of_a_long_document(tmp_path: Path) -> None:
    document = make_long_document()
    write_pdf(document, tmp_path / "report.pdf")
    reader = pypdf.PdfReader(tmp_path / "report.pdf")
    pages = read_pages(tmp_path / "report.pdf")
    assert {tuple(map(round, page.mediabox[2:])) for page in reader.pages} == {(595, 842)}
    for number, page in enumerate(pages, start=1):
        assert DISCLAIMER in page
        assert f"{number} of {len(pages)}" in page
    of_table = [page for page in pages if "(0.880-0.940)" in page]
    assert len(of_table) > 2
    assert all("AUROC (95 %)" in page for page in of_table)
    text = " ".join(pages)
    assert SIGNS in text
    assert text.count("sentence") == 1500
    assert text.count("endless") == 2500
    assert all(f"row {i} " in text for i in range(120))
    assert len([image for page in reader.pages for image in page.images]) == 3


def test_pdf_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        write_pdf(make_document(), tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def read_texts(slide: object) -> list[str]:
    texts = []
    for shape in slide.shapes:  # type: ignore[attr-defined]
        if shape.has_text_frame:
            texts.append(shape.text_frame.text)
        elif shape.has_table:
            texts += [cell.text_frame.text for row in shape.table.rows for cell in row.cells]
    return texts


def make_deck() -> Deck:
    table = Table(
        ["name", "AUROC (95 %)"], [[f"row {i}", "0.9 (0.8-1.0)"] for i in range(6)], "A table. " * 9
    )
    long = make_long_document().sections[0].blocks
    slides = [
        Slide(HOSTILE, [[Text(HOSTILE, strong=True), Listing([HOSTILE, SIGNS]), table]]),
        Slide("Words beside a picture", [[Text("Short."), table], [make_picture("tall", 2, 24)]], (8, 5)),
        Slide("Pictures", [[make_picture("wide", 20, 2)], [make_picture("small", 1, 1)]]),
        Slide("Too much", [long[:1], long[1:2], long[2:3]]),
    ]
    return Deck(f"Title {SIGNS}", "Subtitle", slides)


def test_slides_are_as_many_as_given_and_nothing_overflows(tmp_path: Path) -> None:
    given = make_deck()
    write_slides(given, tmp_path / "deck.pptx")
    deck = Presentation(str(tmp_path / "deck.pptx"))
    assert deck.slide_width * 9 == deck.slide_height * 16
    assert len(deck.slides) == len(given.slides)
    for number, slide in enumerate(deck.slides, start=1):
        assert f"{DISCLAIMER} · {number}" in read_texts(slide)
        boxes = [(s.left, s.top, s.left + s.width, s.top + s.height) for s in slide.shapes]
        assert all(min(left, top) >= 0 for left, top, _, _ in boxes)
        assert all(right <= deck.slide_width and bottom <= deck.slide_height for _, _, right, bottom in boxes)
        foot = min(top for _, top, _, _ in boxes if top > deck.slide_height * 0.9)
        assert all(bottom <= foot for _, top, _, bottom in boxes if top < foot)
        for shape in slide.shapes:
            if shape.has_table:
                assert sum(row.height for row in shape.table.rows) <= shape.height + len(shape.table.rows)
    pictures = [shape for slide in deck.slides for shape in slide.shapes if shape.shape_type == 13]
    assert [shape.name for shape in pictures] == ["tall", "wide", "small"]
    for shape in pictures:
        assert shape._element.nvPicPr.cNvPr.get("descr") == f"A line, {shape.name}"
        assert shape.width / shape.height == pytest.approx(
            shape.image.size[0] / shape.image.size[1], rel=1e-2
        )


def test_slides_hold_what_fits_and_say_what_does_not(tmp_path: Path) -> None:
    write_slides(make_deck(), tmp_path / "deck.pptx")
    slides = list(Presentation(str(tmp_path / "deck.pptx")).slides)
    first = read_texts(slides[0])
    hostile = " ".join(HOSTILE.split())
    assert {f"Title {SIGNS}", "Subtitle", hostile, f"• {hostile}", f"• {SIGNS}", "row 5"} <= {*first}
    assert "Words beside a picture" in read_texts(slides[1])
    assert "row 5" in read_texts(slides[1])
    assert "More in the report." not in {*first, *read_texts(slides[1])}
    assert read_texts(slides[3]).count("More in the report.") == 3
    rows = [text for text in read_texts(slides[3]) if text.startswith("row ")]
    assert 5 < len(rows) < 120


@pytest.mark.parametrize(
    ("module", "package"), [("ich.report.pdf", "reportlab"), ("ich.report.slides", "pptx")]
)
def test_a_missing_package_names_the_extra(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError, match=r"ich\[print\]"):
        __import__(module)
