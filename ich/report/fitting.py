"""Fits text and tables into a width, for pages and slides.

Widths are those of DejaVu Sans. matplotlib contains this font, and it has the signs that figures need, such
as the minus sign and "≥". It is wider than the usual fonts of slides, so text that fits in it also fits in
those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
from PIL import ImageFont

_FOLDER = Path(mpl.get_data_path()) / "fonts" / "ttf"
REGULAR = _FOLDER / "DejaVuSans.ttf"
BOLD = _FOLDER / "DejaVuSans-Bold.ttf"

_MEASURED = 100  # size at which a text is measured; width grows in proportion


@lru_cache(maxsize=2)
def _load(bold: bool) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(BOLD if bold else REGULAR), _MEASURED)


@lru_cache(maxsize=4096)
def _measure(text: str, bold: bool) -> float:
    return float(_load(bold).getlength(text))


def measure(text: str, size: float, *, bold: bool = False) -> float:
    """Measures the width of a line of text, in the unit of ``size``."""
    return _measure(text, bold) * size / _MEASURED


def wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Breaks a text into lines between words, and within words that are wider than a line."""
    lines: list[list[str]] = [[]]
    used, space = 0.0, measure(" ", size, bold=bold)
    for word in text.split():
        for piece in _break_word(word, width, size, bold):
            wide = measure(piece, size, bold=bold)
            if lines[-1] and used + space + wide > width:
                lines.append([])
            used = used + space + wide if lines[-1] else wide
            lines[-1].append(piece)
    return [" ".join(line) for line in lines]


def _break_word(word: str, width: float, size: float, bold: bool) -> list[str]:
    if measure(word, size, bold=bold) <= width:
        return [word]
    pieces, used = [""], 0.0
    for character in word:
        wide = measure(character, size, bold=bold)
        if pieces[-1] and used + wide > width:
            pieces, used = [*pieces, ""], 0.0
        pieces[-1] += character
        used += wide
    return pieces


def fit_columns(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    width: float,
    sizes: Sequence[float],
    padding: float,
) -> tuple[float, list[float]]:
    """Chooses the size of a table's text and the widths of its columns.

    Args:
        header: Header cells, in bold like the first column.
        rows: Cells of the rows.
        width: Maximum width of the table.
        sizes: Font sizes, the largest first; uses the first that breaks no word, or the last.
        padding: Space beside the text of a cell, both sides together, in the unit of ``width`` and ``sizes``.

    Returns:
        The size, and the width of each column. A column is as wide as its longest text if there is room.
        Otherwise it is at least as wide as its longest word or an equal share.
    """
    columns = list(zip(header, *rows, strict=True))
    for size in sizes:
        wide, least = [], []
        for number, cells in enumerate(columns):
            bold = [number == 0 or place == 0 for place in range(len(cells))]
            pairs = list(zip(cells, bold, strict=True))
            wide.append(padding + max(measure(cell, size, bold=b) for cell, b in pairs))
            words = (measure(word, size, bold=b) for cell, b in pairs for word in cell.split())
            least.append(padding + max(words, default=0.0))
        if sum(least) <= width or size == sizes[-1]:
            break
    if sum(wide) <= width:
        return size, wide
    if sum(least) > width:  # words are broken, in the columns that take more than their share
        least = [min(each, width / len(columns)) for each in least]
    more = [w - n for w, n in zip(wide, least, strict=True)]
    spare = (width - sum(least)) / sum(more)
    return size, [n + spare * m for n, m in zip(least, more, strict=True)]
