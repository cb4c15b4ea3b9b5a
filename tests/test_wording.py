"""Plain words, so that what was hard to read does not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SOURCES = sorted((REPOSITORY / "ich").rglob("*.py"))

_END = re.compile(r"(?<=[.!?])[)*\"]*\s+(?=[\"(`*\[]*[A-Z0-9`])")  # a colon ends no sentence


def list_sentences(markdown: str) -> list[str]:
    """The sentences of the prose: no code, tables, headings, pictures or comments."""
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", markdown, flags=re.DOTALL)
    lines = ["" if re.match(r"\s*(?:\||#|!\[)", line) else line for line in text.splitlines()]
    text = re.sub(r"^\s*(?:[-*]|\d+\.) ", "\n\n", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    return [sentence for paragraph in paragraphs for sentence in _END.split(paragraph) if sentence]


def test_sentences_are_told_apart() -> None:
    text = (
        "# No\n\nOne, `a.b` and 0.5: two. Three\nfour!\n\n- Five; six.\n- Seven\n\n| no |\n```sh\nno\n```\n"
    )
    assert list_sentences(text) == ["One, `a.b` and 0.5: two.", "Three four!", "Five; six.", "Seven"]


def test_readme_has_short_sentences() -> None:
    sentences = list_sentences(README)
    words = [len(sentence.split()) for sentence in sentences]
    semicolons = 100 * sum(sentence.count(";") for sentence in sentences) / len(sentences)
    longest = max(sentences, key=lambda sentence: len(sentence.split()))
    assert np.mean(words) <= 16, longest
    assert np.percentile(words, 90) <= 26, longest
    assert semicolons <= 3, [sentence for sentence in sentences if ";" in sentence]


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
