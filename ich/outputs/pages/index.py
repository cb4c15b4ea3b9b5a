"""The list of all studies of a folder of results, with links to their pages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ich.outputs import INDEX
from ich.outputs.pages.rendering import render, write_page
from ich.outputs.sentences import NOT_ANALYZED, describe_glance
from ich.schema import DISCLAIMER
from ich.schema.codes import Reason, find_sentence
from ich.schema.results import Outcome, StudyResult
from ich.schema.shares import show_prob

ROW = "ich-row"
"""Name of the element of a study's page that holds its thumbnail and attributes for the list, as JSON."""

_ORDER = (*map(str, (Outcome.POSITIVE, Outcome.INDETERMINATE)), NOT_ANALYZED, str(Outcome.NEGATIVE))
_SORTS = {
    "rank up": "POSITIVE first",
    "rank down": "NEGATIVE first",
    "prob down": "highest probability",
    "prob up": "lowest probability",
    "number up": "first study",
    "number down": "last study",
}
_SIZE = 100  # rows that are shown at a time
_HEAD = 1 << 14  # bytes of a page that hold its row, before its style


def write_index(results: Iterable[StudyResult], folder: Path, pages: Mapping[int, str]) -> None:
    """Writes the list of studies, completely or not at all: POSITIVE first, then by probability.

    Args:
        results: All studies. They are taken one after the other; only what the list shows is kept.
        folder: Folder of their pages, and of the list.
        pages: Name of the page by number of the study, for the studies that have one.
    """
    write_page(render("index.html", _describe_index(results, folder, pages)), folder / INDEX)


def _describe_index(results: Iterable[StudyResult], folder: Path, pages: Mapping[int, str]) -> dict[str, Any]:
    rows = [_describe_row(result, folder, pages.get(result.number)) for result in results]
    rows.sort(key=lambda row: (row["rank"], -(row["prob"] or 0.0), row["number"]))
    counts = Counter(row["outcome"] for row in rows)
    return {
        "rows": rows,
        "counts": {outcome: counts[outcome] for outcome in _ORDER if counts[outcome]},
        "has_facts": any(row["facts"] for row in rows),
        "sorts": _SORTS,
        "size": _SIZE,
        "note": DISCLAIMER,
    }


def _describe_row(result: StudyResult, folder: Path, page: str | None) -> dict[str, Any]:
    outcome = NOT_ANALYZED if result.outcome is None else str(result.outcome)
    prob = result.labels[result.headline].prob if result.labels else None
    kept = {"thumbnail": "", "facts": []} | ({} if page is None else _read_row(folder / page))
    return kept | {
        "number": result.number,
        "rank": _ORDER.index(outcome),
        "outcome": outcome,
        "prob": "" if prob is None else prob,
        "shown": "" if prob is None else show_prob(prob),
        "glance": describe_glance(result),
        "reasons": [find_sentence(reason.code, Reason) for reason in result.reasons],
        "link": page or "",
    }


def _read_row(page: Path) -> dict[str, Any]:
    """Reads what a page holds for the list; nothing from a page that was written before there was one."""
    parser = _Finder()
    try:
        with page.open("rb") as file:
            parser.feed(file.read(_HEAD).decode("utf-8", "ignore").partition("<style>")[0])
    except FileNotFoundError:
        return {}
    return {} if parser.found is None else dict(json.loads(parser.found))


class _Finder(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and given.get("name") == ROW:
            self.found = given.get("content")
