"""Writes a deck as a PowerPoint file, 16:9, with the note at the bottom of each slide.

Each slide of the deck becomes one slide. Its text and its tables get the largest size in which all of them
fit. What does not fit in the smallest size is cut, and the slide says so.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ich.files import replacing
from ich.report.document import Deck, Listing, Missing, Picture, Plain, Slide, Table, Text
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
_LEFT, _TOP = 36.0, 18.0
_INNER = _WIDTH - 2 * _LEFT
_FOOT_TOP = 512.0
_GUTTER = 24.0  # between columns
_TITLE_ROOM = 64.0
_TITLE_SIZES = (26.0, 22.0, 18.0, 15.0)
_SUBTITLE_SIZE, _CAPTION_SIZE, _FOOT_SIZE = 12.0, 9.5, 11.0
_SIZES = (20.0, 19.0, 18.0, 17.0, 16.0, 15.0, 14.0, 13.0, 12.0, 11.0, 10.0, 9.0)
_TABLE_SIZES = (14.0, 13.0, 12.0, 11.0, 10.0, 9.0, 8.0)
_LEADING = 1.25  # of a line, in sizes of its text
_GAP = 0.5  # below a paragraph, in sizes of its text
_CELL_PADDING, _CELL_MARGIN = 5.0, 3.0  # beside and above the text of a cell
_INK, _SOFT, _SHADE, _PAPER = map(RGBColor.from_string, ("1B1B1B", "595959", "EFEFEF", "FFFFFF"))
_BLANK = 6  # the empty layout of python-pptx's own template
_TALLEST = 1.7  # of a row that fills a slide, in heights that its text needs
_CUT = "More in the report."


class _Box(NamedTuple):
    """A place on a slide, in points."""

    left: float
    top: float
    width: float
    height: float


class _Paragraph(NamedTuple):
    """A paragraph, in the size that it is written in."""

    text: str
    strong: bool
    size: float
    height: float


class _Grid(NamedTuple):
    """A table with the size of its text, the widths of its columns and the heights of its rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    size: float
    widths: Sequence[float]
    heights: Sequence[float]

    @property
    def height(self) -> float:
        return sum(self.heights)


def write_slides(deck: Deck, path: str | Path) -> None:
    """Writes a deck as a PowerPoint file, completely or not at all.

    Raises:
        UserError: On import of this module, if the extra ``print`` is not installed.
    """
    writer = _Writer(deck.note)
    for number, slide in enumerate(deck.slides):
        if number:
            writer.add(slide.title, "", slide)
        else:
            writer.add(deck.title, deck.subtitle, slide)
    with replacing(Path(path)) as partial:
        writer.presentation.save(str(partial))


class _Writer:
    """Adds slides in order; all lengths are points."""

    def __init__(self, note: str) -> None:
        self.presentation = Presentation()
        self.presentation.slide_width, self.presentation.slide_height = Pt(_WIDTH), Pt(_HEIGHT)
        self._note = note

    def add(self, title: str, subtitle: str, slide: Slide) -> None:
        """Adds a slide with its title, its columns, its note and its number."""
        drawn = self.presentation.slides.add_slide(self.presentation.slide_layouts[_BLANK])
        size, height = _fit_text(title, _TITLE_SIZES, _INNER, _TITLE_ROOM)
        self._write(drawn, [(title, True)], _Box(_LEFT, _TOP, _INNER, height), size)
        top = _TOP + height + 6
        if subtitle:
            height = _height(subtitle, _SUBTITLE_SIZE, _INNER)
            self._write(drawn, [(subtitle, False)], _Box(_LEFT, top, _INNER, height), _SUBTITLE_SIZE, _SOFT)
            top += height + 8
        boxes = _split(_Box(_LEFT, top, _INNER, _FOOT_TOP - 8 - top), slide)
        columns = list(zip(slide.columns, boxes, strict=True))
        size = next((s for s in _SIZES if all(_fits(blocks, box, s) for blocks, box in columns)), _SIZES[-1])
        for blocks, box in columns:
            self._draw_column(drawn, blocks, box, size)
        foot = f"{self._note} · {len(self.presentation.slides)}"
        self._write(drawn, [(foot, False)], _Box(_LEFT, _FOOT_TOP, _INNER, 20), _FOOT_SIZE, _SOFT)

    def _draw_column(self, slide: Any, blocks: Sequence[Plain], box: _Box, size: float) -> None:
        pieces = _cut(list(_lay_out(blocks, box.width, size)), box)
        pictures = [piece for piece in pieces if isinstance(piece, Picture)]
        spare = box.height - sum(piece.height for piece in pieces if not isinstance(piece, Picture))
        if not pictures:
            pieces = _stretch(pieces, spare)
        top = box.top
        for piece in pieces:
            if isinstance(piece, Picture):
                height = spare / len(pictures)
                self._draw_picture(slide, piece, _Box(box.left, top, box.width, height))
                top += height
                continue
            place = _Box(box.left, top, box.width, piece.height)
            if isinstance(piece, _Grid):
                self._draw_table(slide, piece, place)
            else:
                color = _SOFT if piece.size < size else _INK
                self._write(slide, [(piece.text, piece.strong)], place, piece.size, color)
            top += piece.height

    def _draw_picture(self, slide: Any, picture: Picture, box: _Box) -> None:
        """Draws a picture as large as possible, above its caption."""
        shape = slide.shapes.add_picture(io.BytesIO(picture.png), 0, 0)
        shape.name = picture.name
        shape._element.nvPicPr.cNvPr.set("descr", picture.alt)
        caption = _shorten(picture.caption, box.width, box.height / 5)
        height = _height(caption, _CAPTION_SIZE, box.width)
        room = box.height - height - 6
        scale = min(Pt(box.width) / shape.width, Pt(room) / shape.height)
        shape.width, shape.height = int(shape.width * scale), int(shape.height * scale)
        shape.left, shape.top = Pt(box.left) + int((Pt(box.width) - shape.width) / 2), Pt(box.top)
        below = box.top + shape.height / Pt(1) + 4
        place = _Box(box.left, below, box.width, height)
        self._write(slide, [(caption, False)], place, _CAPTION_SIZE, _SOFT)

    def _draw_table(self, slide: Any, grid: _Grid, box: _Box) -> None:
        frame = slide.shapes.add_table(
            len(grid.heights), len(grid.header), *map(Pt, (box.left, box.top, sum(grid.widths), grid.height))
        )
        drawn = frame.table
        drawn.horz_banding = False
        for column, width in zip(drawn.columns, grid.widths, strict=True):
            column.width = Pt(width)
        for number, (cells, height) in enumerate(zip([grid.header, *grid.rows], grid.heights, strict=True)):
            drawn.rows[number].height = Pt(height)
            for place, text in enumerate(cells):
                cell = drawn.cell(number, place)
                cell.margin_left = cell.margin_right = Pt(_CELL_PADDING)
                cell.margin_top = cell.margin_bottom = Pt(_CELL_MARGIN)
                cell.vertical_anchor = MSO_ANCHOR.MIDDLE
                cell.fill.solid()
                cell.fill.fore_color.rgb = _SHADE if number == 0 else _PAPER
                _fill(cell.text_frame, [(text, number == 0 or place == 0)], grid.size, _INK)

    def _write(
        self,
        slide: Any,
        paragraphs: Sequence[tuple[str, bool]],
        place: _Box,
        size: float,
        color: RGBColor = _INK,
    ) -> None:
        """Writes paragraphs into a box."""
        box = slide.shapes.add_textbox(*map(Pt, place))
        frame = box.text_frame
        frame.word_wrap, frame.auto_size = True, MSO_AUTO_SIZE.NONE
        frame.margin_left = frame.margin_right = frame.margin_top = frame.margin_bottom = 0
        _fill(frame, paragraphs, size, color)


def _fill(frame: Any, paragraphs: Sequence[tuple[str, bool]], size: float, color: RGBColor) -> None:
    for number, (text, strong) in enumerate(paragraphs):
        paragraph = frame.paragraphs[0] if number == 0 else frame.add_paragraph()
        run = paragraph.add_run()
        run.text = " ".join(text.split())
        run.font.size, run.font.bold, run.font.color.rgb = Pt(size), strong, color


def _split(box: _Box, slide: Slide) -> list[_Box]:
    """Divides the body of a slide into its columns."""
    shares = slide.widths or [1.0] * len(slide.columns)
    room = box.width - _GUTTER * (len(shares) - 1)
    boxes, left = [], box.left
    for share in shares:
        width = room * share / sum(shares)
        boxes.append(_Box(left, box.top, width, box.height))
        left += width + _GUTTER
    return boxes


def _lay_out(blocks: Sequence[Plain], width: float, size: float) -> Iterator[_Paragraph | _Grid | Picture]:
    """Yields what stands in a column, with its height; pictures take what is left."""
    for block in blocks:
        if isinstance(block, Picture):
            yield block
        elif isinstance(block, Table):
            yield from _lay_out_table(block, width, size)
        elif isinstance(block, Listing):
            yield from (_make_paragraph(f"• {item}", size, width) for item in block.items)
        elif isinstance(block, Text):
            yield _make_paragraph(block.text, size, width, strong=block.strong)
        else:
            yield _make_paragraph(_say_missing(block), size, width)


def _say_missing(block: Missing) -> str:
    return f"{block.what}: not available. {block.why}"


def _make_paragraph(text: str, size: float, width: float, *, strong: bool = False) -> _Paragraph:
    return _Paragraph(text, strong, size, _height(text, size, width, bold=strong) + _GAP * size)


def _lay_out_table(table: Table, width: float, size: float) -> Iterator[_Paragraph | _Grid]:
    if table.caption:
        yield _make_paragraph(table.caption, min(_CAPTION_SIZE, size - 0.5), width)
    sizes = [each for each in _TABLE_SIZES if each <= size] or _TABLE_SIZES[-1:]
    chosen, widths = fit_columns(table.header, table.rows, width, sizes, 2 * _CELL_PADDING + 1)
    heights = [_row_height(table.header, widths, chosen, bold=True)]
    heights += [_row_height(row, widths, chosen) for row in table.rows]
    yield _Grid(table.header, table.rows, chosen, widths, heights)
    yield _Paragraph("", False, size, _GAP * size)


def _fits(blocks: Sequence[Plain], box: _Box, size: float) -> bool:
    """Whether text and tables of a size leave half of a column to its pictures, if it has some."""
    pieces = list(_lay_out(blocks, box.width, size))
    used = sum(piece.height for piece in pieces if not isinstance(piece, Picture))
    return used <= box.height * (0.5 if any(isinstance(piece, Picture) for piece in pieces) else 1)


_Pieces = list[_Paragraph | _Grid | Picture]


def _cut(pieces: _Pieces, box: _Box) -> _Pieces:
    """Leaves out what does not fit into a column, and says so."""
    room = box.height * (0.5 if any(isinstance(piece, Picture) for piece in pieces) else 1)
    if sum(piece.height for piece in pieces if not isinstance(piece, Picture)) <= room:
        return pieces
    note = _make_paragraph(_CUT, _SIZES[-1], box.width, strong=True)
    room -= note.height
    kept: _Pieces = []
    for piece in pieces:
        if isinstance(piece, _Grid):
            rows = 0
            while rows < len(piece.rows) and sum(piece.heights[: rows + 2]) <= room:
                rows += 1
            piece = piece._replace(rows=piece.rows[:rows], heights=piece.heights[: rows + 1])
        if isinstance(piece, Picture) or piece.height <= room:
            kept.append(piece)
            room -= 0 if isinstance(piece, Picture) else piece.height
    return [*kept, note]


def _stretch(pieces: _Pieces, spare: float) -> _Pieces:
    """Makes the rows of tables taller, so that a column is full."""
    tables = sum(piece.height for piece in pieces if isinstance(piece, _Grid))
    factor = min(_TALLEST, 1 + spare / tables) if tables else 1.0
    return [
        piece._replace(heights=[factor * height for height in piece.heights])
        if isinstance(piece, _Grid)
        else piece
        for piece in pieces
    ]


def _height(text: str, size: float, width: float, *, bold: bool = False) -> float:
    return len(wrap(text, width, size, bold=bold)) * size * _LEADING


def _row_height(cells: Sequence[str], widths: Sequence[float], size: float, *, bold: bool = False) -> float:
    texts = (
        _height(cell, size, width - 2 * _CELL_PADDING, bold=bold or place == 0)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return max(texts) + 2 * _CELL_MARGIN


def _shorten(caption: str, width: float, room: float) -> str:
    """Keeps the first sentences of a caption that fit into a height, and at least one."""
    sentences = caption.split(". ")
    for count in range(len(sentences), 1, -1):
        kept = ". ".join(sentences[:count])
        if _height(kept, _CAPTION_SIZE, width) <= room:
            return kept if count == len(sentences) else f"{kept}."
    return sentences[0]


def _fit_text(text: str, sizes: Sequence[float], width: float, room: float) -> tuple[float, float]:
    """Returns the first size in which a text fits into a height, or the last one, and the needed height."""
    for size in sizes:
        if (height := _height(text, size, width, bold=True)) <= room:
            return size, height
    return sizes[-1], room
