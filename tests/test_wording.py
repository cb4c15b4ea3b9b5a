"""Plain words, so that what was hard to read does not come back."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        REPOSITORY / "SECURITY.md",
        REPOSITORY / "CODE_OF_CONDUCT.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    )
}
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


def test_sentences_are_separated() -> None:
    text = (
        "# No\n\nOne, `a.b` and 0.5: two. Three\nfour!\n\n- Five; six.\n- Seven\n\n| no |\n```sh\nno\n```\n"
    )
    assert list_sentences(text) == ["One, `a.b` and 0.5: two.", "Three four!", "Five; six.", "Seven"]


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page: str) -> None:
    sentences = list_sentences(PAGES[page])
    words = [len(sentence.split()) for sentence in sentences]
    longest = max(sentences, key=lambda sentence: len(sentence.split()))
    assert np.mean(words) <= 16, longest
    assert np.percentile(words, 90) <= 26, longest


def test_semicolons_are_rare() -> None:
    sentences = [sentence for text in PAGES.values() for sentence in list_sentences(text)]
    with_semicolons = [sentence for sentence in sentences if ";" in sentence]
    assert 100 * len(with_semicolons) / len(sentences) <= 3, with_semicolons


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


PHRASES = {
    r"Asked is|Evaluated are|Taken is|Masked are": "a sentence begins with its subject",
    r"\b(?:at (?:its|their) word|made honest)\b": "calibration",
    r"\b(?:[Tt]ell(?:s|ing)?|[Tt]old)\b[^.;:]{0,40}\bapart\b": "distinguish, discrimination",
    r"\bspeaks? against taking\b": "reasons for caution",
    r"\bof which nothing\b": "a sentence of its own",
    r"\bfalse alarms?\b": "false positives",
    r"\b(?:training|validation|test) parts?\b": "training, validation or test set",
    r"(?<!here )\b(?:is|are) no (?!longer\b|more\b)\w+": "is not a",
    r"\ba (?:row|line|page|weight|window|file|panel|thread|slide|column|channel|figure) an? \w+": "one per",
    r"\b(?:goes|go|going|went) on (?:where|by|with|there)\b": "continues, resumes",
    r"\bwhole or not at all\b": "completely or not at all",
    r"\bgoes before\b": "takes precedence",
    r"\bbars? (?:a |no\b|nothing)": "prevents",
    r"\bspared\b|\bbe it\b|\bmade anew\b|\bfor one[,:]": "said in words of every day",
}
"""Words that may not come back, and what stands in their place."""

BRITISH = re.compile(
    r"\b\w*(?:colour|neighbour|behaviour|favour|haemorrh|centre|licence|grey(?!s\b)|artefact|labell|modell|travell|cancell"
    r"|analys(?:e|ed|ing)\b|(?:normal|initial|optim|organ|recogn|summar|minim|maxim|standard)is(?:e|ed|es|ing|ation)\b)",
    re.IGNORECASE,
)
OLD_NAMES = {"neighbours", "normalisation"}  # read for one release


def list_texts(path: Path) -> list[str]:
    """The texts of a file, each on one line: strings and comments of code, comments of YAML, or all."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
        return [*comments, *(" ".join(found.split()) for found in _list_literals(ast.parse(text)))]
    if path.suffix == ".yaml":
        return [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]


def _list_literals(tree: ast.AST) -> list[str]:
    """Strings in code, docstrings included; what an f-string fills in is ``{}``."""
    found, inner = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in ast.walk(node) if part is not node}
            if id(node) not in inner:
                found.append("".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.append(node.value)
    return found


FILES = [
    path
    for pattern in ("*.md", "docs/*.md", "conf/**/*.yaml", "ich/**/*.py", "train.py")
    for path in sorted(REPOSITORY.glob(pattern))
]


TEXTS = {path: list_texts(path) for path in FILES}


@pytest.mark.parametrize("phrase", PHRASES)
def test_hard_words_do_not_come_back(phrase: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}: ...{text[max(0, hit.start() - 30) : hit.end() + 30]}..."
        for path, texts in TEXTS.items()
        for text in texts
        for hit in re.finditer(phrase, text)
    ]
    assert not found, f"instead of {phrase!r}, {PHRASES[phrase]}"


def test_spelling_is_american() -> None:
    found = [
        (str(path.relative_to(REPOSITORY)), hit.group())
        for path, texts in TEXTS.items()
        for text in texts
        if text not in OLD_NAMES
        for hit in BRITISH.finditer(text)
    ]
    assert not found


def test_texts_of_all_kinds_are_looked_at() -> None:
    assert {path.suffix for path in TEXTS} == {".md", ".yaml", ".py"}
    tree = ast.parse('"""A"""\nx = f"b {c:d}" "e"\n')
    assert _list_literals(tree) == ["A", "b {}e"]


def list_docstrings(path: Path) -> list[str]:
    """The docstrings of a module, its classes and functions."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]


def test_argument_docs_name_the_thing() -> None:
    texts = [text for path in SOURCES for text in list_docstrings(path)]
    assert len(texts) > 500
    found = [line for text in texts for line in re.findall(r"^ +[\w, *]+: Of .*", text, re.MULTILINE)]
    assert not found
