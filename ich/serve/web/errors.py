"""Answers to requests that are refused, or fail."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import FastAPI, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from ich.serve.web.access import REFRESH_HEADER
from ich.serve.web.refusals import LoginNeededError, RefusedError
from ich.serve.web.site import Site

_TEXTS = {404: "There is no such page.", 405: "This page cannot be used in this way."}


def add_error_pages(app: FastAPI, site: Site) -> None:
    """Adds the answers to an application. A browser gets a page, and a script a line of text."""

    def say(request: Request, status: int, text: str) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(text, status)
        user = site.access.identify(request)
        return site.pages.render("error.html", request, user, status, text=text)

    @app.exception_handler(RefusedError)
    def refuse(request: Request, error: RefusedError) -> Response:
        return say(request, error.status, error.text)

    @app.exception_handler(LoginNeededError)
    def ask_for_login(request: Request, _: LoginNeededError) -> Response:
        is_script = REFRESH_HEADER in request.headers or "text/html" not in request.headers.get("accept", "")
        if request.method != "GET" or is_script:
            return say(request, 401, "You are not logged in, or your session has ended. Log in again.")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/login?{urlencode({'goal': request.url.path + query})}", 303)

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> Response:
        if error.status_code not in _TEXTS:
            return await http_exception_handler(request, error)
        return say(request, error.status_code, _TEXTS[error.status_code])
