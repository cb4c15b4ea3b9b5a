"""Judging a result."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from ich.schema import UserError
from ich.serve.states import Role, Verdict
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.judgments import Judgment, add_judgment
from ich.serve.web.forms import read_form
from ich.serve.web.refusals import RefusedError
from ich.serve.web.site import Site
from ich.serve.web.study import find_view, render_study
from ich.serve.web.truth import interpret


def make_router(site: Site) -> APIRouter:
    """Makes the route that takes judgments."""
    router = APIRouter()

    @router.post("/studies/{token}/readings/{reading}/judgments", dependencies=[Depends(read_form)])
    def judge(request: Request, token: str, reading: str) -> Response:
        user, form = site.access.require_form(request, Role.JUDGE)
        view = find_view(site, token, reading)
        if view.reading is None or view.result is None:
            raise RefusedError(410, "The result of this reading can no longer be read.")
        now, given = site.now(), form.list_all()
        try:
            verdict = read_verdict(form.text("verdict"))
            said = interpret(view.result, verdict, given)
        except UserError as error:
            return render_study(site, request, user, view, error=str(error), given=given)
        with site.store.begin() as connection:
            add_judgment(
                connection, Judgment(view.reading.id, user.name, verdict, said.labels, said.slices, now)
            )
            add_event(connection, now, user.name, EventKind.JUDGED, study=token, detail=verdict)
        return RedirectResponse(f"/studies/{token}?reading={view.reading.id}#judgments", 303)

    return router


def read_verdict(text: str) -> Verdict:
    """Reads a verdict.

    Raises:
        UserError: If it is none.
    """
    try:
        return Verdict(text)
    except ValueError as error:
        raise UserError("Choose whether you accept, reject or correct the result.") from error
