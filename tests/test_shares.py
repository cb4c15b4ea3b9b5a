"""Probabilities and percentages as people see them: nothing that lies between is shown as none or as all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ich.evaluate.figures import Estimate
from ich.schema.shares import show_number, show_percent, show_prob

SOURCES = Path(__file__).parent.parent / "ich"


@pytest.mark.parametrize(
    ("prob", "shown"),
    [(0.3, "0.30"), (0.0004, "<0.01"), (0.9999, ">0.99"), (0.0, "<0.01"), (1.0, ">0.99"), (0.99, "0.99")],
)
def test_a_probability_is_never_said_to_be_certain(prob: float, shown: str) -> None:
    assert show_prob(prob) == shown


@pytest.mark.parametrize(
    ("share", "digits", "shown"),
    [
        (0.0, 0, "0 %"),
        (1.0, 0, "100 %"),
        (0.0004, 0, "<1 %"),
        (0.005, 0, "<1 %"),
        (0.9999, 0, ">99 %"),
        (0.9999, 2, "99.99 %"),
        (0.25, 0, "25 %"),
    ],
)
def test_only_all_are_a_hundred_percent_and_only_none_are_zero(share: float, digits: int, shown: str) -> None:
    assert show_percent(share, digits) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.5, "0.500"), (0.00012, "0.0001"), (0.99996, "0.99996"), (0.0, "0.000"), (1.0, "1.000")],
)
def test_a_number_has_the_digits_that_it_needs(share: float, shown: str) -> None:
    assert show_number(share) == shown


def test_a_figure_below_one_is_not_shown_as_one() -> None:
    assert f"{Estimate(0.9997, 0.99, 0.999):.3f}" == ">0.999 (0.990-0.999)"
    assert f"{Estimate(1.0, 0.98, 1.0):.3f}" == "1.000 (0.980-1.000)"


def test_percentages_are_formatted_in_one_place() -> None:
    found = [
        str(path.relative_to(SOURCES))
        for path in {*SOURCES.rglob("*.py"), *SOURCES.rglob("*.html")} - {SOURCES / "schema" / "shares.py"}
        if re.search(r":\.\d%\}|\.\df\} %|format\(100", path.read_text(encoding="utf-8"))
    ]
    assert not found, "use ich.schema.shares"
