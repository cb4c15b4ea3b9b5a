"""What monitoring asks: whether the process lives, whether the service can do its work, and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from ich.schema import UserError
from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.upkeep.metrics import make_page
from ich.serve.upkeep.stalls import Finding, find_full_disk, find_stopped

Network = IPv4Network | IPv6Network

PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that reverse proxies add."""


def make_router(settings: Settings, store: Store, clock: Callable[[], float] = time.time) -> APIRouter:
    """Makes the routes `/health`, `/ready` and `/metrics`. None of them says anything about one study.

    Anyone may ask the first two. `/metrics` answers only addresses that ``upkeep.metrics_from`` names. It
    refuses what comes through a proxy, because then the address is that of the proxy.

    Args:
        settings: The settings of the service.
        store: The database.
        clock: Says the time, in seconds since 1970.

    Raises:
        UserError: If ``upkeep.metrics_from`` is not a list of addresses and networks.
    """
    router = APIRouter()
    inbox = Inbox(settings.inbox)
    networks = read_networks(settings.upkeep.metrics_from)

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

    @router.get("/metrics")
    def metrics(request: Request) -> Response:
        """Answers with the metrics in the format of Prometheus."""
        if not may_see_metrics(request, networks):
            return PlainTextResponse("not from this address; see upkeep.metrics_from\n", status_code=403)
        with store.view() as connection:
            page = make_page(connection, _measure_free(inbox), clock())
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    return router


def read_networks(addresses: Sequence[str]) -> list[Network]:
    """Reads addresses and networks.

    Raises:
        UserError: If one of them is neither.
    """
    found = []
    for address in addresses:
        try:
            found.append(ip_network(address, strict=False))
        except ValueError as error:
            raise UserError(
                f"upkeep.metrics_from: {address!r} is not an IP address or network, such as 10.0.0.0/8"
            ) from error
    return found


def may_see_metrics(request: Request, networks: Sequence[Network]) -> bool:
    """Whether a request for metrics comes straight from one of the networks."""
    if request.client is None or any(name in request.headers for name in PROXY_HEADERS):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _measure_free(inbox: Inbox) -> int | None:
    try:
        return inbox.measure_free_bytes()
    except OSError:
        return None


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
