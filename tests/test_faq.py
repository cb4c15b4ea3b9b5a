"""The messages that docs/faq.md quotes are what the code says."""

from __future__ import annotations

import ast
import re
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAQ = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
QUOTED = [block.strip() for block in re.findall(r"^```text\n(.*?)^```", FAQ, re.MULTILINE | re.DOTALL)]

SHORTEST = 8
"""Letters of a piece of text that tell it apart from values."""

SAID = 0.45
"""Share of a message that pieces of the code must give; the rest are values that it fills in."""


@pytest.fixture(scope="module")
def pieces() -> list[str]:
    """The texts of the code, and what stands between the values in them, from long to short."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "ich").rglob("*.py"))]
    texts = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return sorted((text for text in texts if len(text) >= SHORTEST), key=lambda text: (-len(text), text))


def find_common(one: str, other: str) -> str:
    """What two texts have in common at their beginning."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def measure(message: str, pieces: list[str]) -> float:
    """The share of a message that pieces of the code give. It may end within a piece."""
    rest = message
    for piece in pieces:
        place = rest.find(piece[:SHORTEST])
        said = find_common(rest[place:], piece) if place >= 0 else ""
        if said and (said == piece or rest.endswith(said)):
            rest = rest[:place] + "\n" + rest[place + len(said) :]
    return 1 - len(rest.replace("\n", "")) / len(message)


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_what_the_code_says(message: str, pieces: list[str]) -> None:
    assert measure(message, pieces) >= SAID, "quote the message as the code says it"


def test_a_message_of_nobody_is_told_apart(pieces: list[str]) -> None:
    assert measure("the figures of all folds are wrong: train them again from the start", pieces) < SAID
