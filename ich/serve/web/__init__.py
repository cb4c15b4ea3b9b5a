"""The pages of the service: accounts, the worklist, a study with its slices, and what people think of it.

``access`` knows who asks, and ``site`` holds what all pages need. Each other module makes the routes of one
page. Pages are made on the server, and work without scripts; those in ``static`` add what only scripts can.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from ich.schema import UserError
from ich.serve import upkeep
from ich.serve.inbox import Inbox
from ich.serve.receive import stow
from ich.serve.settings import Settings
from ich.serve.store import Store, open_store
from ich.serve.tls import make_context
from ich.serve.web import account_pages, agreement, export, judging, login, pixels, study, worklist
from ich.serve.web.access import Access, read_networks
from ich.serve.web.account_pages import add_account as add_account
from ich.serve.web.errors import add_error_pages
from ich.serve.web.findings import Findings
from ich.serve.web.headers import SafeHeaders
from ich.serve.web.identities import Identities
from ich.serve.web.pages import Pages
from ich.serve.web.site import Site

_STATIC = Path(__file__).parent / "static"


def make_app(settings: Settings, store: Store, now: Callable[[], float] = time.time) -> FastAPI:
    """Makes the application.

    Args:
        settings: The settings of the service.
        store: The database.
        now: Returns the time, seconds since 1970.
    """
    inbox = Inbox(settings.inbox)
    site = Site(
        settings,
        store,
        now,
        Access(settings.web, store, now),
        Pages(),
        Findings(settings.results),
        inbox,
        Identities(inbox) if settings.web.shows_identity else None,
    )
    app = FastAPI(title="ich", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SafeHeaders, has_tls=settings.web.tls is not None)
    add_error_pages(app, site)
    for room in (login, account_pages, worklist, study, pixels, judging, export, agreement):
        app.include_router(room.make_router(site))
    app.include_router(upkeep.make_router(settings, store, now))
    app.include_router(stow.make_router(settings, store))
    app.mount("/static", StaticFiles(directory=_STATIC))
    return app


def run(settings: Settings, identity: str) -> None:  # noqa: ARG001 - each role of the service takes both
    """Serves the pages until SIGTERM.

    Args:
        settings: The settings of the service.
        identity: Name of this process.
    """
    store = open_store(settings.store)
    try:
        uvicorn.Server(make_config(make_app(settings, store), settings)).run()
    finally:
        store.close()


def make_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Makes the configuration of the server. Its log would hold addresses of pages, so it writes none."""
    config = uvicorn.Config(
        app,
        host=settings.web.host,
        port=settings.web.port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
    )
    if (tls := settings.web.tls) is not None:
        config.ssl_certfile, config.ssl_keyfile = tls.certificate, tls.key
        if tls.authority is not None:
            config.ssl_ca_certs, config.ssl_cert_reqs = tls.authority, ssl.CERT_REQUIRED
    return config


def check(settings: Settings) -> None:
    """Checks that the pages can be served with these settings.

    Raises:
        UserError: If the port is in use, certificate and key do not match, or an address is none.
    """
    web = settings.web
    read_networks(web.proxies)
    if web.tls is not None:
        make_context(web.tls, "web.tls")
    family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((web.host, web.port))
        except OSError as error:
            raise UserError(
                f"web.host={web.host}, web.port={web.port} cannot be listened at: {error.strerror}; choose "
                "another port, or end the program that has it"
            ) from error
