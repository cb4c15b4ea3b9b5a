"""Writes a document as PDF for print: A4, with numbered pages and the note at the bottom of each."""

from __future__ import annotations

import io
from itertools import chain
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ich.files import replacing
from ich.report.document import Block, Details, Document, Highlight, Listing, Missing, Picture, Table, Text
from ich.report.fitting import BOLD, REGULAR, fit_columns
from ich.schema import UserError

try:
    from reportlab.lib.colors import HexColor
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.lib.units import mm
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont
    from reportlab.pdfgen.canvas import Canvas
    from reportlab.platypus import (
        BaseDocTemplate,
        CondPageBreak,
        Flowable,
        Frame,
        Image,
        ListFlowable,
        LongTable,
        PageTemplate,
        Paragraph,
        Spacer,
        TableStyle,
    )
except ImportError as error:
    raise UserError("a PDF needs the package reportlab: pip install 'ich[print]'") from error

_MARGIN = 20 * mm
_WIDTH = A4[0] - 2 * _MARGIN
_HEIGHT = A4[1] - 2 * _MARGIN - 6 * mm  # above the foot
_HEADING_ROOM = 60.0  # points that a heading above a picture takes, at most
_PICTURE_DPI = 150  # of a picture that needs no shrinking
_TABLE_SIZES = (8.5, 7.5, 6.5)  # points
_CELL_PADDING = 3.0

_INK, _SOFT, _LINE = HexColor("#1b1b1b"), HexColor("#595959"), HexColor("#b8b8b8")
pdfmetrics.registerFont(TTFont("ich", str(REGULAR)))
pdfmetrics.registerFont(TTFont("ich-bold", str(BOLD)))


def _style(size: float, *, bold: bool = False, **settings: Any) -> ParagraphStyle:
    font = "ich-bold" if bold else "ich"
    given = {"leading": 1.35 * size, "textColor": _INK, "spaceAfter": 5} | settings
    return ParagraphStyle(f"{font}-{size}", fontName=font, fontSize=size, **given)


_TITLE = _style(19, bold=True, spaceAfter=3)
_SUBTITLE = _style(10, textColor=_SOFT, spaceAfter=14)
_NOTE = _style(
    10,
    bold=True,
    borderWidth=1,
    borderColor=_INK,
    borderPadding=5,
    leftIndent=6,
    rightIndent=6,
    spaceAfter=16,
)
_HEADING = _style(13, bold=True, spaceBefore=14, spaceAfter=6, keepWithNext=1)
_SUBHEADING = _style(10.5, bold=True, spaceBefore=10, spaceAfter=4, keepWithNext=1)
_BODY, _STRONG = _style(9.5), _style(9.5, bold=True)
_CAPTION = _style(8.5, textColor=_SOFT)
_HEAD_CAPTION = _style(8.5, textColor=_SOFT, keepWithNext=1)
_MISSING = _style(9.5, textColor=_SOFT, leftIndent=8)


def write_pdf(document: Document, path: str | Path) -> None:
    """Writes a document as PDF, completely or not at all; the same document gives the same bytes.

    Raises:
        UserError: On import of this module, if the extra ``print`` is not installed.
    """
    story: list[Flowable] = [
        _paragraph(document.title, _TITLE),
        _paragraph(document.subtitle, _SUBTITLE),
        _paragraph(document.note, _NOTE),
    ]
    for section in document.sections:
        parts = [_lay_out(block) for block in section.blocks] or [[]]
        # A heading stays on the page of its first block.
        parts[0].insert(
            1 if parts[0] and isinstance(parts[0][0], CondPageBreak) else 0, _Heading(section.title)
        )
        story += chain.from_iterable(parts)
    with replacing(Path(path)) as partial:
        template = BaseDocTemplate(
            str(partial), pagesize=A4, title=document.title, subject=document.note, lang="en", invariant=1
        )
        frame = Frame(_MARGIN, A4[1] - _MARGIN - _HEIGHT, _WIDTH, _HEIGHT, 0, 0, 0, 0)
        template.addPageTemplates(PageTemplate(frames=[frame]))
        template.build(story, canvasmaker=lambda *args, **kwargs: _Pages(document.note, *args, **kwargs))


class _Pages(Canvas):  # type: ignore[misc]  # reportlab has no types
    """Keeps the pages until their number is known, and then writes their footers."""

    def __init__(self, note: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._note = note
        self._kept: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802  # reportlab's name
        self._kept.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        kept = self._kept
        for number, page in enumerate(kept, start=1):
            self.__dict__.update(page)
            self.setFont("ich", 8)
            self.setFillColor(_SOFT)
            self.drawString(_MARGIN, _MARGIN - 2 * mm, self._note)
            self.drawRightString(A4[0] - _MARGIN, _MARGIN - 2 * mm, f"{number} of {len(kept)}")
            super().showPage()
        super().save()


class _Heading(Paragraph):  # type: ignore[misc]
    """A section's title, which viewers also show in the outline."""

    def __init__(self, title: str) -> None:
        super().__init__(escape(title), _HEADING)
        self._title = title

    def draw(self) -> None:
        key = f"section-{id(self)}"
        self.canv.bookmarkPage(key)
        self.canv.addOutlineEntry(self._title, key)
        super().draw()


def _paragraph(text: str, style: ParagraphStyle) -> Paragraph:
    return Paragraph(escape(text), style)


def _lay_out(block: Block) -> list[Flowable]:
    if isinstance(block, Text):
        return [_paragraph(block.text, _STRONG if block.strong else _BODY)]
    if isinstance(block, Listing):
        items = [_paragraph(item, _BODY) for item in block.items]
        return [ListFlowable(items, bulletType="bullet", start="•", leftIndent=12, bulletFontSize=9)]
    if isinstance(block, Picture):
        return _lay_out_picture(block)
    if isinstance(block, Highlight):
        text = _paragraph(f"{block.text} More: {block.section}.", _BODY)
        return [_paragraph(block.title, _SUBHEADING), text, *_lay_out_picture(block.picture)]
    if isinstance(block, Details):
        inner = chain.from_iterable(map(_lay_out, block.blocks))
        return [CondPageBreak(45 * mm), _paragraph(block.title, _SUBHEADING), *inner]
    if isinstance(block, Missing):
        return [_paragraph(f"{block.what}: not available. {block.why}", _MISSING)]
    return _lay_out_table(block)


def _lay_out_picture(picture: Picture) -> list[Flowable]:
    width, height = (side * 72 / _PICTURE_DPI for side in ImageReader(io.BytesIO(picture.png)).getSize())
    caption = _paragraph(picture.caption, _CAPTION)
    room = _HEIGHT - caption.wrap(_WIDTH, _HEIGHT)[1] - _HEADING_ROOM
    scale = min(1.0, _WIDTH / width, room / height)
    image = Image(io.BytesIO(picture.png), width * scale, height * scale, hAlign="LEFT")
    image.keepWithNext = 1
    return [image, caption, Spacer(0, 8)]


def _lay_out_table(table: Table) -> list[Flowable]:
    size, widths = fit_columns(table.header, table.rows, _WIDTH, _TABLE_SIZES, 2 * _CELL_PADDING + 0.5)
    plain, bold = (_style(size, bold=bold, spaceAfter=0) for bold in (False, True))
    cells = [[_paragraph(cell, bold) for cell in table.header]]
    cells += [[_paragraph(cell, plain if i else bold) for i, cell in enumerate(row)] for row in table.rows]
    style = TableStyle(
        [
            ("VALIGN", (0, 0), (-1, 0), "BOTTOM"),
            ("VALIGN", (0, 1), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, 0), 1.2, _INK),
            ("LINEBELOW", (0, 1), (-1, -1), 0.4, _LINE),
            ("LEFTPADDING", (0, 0), (-1, -1), 0),
            ("RIGHTPADDING", (0, 0), (-1, -1), 2 * _CELL_PADDING),
            ("TOPPADDING", (0, 0), (-1, -1), 2),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 2.5),
        ]
    )
    laid_out = LongTable(cells, widths, repeatRows=1, splitInRow=1, hAlign="LEFT", style=style)
    caption = [_paragraph(table.caption, _HEAD_CAPTION)] if table.caption else []
    # A table that is longer than a page begins with its caption, its header and some rows.
    return [CondPageBreak(45 * mm), *caption, laid_out, Spacer(0, 10)]
