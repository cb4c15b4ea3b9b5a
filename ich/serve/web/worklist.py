"""The worklist."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from ich.outputs.sentences import NOT_ANALYZED
from ich.schema.results import Outcome
from ich.serve.states import SendState, StudyState, Verdict
from ich.serve.store.worklist import (
    Entry,
    Place,
    Wanted,
    count_sends,
    count_today,
    count_verdicts,
    list_entries,
)
from ich.serve.web.findings import Finding
from ich.serve.web.identities import SEARCHED, Identity
from ich.serve.web.pages import start_of_day
from ich.serve.web.site import Site

PAGE = 50
"""Studies of a page."""

REFRESH_SECONDS = 15
"""The page asks so often for what is new."""

_TOKEN = re.compile(r"[0-9a-f]{1,32}")
_DAY = 26 * 3600.0  # longer than any day, because clocks change


@dataclass(frozen=True)
class Line:
    """A study as the worklist shows it.

    Attributes:
        entry: The study.
        finding: What its newest reading found; None without one, or if its file is gone.
        sends: Answers of the reading by state.
        verdicts: What people say of the reading.
        identity: Whose study it is; None if that is not shown.
    """

    entry: Entry
    finding: Finding | None
    sends: Mapping[SendState, int]
    verdicts: Mapping[Verdict, int]
    identity: Identity | None

    @property
    def outcome(self) -> str:
        """Outcome of the newest reading; empty without one."""
        return "" if self.entry.reading is None else self.entry.outcome or NOT_ANALYZED

    @property
    def why(self) -> tuple[str, ...]:
        """Why the study was set aside, is indeterminate or was not read."""
        own = (self.entry.reason,) if self.entry.reason else ()
        return own + (self.finding.why if self.finding else ())


def make_router(site: Site) -> APIRouter:
    """Makes the route of the worklist."""
    router = APIRouter()

    @router.get("/")
    def show(request: Request) -> Response:
        user = site.access.require(request)
        asked = {name: request.query_params.get(name, "").strip()[:64] for name in _FIELDS}
        today = start_of_day(site.now())
        with site.store.view() as connection:
            wanted = _read_wanted(site, connection, asked)
            after = _read_place(request.query_params.get("after", ""))
            entries = list_entries(connection, wanted, today, PAGE + 1, after)
            lines = _make_lines(site, connection, entries[:PAGE])
            counts = count_today(connection, today)
        more = _write_place(entries[PAGE - 1].place) if len(entries) > PAGE else ""
        given = {name: value for name, value in asked.items() if value}
        return site.pages.render(
            "worklist.html",
            request,
            user,
            lines=lines,
            counts=counts,
            asked=asked,
            is_first=after is None,
            first=f"/?{urlencode(given)}",
            following=f"/?{urlencode({**given, 'after': more})}" if more else "",
            states=list(StudyState),
            outcomes=(*Outcome, NOT_ANALYZED),
            refresh=REFRESH_SECONDS,
            today=today,
            shows_identity=site.identities is not None,
            searched=SEARCHED,
        )

    return router


_FIELDS = ("state", "outcome", "since", "until", "search")


def _make_lines(site: Site, connection: Connection, entries: list[Entry]) -> list[Line]:
    numbers = [entry.reading for entry in entries if entry.reading is not None]
    sends, verdicts = count_sends(connection, numbers), count_verdicts(connection, numbers)
    identities = {}
    if site.identities is not None:
        identities = site.identities.find(connection, [entry.place.id for entry in entries])
    return [
        Line(
            entry,
            site.findings.find(entry.folder) if entry.folder else None,
            sends.get(entry.reading or 0, {}),
            verdicts.get(entry.reading or 0, {}),
            identities.get(entry.place.id),
        )
        for entry in entries
    ]


def _read_wanted(site: Site, connection: Connection, asked: Mapping[str, str]) -> Wanted:
    """Reads the fields of the filter; what cannot be understood limits nothing."""
    state = asked["state"]
    outcome = asked["outcome"]
    since, until = _read_day(asked["since"]), _read_day(asked["until"])
    search = asked["search"]
    token = search.lower() if _TOKEN.fullmatch(search.lower()) else ""
    numbers = None
    if search and site.identities is not None:
        numbers = site.identities.search(connection, search) or (None if token else [])
        token = "" if numbers else token
    elif search and not token:
        numbers = []
    return Wanted(
        state=StudyState(state) if state in set(StudyState) else None,
        outcome=("" if outcome == NOT_ANALYZED else outcome) if outcome in {*Outcome, NOT_ANALYZED} else None,
        since=since,
        until=None if until is None else start_of_day(until + _DAY),
        token=token,
        studies=numbers,
    )


def _read_day(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d"))
    except (ValueError, OverflowError):
        return None


def _write_place(place: Place) -> str:
    return f"{place.positive}_{place.priority}_{place.last_at!r}_{place.id}"


def _read_place(text: str) -> Place | None:
    """Reads what ``_write_place`` wrote; None for anything else."""
    try:
        positive, priority, last_at, number = text.split("_")
        return Place(int(positive), int(priority), float(last_at), int(number))
    except ValueError:
        return None
