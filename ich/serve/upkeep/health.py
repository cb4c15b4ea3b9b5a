"""What monitoring asks: whether the process lives, and whether the service can do its work."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from sqlalchemy.exc import SQLAlchemyError

from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.upkeep.stalls import Finding, find_full_disk, find_stopped


def make_router(settings: Settings, store: Store, clock: Callable[[], float] = time.time) -> APIRouter:
    """Makes the routes `/health` and `/ready`. Both answer anyone, and say nothing about a study.

    Args:
        settings: The settings of the service.
        store: The database.
        clock: Says the time, in seconds since 1970.
    """
    router = APIRouter()
    inbox = Inbox(settings.inbox)

    @router.get("/health", response_class=PlainTextResponse)
    def health() -> str:
        """Answers as long as the process lives."""
        return "alive\n"

    @router.get("/ready")
    def ready() -> PlainTextResponse:
        """Answers 200 if studies are received and read, or else 503 with the reasons."""
        found = find_obstacles(settings, store, inbox, clock())
        if not found:
            return PlainTextResponse("ready\n")
        lines = "".join(f"{each.name}: {each.detail}\n" for each in found)
        return PlainTextResponse(lines, status_code=503)

    return router


def find_obstacles(settings: Settings, store: Store, inbox: Inbox, now: float) -> list[Finding]:
    """Finds what keeps the service from its work.

    Args:
        settings: The settings of the service.
        store: The database.
        inbox: The received objects.
        now: The time.
    """
    try:
        found = find_full_disk(settings, inbox.measure_free_bytes())
    except OSError as error:
        found = [Finding("no disk", f"the folder cannot be read: {error.strerror}")]
    try:
        with store.view() as connection:
            return [*found, *find_stopped(connection, settings, now)]
    except SQLAlchemyError as error:
        return [*found, Finding("no database", f"the database does not answer: {type(error).__name__}")]
