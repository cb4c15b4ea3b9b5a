"""Writes a document as slides, 16:9: one per picture or table, with the note at the bottom of each."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ich.files import replacing
from ich.report.document import Document, Listing, Missing, Picture, Section, Table, Text
from ich.report.fitting import fit_columns, wrap
from ich.schema import UserError

try:
    from pptx import Presentation
    from pptx.dml.color import RGBColor
    from pptx.enum.text import MSO_ANCHOR, MSO_AUTO_SIZE
    from pptx.util import Pt
except ImportError as error:
    raise UserError("slides need the package python-pptx: pip install 'ich[print]'") from error

_WIDTH, _HEIGHT = 960.0, 540.0  # points: 16:9
_LEFT, _TOP = 40.0, 24.0
_INNER = _WIDTH - 2 * _LEFT
_BESIDE = 240.0  # of a caption beside its picture
_BODY_TOP, _FOOT_TOP = 92.0, 510.0
_BODY_HEIGHT = _FOOT_TOP - _BODY_TOP - 6
_BODY = (_LEFT, _BODY_TOP, _INNER, _BODY_HEIGHT)
_BODY_SIZE, _CAPTION_SIZE, _FOOT_SIZE = 16.0, 12.0, 11.0
_TITLE_SIZES = (28.0, 24.0, 20.0, 16.0)
_TABLE_SIZES = (14.0, 12.0, 11.0, 10.0, 9.0)
_LEADING = 1.25  # of a line, in sizes of its text
_CELL_PADDING, _CELL_MARGIN = 5.0, 3.0  # beside and above the text of a cell
_INK, _SOFT, _SHADE, _PAPER = map(RGBColor.from_string, ("1B1B1B", "595959", "EFEFEF", "FFFFFF"))
_BLANK = 6  # the empty layout of python-pptx's own template


def write_slides(document: Document, path: str | Path) -> None:
    """Writes a document as a PowerPoint file, completely or not at all.

    Content that is too long for one slide continues on the next.

    Raises:
        UserError: On import of this module, if the extra ``print`` is not installed.
    """
    deck = _Deck(document.note)
    deck.add_title(document.title, document.subtitle)
    for section in document.sections:
        for group in _group(section):
            if isinstance(group, Picture):
                deck.add_picture(section.title, group)
            elif isinstance(group, Table):
                deck.add_table(section.title, group)
            else:
                deck.add_text(section.title, group)
    with replacing(Path(path)) as partial:
        deck.presentation.save(str(partial))


def _group(section: Section) -> Iterator[Picture | Table | list[tuple[str, bool]]]:
    """Yields pictures and tables one by one, and the text between them as paragraphs, each strong or not."""
    paragraphs: list[tuple[str, bool]] = []
    for block in section.blocks:
        if isinstance(block, Text):
            paragraphs.append((block.text, block.strong))
        elif isinstance(block, Listing):
            paragraphs += [(f"• {item}", False) for item in block.items]
        elif isinstance(block, Missing):
            paragraphs.append((f"{block.what}: not available. {block.why}", False))
        else:
            if paragraphs:
                yield paragraphs
                paragraphs = []
            yield block
    if paragraphs:
        yield paragraphs


class _Deck:
    """Slides, added in order; all lengths are points."""

    def __init__(self, note: str) -> None:
        self.presentation = Presentation()
        self.presentation.slide_width, self.presentation.slide_height = Pt(_WIDTH), Pt(_HEIGHT)
        self._note = note

    def add_title(self, title: str, subtitle: str) -> None:
        slide = self._add("")
        size, height = _fit_text(title, (40.0, 32.0, 26.0), _INNER, 180)
        self._write(slide, [(title, True)], (_LEFT, 130, _INNER, height), size)
        self._write(slide, [(subtitle, False)], (_LEFT, 150 + height, _INNER, 90), _BODY_SIZE, color=_SOFT)
        self._write(slide, [(self._note, True)], (_LEFT, 400, _INNER, 40), 20)

    def add_text(self, title: str, paragraphs: Sequence[tuple[str, bool]]) -> None:
        """Adds paragraphs, on as many slides as they need."""
        page: list[tuple[str, bool]] = []
        used = 0.0
        for text, strong in _break_up(paragraphs):
            height = _height(text, _BODY_SIZE, bold=strong) + _BODY_SIZE * 0.5
            if page and used + height > _BODY_HEIGHT:
                self._write(self._add(title), page, _BODY, _BODY_SIZE)
                page, used = [], 0.0
            page.append((text, strong))
            used += height
        self._write(self._add(title), page, _BODY, _BODY_SIZE)

    def add_picture(self, title: str, picture: Picture) -> None:
        """Adds a picture as large as possible, above its caption, or beside it if it is not wide."""
        slide = self._add(title)
        shape = slide.shapes.add_picture(io.BytesIO(picture.png), 0, 0)
        shape.name = picture.name
        shape._element.nvPicPr.cNvPr.set("descr", picture.alt)
        sizes = (_CAPTION_SIZE, 10.0, 8.0)
        if shape.width < 1.5 * shape.height:
            wide, room, left = _INNER - _BESIDE - 20, _BODY_HEIGHT, _LEFT
            size, height = _fit_text(picture.caption, sizes, _BESIDE, _BODY_HEIGHT)
            place = (_LEFT + _INNER - _BESIDE, _BODY_TOP, _BESIDE, height)
        else:
            size, height = _fit_text(picture.caption, sizes, _INNER, _BODY_HEIGHT / 3)
            wide, room, left = _INNER, _BODY_HEIGHT - height - 8, _LEFT
            place = (_LEFT, _BODY_TOP + room + 8, _INNER, height)
        scale = min(Pt(wide) / shape.width, Pt(room) / shape.height)
        shape.width, shape.height = int(shape.width * scale), int(shape.height * scale)
        shape.left, shape.top = Pt(left) + int((Pt(wide) - shape.width) / 2), Pt(_BODY_TOP)
        self._write(slide, [(picture.caption, False)], place, size, color=_SOFT)

    def add_table(self, title: str, table: Table) -> None:
        """Adds a table, on as many slides as its rows need."""
        size, widths = fit_columns(table.header, table.rows, _INNER, _TABLE_SIZES, 2 * _CELL_PADDING + 1)
        caption_size, caption = _fit_text(table.caption, (_CAPTION_SIZE, 10.0), _INNER, _BODY_HEIGHT / 4)
        room = _BODY_HEIGHT - caption - 8
        header = _row_height(table.header, widths, size, bold=True)
        parts: list[list[Sequence[str]]] = [[]]
        used = header
        for row in _break_rows(table.rows, widths, size, room - header):
            height = _row_height(row, widths, size)
            if parts[-1] and used + height > room:
                parts.append([])
                used = header
            parts[-1].append(row)
            used += height
        for number, rows in enumerate(parts, start=1):
            slide = self._add(title + (f" ({number} of {len(parts)})" if len(parts) > 1 else ""))
            if table.caption:
                place = (_LEFT, _BODY_TOP, _INNER, caption)
                self._write(slide, [(table.caption, False)], place, caption_size, color=_SOFT)
            self._draw_table(slide, table.header, rows, widths, size, _BODY_TOP + caption + 8)

    def _draw_table(
        self,
        slide: Any,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        widths: Sequence[float],
        size: float,
        top: float,
    ) -> None:
        heights = [_row_height(header, widths, size, bold=True)]
        heights += [_row_height(row, widths, size) for row in rows]
        frame = slide.shapes.add_table(
            len(heights), len(header), Pt(_LEFT), Pt(top), Pt(sum(widths)), Pt(sum(heights))
        )
        drawn = frame.table
        drawn.horz_banding = False
        for column, width in zip(drawn.columns, widths, strict=True):
            column.width = Pt(width)
        for number, (cells, height) in enumerate(zip([header, *rows], heights, strict=True)):
            drawn.rows[number].height = Pt(height)
            for place, text in enumerate(cells):
                cell = drawn.cell(number, place)
                cell.margin_left = cell.margin_right = Pt(_CELL_PADDING)
                cell.margin_top = cell.margin_bottom = Pt(_CELL_MARGIN)
                cell.vertical_anchor = MSO_ANCHOR.TOP
                cell.fill.solid()
                cell.fill.fore_color.rgb = _SHADE if number == 0 else _PAPER
                _fill(cell.text_frame, [(text, number == 0 or place == 0)], size, _INK)

    def _add(self, title: str) -> Any:
        """Adds a slide with its title, its note and its number."""
        slide = self.presentation.slides.add_slide(self.presentation.slide_layouts[_BLANK])
        if title:
            size, height = _fit_text(title, _TITLE_SIZES, _INNER, _BODY_TOP - _TOP - 8)
            self._write(slide, [(title, True)], (_LEFT, _TOP, _INNER, height), size)
        number = str(len(self.presentation.slides))
        foot = (_LEFT, _FOOT_TOP, _INNER, 20.0)
        self._write(slide, [(f"{self._note} · {number}", False)], foot, _FOOT_SIZE, color=_SOFT)
        return slide

    def _write(
        self,
        slide: Any,
        paragraphs: Sequence[tuple[str, bool]],
        place: tuple[float, float, float, float],
        size: float,
        color: RGBColor = _INK,
    ) -> None:
        """Writes paragraphs into a box: left, top, width and height."""
        box = slide.shapes.add_textbox(*map(Pt, place))
        frame = box.text_frame
        frame.word_wrap, frame.auto_size = True, MSO_AUTO_SIZE.NONE
        frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = 0
        _fill(frame, paragraphs, size, color)


def _fill(frame: Any, paragraphs: Sequence[tuple[str, bool]], size: float, color: RGBColor) -> None:
    for number, (text, strong) in enumerate(paragraphs):
        paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
        if number:
            paragraph.space_before = Pt(size * 0.5)
        run = paragraph.add_run()
        run.text = " ".join(text.split())
        run.font.size, run.font.bold, run.font.color.rgb = Pt(size), strong, color


def _height(text: str, size: float, width: float = _INNER, *, bold: bool = False) -> float:
    return len(wrap(text, width, size, bold=bold)) * size * _LEADING


def _break_rows(
    rows: Sequence[Sequence[str]], widths: Sequence[float], size: float, room: float
) -> Iterator[Sequence[str]]:
    """Yields rows; splits rows that are taller than a slide."""
    most = int((room - 2 * _CELL_MARGIN) / (size * _LEADING))
    for row in rows:
        cells = [
            wrap(cell, width - 2 * _CELL_PADDING, size, bold=place == 0)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for start in range(0, max(map(len, cells)), most):
            yield [" ".join(lines[start : start + most]) for lines in cells]


def _row_height(cells: Sequence[str], widths: Sequence[float], size: float, *, bold: bool = False) -> float:
    texts = (
        _height(cell, size, width - 2 * _CELL_PADDING, bold=bold or place == 0)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return max(texts) + 2 * _CELL_MARGIN


def _fit_text(text: str, sizes: Sequence[float], width: float, room: float) -> tuple[float, float]:
    """Returns the first size in which a text fits into a height, or the last one, and the needed height."""
    for size in sizes:
        if (height := _height(text, size, width, bold=True)) <= room:
            return size, height
    return sizes[-1], room


def _break_up(paragraphs: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Yields paragraphs; splits paragraphs that are longer than a slide."""
    most = int(_BODY_HEIGHT / (_BODY_SIZE * _LEADING)) - 1
    for text, strong in paragraphs:
        lines = wrap(text, _INNER, _BODY_SIZE, bold=strong)
        for start in range(0, len(lines), most):
            yield " ".join(lines[start : start + most]), strong
