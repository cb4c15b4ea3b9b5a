"""Plain words, so that what was hard to read does not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted((REPOSITORY / "ich").rglob("*.py"))


def list_docstrings(path: Path) -> list[str]:
    """The docstrings of a module, its classes and functions."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]


def test_argument_docs_name_the_thing() -> None:
    texts = [text for path in SOURCES for text in list_docstrings(path)]
    assert len(texts) > 500
    found = [line for text in texts for line in re.findall(r"^ +[\w, *]+: Of .*", text, re.MULTILINE)]
    assert len(found) <= 16, found
