"""What the phantom holds, beside what the model says of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rich import box
from rich.table import Table

from ich.outputs.sentences import NOT_ANALYZED, show_label
from ich.phantom.archive import TRUTH
from ich.schema import DISCLAIMER, SUBTYPES
from ich.schema.results import Outcome, StudyResult

Verdict = Literal["right", "open", "wrong"]
"""How a result compares with the truth; open is INDETERMINATE although more could have been said."""


@dataclass(frozen=True)
class Comparison:
    """The truth and the result of a study.

    Attributes:
        number: Number of the study, which names its page.
        kind: Kind of the study, in words.
        truth: What the phantom holds.
        said: Outcome with its probability, and the codes of its reasons.
        verdict: How the two compare.
    """

    number: int
    kind: str
    truth: str
    said: str
    verdict: Verdict


def read_truth(archive: Path) -> list[Mapping[str, Any]]:
    """Reads the truth about the studies of an archive; ``write_archive`` says what it is."""
    studies: list[Mapping[str, Any]] = json.loads((archive / TRUTH).read_text(encoding="utf-8"))["studies"]
    return studies


def compare(truths: Sequence[Mapping[str, Any]], results: Sequence[StudyResult]) -> list[Comparison]:
    """Compares results with the truth, in the order of their numbers."""
    known = {truth["StudyInstanceUID"]: truth for truth in truths}
    return [
        Comparison(
            number=result.number,
            kind=str(truth["kind"]).replace("_", " "),
            truth=_describe_truth(truth["labels"]),
            said=_describe_result(result),
            verdict=judge(truth, result),
        )
        for result in results
        for truth in [known[result.StudyInstanceUID]]
    ]


def judge(truth: Mapping[str, Any], result: StudyResult) -> Verdict:
    """Judges a result.

    A NEGATIVE is right only if nothing of the series was lost. So INDETERMINATE is right for a study without
    a hemorrhage of which a slice was lost, and no outcome is right for a study without a head to read.

    Args:
        truth: An entry of ``read_truth``.
        result: The result of that study.
    """
    labels = truth["labels"]
    if labels is None or result.outcome is None:
        return "right" if labels is None and result.outcome is None else "wrong"
    best = (
        Outcome.POSITIVE if labels["any"] else Outcome.NEGATIVE if truth["whole"] else Outcome.INDETERMINATE
    )
    if result.outcome is best:
        return "right"
    return "open" if result.outcome is Outcome.INDETERMINATE else "wrong"


def _describe_truth(labels: Mapping[str, int] | None) -> str:
    if labels is None:
        return "no series to read"
    return ", ".join(name for name in SUBTYPES if labels[name]) or "no hemorrhage"


def _describe_result(result: StudyResult) -> str:
    if result.outcome is None or result.decides is None:
        return NOT_ANALYZED if result.refusal is None else f"{NOT_ANALYZED} ({result.refusal.code})"
    prob, _ = show_label(result.labels[result.decides])
    codes = ", ".join(dict.fromkeys(str(reason.code) for reason in result.reasons))
    return f"{result.outcome} {prob}" + (f" ({codes})" if codes else "")


def render_comparisons(comparisons: Sequence[Comparison]) -> Table:
    """Lays comparisons out as a table that fits into 80 columns."""
    counts = Counter(each.verdict for each in comparisons)
    table = Table(
        title=f"{len(comparisons)} studies: "
        + ", ".join(f"{counts[each]} {each}" for each in get_args(Verdict)),
        caption=f"open: INDETERMINATE, although more could be said\n{DISCLAIMER}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("page", no_wrap=True)
    table.add_column("kind of study")
    table.add_column("the phantom holds")
    table.add_column("the model says")
    table.add_column("", no_wrap=True)
    for each in comparisons:
        table.add_row(f"{each.number:04d}", each.kind, each.truth, each.said, each.verdict)
    return table
