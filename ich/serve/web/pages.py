"""Fills the templates of the pages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from ich.outputs.sentences import NOT_ANALYZED
from ich.schema import DISCLAIMER
from ich.schema.results import Outcome
from ich.schema.shares import show_percent
from ich.serve.states import SendState, Verdict
from ich.serve.web.access import User

SHAPES: Mapping[str, str] = {
    Outcome.POSITIVE: "◆",
    Outcome.NEGATIVE: "○",
    Outcome.INDETERMINATE: "△",
    NOT_ANALYZED: "▬",
}
"""A shape for each outcome, as on the page of a study, so that it is seen without colors."""

SENDS: Mapping[SendState, str] = {
    SendState.WAITING: "waiting",
    SendState.SENT: "sent, not confirmed",
    SendState.CONFIRMED: "confirmed",
    SendState.FAILED: "failed",
    SendState.SUPERSEDED: "superseded",
}

VERDICTS: Mapping[Verdict, str] = {
    Verdict.ACCEPT: "accepted",
    Verdict.REJECT: "rejected",
    Verdict.CORRECT: "corrected",
}


class Pages:
    """The templates; what they show is never read as markup."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("ich.serve.web", "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self._environment.globals |= {
            "disclaimer": DISCLAIMER,
            "shapes": SHAPES,
            "send_words": SENDS,
            "verdict_words": VERDICTS,
        }
        self._environment.filters |= {
            "clock": show_time,
            "stamp": lambda at: time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(at)),
            "percent": show_percent,
        }

    def render(
        self, name: str, request: Request, user: User | None, status: int = 200, /, **values: Any
    ) -> HTMLResponse:
        """Fills a template.

        Args:
            name: Its file.
            request: What is answered.
            user: Who asks.
            status: Status of HTTP.
            **values: What it shows.
        """
        template = self._environment.get_template(name)
        text = template.render(path=request.url.path, user=user, **values)
        return HTMLResponse(text, status)


def show_time(at: float) -> str:
    """Formats a time in the time zone of the machine."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def start_of_day(at: float) -> float:
    """Returns when the day of a time began, in the time zone of the machine."""
    day = time.localtime(at)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1))
