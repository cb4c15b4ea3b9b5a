"""How often people agree with results, week by week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ich.outputs.sentences import NOT_ANALYZED
from ich.schema.results import Outcome
from ich.serve.states import Verdict
from ich.serve.store.judgments import JudgedReading, list_judged
from ich.serve.web.site import Site

WEEKS = 26
"""The newest weeks that the page shows."""


@dataclass
class Count:
    """Judgments.

    Attributes:
        judged: All of them.
        accepted: Those that accept the result.
    """

    judged: int = 0
    accepted: int = 0

    @property
    def share(self) -> float:
        """Share of those that accept."""
        return self.accepted / self.judged if self.judged else 0.0

    def add(self, verdict: Verdict) -> None:
        """Counts a judgment."""
        self.judged += 1
        self.accepted += verdict is Verdict.ACCEPT


@dataclass
class Week:
    """Judgments of a week.

    Attributes:
        name: The week, as in ISO 8601.
        all: All judgments.
        by_outcome: The judgments by the outcome of what was judged.
    """

    name: str
    all: Count = field(default_factory=Count)
    by_outcome: dict[str, Count] = field(default_factory=dict)


def make_router(site: Site) -> APIRouter:
    """Makes the route of the page of agreement."""
    router = APIRouter()

    @router.get("/agreement")
    def show(request: Request) -> Response:
        user = site.access.require(request)
        with site.store.view() as connection:
            judged = list_judged(connection)
        weeks = count_weeks(judged)[-WEEKS:]
        outcomes = [
            name for name in (*Outcome, NOT_ANALYZED) if any(name in week.by_outcome for week in weeks)
        ]
        return site.pages.render("agreement.html", request, user, weeks=weeks, outcomes=outcomes)

    return router


def count_weeks(judged: Sequence[JudgedReading]) -> list[Week]:
    """Counts judgments by the week in which they were made, the oldest first."""
    weeks: dict[str, Week] = {}
    for each in sorted(judged, key=lambda one: one.judgment.judged_at):
        year, number, _ = datetime.fromtimestamp(each.judgment.judged_at).astimezone().isocalendar()
        name = f"{year}-W{number:02d}"
        week = weeks.setdefault(name, Week(name))
        week.all.add(each.judgment.verdict)
        week.by_outcome.setdefault(each.outcome or NOT_ANALYZED, Count()).add(each.judgment.verdict)
    return list(weeks.values())
