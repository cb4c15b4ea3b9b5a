"""Messages about plain values that are not of a format: the place, the value and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ich.schema import UserError
from ich.schema.formats import STRICT, Count, Share, read_plain, to_plain


@dataclass(frozen=True)
class Part:
    prob: Share
    code: str = "none"


@dataclass(frozen=True)
class Whole:
    __pydantic_config__ = STRICT

    parts: tuple[Part, ...]
    counts: Mapping[str, Count]
    flag: bool | None = None


GOOD: dict[str, Any] = {"parts": [{"prob": 0.25, "code": "a"}], "counts": {"x": 1}}
LOOP: list[Any] = []
LOOP.append(LOOP)


def test_what_is_written_is_read_again() -> None:
    whole = read_plain(Whole, GOOD, "here")
    assert whole == Whole((Part(0.25, "a"),), {"x": 1})
    assert read_plain(Whole, to_plain(whole), "here") == whole
    assert to_plain(whole) == GOOD | {"flag": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"parts": [{"prob": 1.5, "code": "a"}]},
            "here: parts[0].prob is 1.5; expected a number from 0",
        ),
        (
            {"parts": [{"prob": True, "code": "a"}]},
            "here: parts[0].prob is True; expected a number",
        ),
        ({"parts": [{"prob": float("nan"), "code": "a"}]}, "here: parts[0].prob is nan; expected a number"),
        ({"parts": [{"code": "a"}]}, "here: parts[0] lacks prob; it is damaged, or"),
        ({"parts": [{"prob": 0.5}]}, "here: parts[0] lacks code; it is damaged, or"),
        ({"parts": {}}, "here: parts is {}; expected a list"),
        ({"counts": {"x\x1b[2J": -1}}, "here: counts['x\\x1b[2J'] is -1; expected a count"),
        ({"counts": {"x": 10**12}}, "here: counts.x is 1000000000000; expected a count"),
        ({"counts": None}, "here: counts is None; expected fields"),
        ({"a\nb": 1}, "here has the unknown field 'a\\nb'; it is damaged, or"),
        ({"flag": 1}, "here: flag is 1; expected true or false"),
        ({"flag": torch.ones(1)}, "here holds a value of a type that files cannot hold"),
        ({"flag": LOOP}, "here holds a value of a type that files cannot hold"),
    ],
)
def test_a_message_is_one_line_with_place_value_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_plain(Whole, GOOD | change, "here")
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
