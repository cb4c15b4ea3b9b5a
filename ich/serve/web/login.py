"""Logging in and out."""

from __future__ import annotations

import math
import secrets

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from ich.serve.store.accounts import (
    end_idle_sessions,
    end_session,
    find_account,
    start_session,
)
from ich.serve.store.events import EventKind, add_event
from ich.serve.web.access import SESSION_COOKIE, check_same, find_address
from ich.serve.web.attempts import Attempts
from ich.serve.web.forms import Form, read_form
from ich.serve.web.passwords import UNKNOWN, is_password
from ich.serve.web.refusals import RefusedError
from ich.serve.web.site import Site

FORM_COOKIE = "__Host-form"
"""Holds the token of the form, because nobody has a session yet."""

_WRONG = "The name or the password is wrong."
_NO_COOKIE = (
    "Your browser sent no cookie with the form, so nobody can log in. Browsers keep the cookies of these "
    "pages over https, and over http only on the machine of the service. Open the pages by https. "
    "The setting web.tls sets it up."
)


def make_router(site: Site) -> APIRouter:
    """Makes the routes of logging in and out."""
    router = APIRouter()
    attempts = Attempts()

    def show(request: Request, goal: str, name: str = "", error: str = "", status: int = 200) -> Response:
        token = secrets.token_urlsafe(32)
        response = site.pages.render(
            "login.html", request, None, status, csrf=token, goal=goal, name=name, error=error
        )
        set_cookie(response, FORM_COOKIE, token)
        return response

    @router.get("/login")
    def show_form(request: Request) -> Response:
        goal = clean_goal(request.query_params.get("goal", ""))
        if site.access.identify(request) is not None:
            return RedirectResponse(goal, 303)
        return show(request, goal)

    @router.post("/login", dependencies=[Depends(read_form)])
    def log_in(request: Request) -> Response:
        form: Form = request.state.form
        if not (expected := request.cookies.get(FORM_COOKIE, "")):
            raise RefusedError(403, _NO_COOKIE)
        check_same(form.text("csrf"), expected)
        goal, name = clean_goal(form.text("goal")), form.text("name").strip().lower()[:64]
        now, address = site.now(), find_address(request)
        if wait := attempts.find_wait(name, address, now):
            minutes = math.ceil(wait / 60)
            error = f"Too many failed logins. Try again in {minutes} minute{'s' * (minutes > 1)}."
            response = show(request, goal, name, error, 429)
            response.headers["Retry-After"] = str(math.ceil(wait))
            return response
        with site.store.view() as connection:
            account = find_account(connection, name)
        is_right = is_password(account.password if account else UNKNOWN, form.text("password"))
        if account is None or account.disabled or not is_right:
            attempts.note_failure(name, address, now)
            with site.store.begin() as connection:
                # A name that is not an account may be a password in the wrong field.
                add_event(connection, now, account.name if account else "unknown", EventKind.LOGIN_REFUSED)
            return show(request, goal, name, _WRONG, 401)
        with site.store.begin() as connection:
            end_session(connection, request.cookies.get(SESSION_COOKIE, ""))
            end_idle_sessions(connection, now, idle=site.access.idle)
            token = start_session(connection, account.id, now)
            add_event(connection, now, account.name, EventKind.LOGIN)
        response = RedirectResponse(goal, 303)
        set_cookie(response, SESSION_COOKIE, token)
        response.delete_cookie(FORM_COOKIE, secure=True)
        return response

    @router.post("/logout", dependencies=[Depends(read_form)])
    def log_out(request: Request) -> Response:
        user, _ = site.access.require_form(request)
        with site.store.begin() as connection:
            end_session(connection, request.cookies.get(SESSION_COOKIE, ""))
            add_event(connection, site.now(), user.name, EventKind.LOGOUT)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(SESSION_COOKIE, secure=True)
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    return router


def set_cookie(response: Response, name: str, value: str) -> None:
    """Sets a cookie that scripts cannot read and other sites cannot send; it ends with the browser."""
    response.set_cookie(name, value, secure=True, httponly=True, samesite="strict", path="/")


def clean_goal(goal: str) -> str:
    """Returns where to go after a login: a page of this site, or the worklist."""
    is_own = goal.startswith("/") and not goal.startswith(("//", "/\\")) and goal.isprintable()
    return goal if is_own and "\\" not in goal and len(goal) <= 500 else "/"
