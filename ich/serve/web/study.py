"""The page of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from ich.outputs.sentences import (
    NOT_ANALYZED,
    describe_called,
    describe_fate,
    describe_glance,
    describe_outcome,
    list_grounds,
    list_left_out,
    list_limits,
    show_label,
)
from ich.schema import SIDES, WINDOWS
from ich.schema.codes import Note, Reason, describe_code
from ich.schema.labels import say_label
from ich.schema.results import Outcome, SeriesResult, StudyResult
from ich.serve.states import Role
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.judgments import list_judgments, pick_newest
from ich.serve.store.lookup import (
    FoundReading,
    FoundStudy,
    find_study,
    list_readings,
    list_sends,
)
from ich.serve.web.access import User
from ich.serve.web.identities import Identity
from ich.serve.web.pictures import read_pictures
from ich.serve.web.refusals import RefusedError
from ich.serve.web.site import Site
from ich.serve.web.strip import choose_first, make_strip

_TOKEN = re.compile(r"[0-9a-f]{32}")
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
_DECIDED = {True: "present", False: "absent", None: "not decided"}


@dataclass(frozen=True)
class StudyView:
    """A study with one of its readings.

    Attributes:
        study: The study.
        readings: Its readings, the newest first.
        reading: The one to show; None without any.
        result: Its result; None if its file can no longer be read.
    """

    study: FoundStudy
    readings: list[FoundReading]
    reading: FoundReading | None
    result: StudyResult | None


def make_router(site: Site) -> APIRouter:
    """Makes the routes of a study's page."""
    router = APIRouter()

    @router.get("/studies/{token}")
    def show(request: Request, token: str) -> Response:
        user = site.access.require(request)
        view = find_view(site, token, request.query_params.get("reading", ""))
        with site.store.begin() as connection:
            add_event(connection, site.now(), user.name, EventKind.OPENED, study=token)
        return render_study(site, request, user, view)

    @router.get("/studies/{token}/readings/{reading}/pictures/{number}")
    def send_picture(request: Request, token: str, reading: str, number: str) -> Response:
        site.access.require(request)
        view = find_view(site, token, reading)
        if view.reading is not None:
            for picture in read_pictures(site.findings.locate(view.reading.folder).page):
                if str(picture.number) == number:
                    return Response(picture.png, media_type="image/png")
        raise RefusedError(404, "There is no such picture.")

    @router.get("/studies/{token}/readings/{reading}/page")
    def send_page(request: Request, token: str, reading: str) -> Response:
        site.access.require(request)
        view = find_view(site, token, reading)
        if view.reading is not None:
            page = site.findings.locate(view.reading.folder).page
            if page.is_file():
                headers = {"Content-Security-Policy": _PAGE_POLICY}
                return HTMLResponse(page.read_bytes(), headers=headers)
        raise RefusedError(404, "The page of this reading was not written.")

    return router


def find_view(site: Site, token: str, reading: str = "") -> StudyView:
    """Finds a study with one of its readings.

    Args:
        site: What all pages need.
        token: The study's token.
        reading: Number of the reading; the newest one if it is empty.

    Raises:
        RefusedError: If there is no such study or reading.
    """
    found = None
    if _TOKEN.fullmatch(token):
        with site.store.view() as connection:
            if (found := find_study(connection, token)) is not None:
                readings = list_readings(connection, found.id)
    if found is None:
        raise RefusedError(404, "There is no such study.")
    chosen = [each for each in readings if not reading or str(each.id) == reading]
    if reading and not chosen:
        raise RefusedError(404, "The study has no such reading.")
    shown = chosen[0] if chosen else None
    return StudyView(
        found, readings, shown, None if shown is None else site.findings.read_result(shown.folder)
    )


def render_study(
    site: Site,
    request: Request,
    user: User,
    view: StudyView,
    *,
    error: str = "",
    given: Mapping[str, str] | None = None,
) -> Response:
    """Makes the page of a study.

    Args:
        site: What all pages need.
        request: What is answered.
        user: Who asks.
        view: What to show.
        error: Why a judgment was refused.
        given: What its form held.
    """
    numbers = [each.id for each in view.readings]
    identity: Identity | None = None
    with site.store.view() as connection:
        sends = list_sends(connection, numbers)
        judgments = list_judgments(connection, numbers)
        if site.identities is not None:
            identity = site.identities.find(connection, [view.study.id]).get(view.study.id)
    return site.pages.render(
        "study.html",
        request,
        user,
        422 if error else 200,
        study=view.study,
        readings=view.readings,
        reading=view.reading,
        is_newest=view.reading is None or view.reading == view.readings[0],
        result=view.result,
        outcome="" if view.reading is None else view.reading.outcome or NOT_ANALYZED,
        shows_identity=site.identities is not None,
        identity=identity,
        sends=sends,
        judgments=judgments,
        newest={each.id for each in pick_newest(judgments)},
        may_judge=user.may(Role.JUDGE),
        error=error,
        given=given or {},
        not_analyzed=NOT_ANALYZED,
        **_describe(site, view),
    )


def _describe(site: Site, view: StudyView) -> dict[str, object]:
    """Says what the reading found, in the words of ``ich.outputs.sentences``."""
    result = view.result
    if result is None or view.reading is None:
        return {"said": None, "strip": [], "pictures": []}
    strip = make_strip(result)
    said = {
        "glance": describe_glance(result),
        "outcome": describe_outcome(result),
        "called": describe_called(result) if result.outcome is Outcome.POSITIVE else "",
        "reasons": [describe_code(Reason, each.code, each.detail) for each in result.reasons],
        "notes": [describe_code(Note, each.code, each.detail) for each in result.notes],
        "grounds": list_grounds(result) if result.outcome is not None and not result.reasons else [],
        "left_out": list_left_out(result),
        "limits": list_limits(result),
        "labels": _list_labels(result),
        "series": [_describe_series(each) for each in result.series],
    }
    return {
        "said": said,
        "strip": strip,
        "first": choose_first(strip, result) if strip else 0,
        "label": say_label(result.headline, result.labels) if result.labels else "",
        "is_calibrated": all(each.calibrated is not None for each in result.slices),
        "pictures": read_pictures(site.findings.locate(view.reading.folder).page),
        "windows": WINDOWS,
        "sides": SIDES,
    }


def _list_labels(result: StudyResult) -> list[tuple[str, str, str, str]]:
    if not result.labels:
        return []
    names = dict.fromkeys((result.headline, *result.others))  # which may name one twice
    labels = {name: result.labels[name] for name in names}
    return [(name, *show_label(label), _DECIDED[label.positive]) for name, label in labels.items()]


def _describe_series(series: SeriesResult) -> tuple[str, int, str]:
    return series.Modality, series.files, describe_fate(series)
