"""A remark on a data set, and what several kinds of remarks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ich.schema.shares import show_percent
from ich.tables import PLURALS

FEW_PATIENTS = 10
"""With fewer patients than this, figures for a label say little, because one patient can change them."""

CONTENTS, LABELS, HEADERS = "Contents of the data set", "Labels", "Headers"
GEOMETRY, HOUNSFIELD, QUALITY = "Geometry", "Hounsfield units", "Data quality"
"""Titles of the sections that remarks belong to."""


class Rank(IntEnum):
    """What follows from a remark, the worst first."""

    MISLEADS = 0  # training runs, and its figures are wrong
    PREVENTS = 1  # something cannot be read, learned or measured
    WEAKENS = 2  # something is learned from less, or worse, data than it seems
    DIFFERS = 3  # parts of the data differ, so figures may differ between them
    INFORMS = 4  # good to know; it does not stand out


@dataclass(frozen=True)
class Remark:
    """Something about a data set.

    Attributes:
        title: What it is, in a few words.
        text: The same in sentences, with its numbers.
        section: Title of the section that has the details.
        rank: What follows from it.
        share: Share of the slices, series, patients or labels that it concerns.
        bars: Numbers for a chart, by name.
        unit: Unit of the numbers.
        limit: A number to compare them with; None without one.
    """

    title: str
    text: str
    section: str
    rank: Rank = Rank.INFORMS
    share: float = 0.0
    bars: Mapping[str, float] = field(default_factory=dict)
    unit: str = ""
    limit: float | None = None


def say_share(share: float) -> str:
    """Formats a share in percent with suitable precision."""
    return show_percent(share, 1 if share < 0.1 else 0)


def remark_part(title: str, text: str, section: str, rank: Rank, part: int, total: int, unit: str) -> Remark:
    """Makes a remark about a part of all units of a kind."""
    bars = {"affected": part, "others": total - part}
    return Remark(title, text, section, rank, part / max(total, 1), bars, PLURALS.get(unit, unit))
