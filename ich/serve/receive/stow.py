"""DICOMweb STOW-RS (PS3.18 10.5): objects by HTTP, with the same limits and the same order as C-STORE."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from ich.serve.inbox import Inbox
from ich.serve.receive.commits import Commits
from ich.serve.receive.intake import Intake, Visit
from ich.serve.receive.meta import Meta, split_file
from ich.serve.receive.multipart import BadBodyError, find_boundary, split_parts
from ich.serve.receive.negotiation import is_known_address
from ich.serve.receive.refusals import RefusedError, Status, is_uid
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.events import EventKind
from ich.serve.store.objects import close_stale_associations

MOST_AT_ONCE = 8
"""Requests that are served at a time; more are asked to come again."""
_RETRY_SECONDS = "5"
_JSON = "application/dicom+json"


def make_router(settings: Settings, store: Store) -> APIRouter:
    """Makes the routes ``/studies`` and ``/studies/{study}``.

    Args:
        settings: The settings of the service; senders are allowed by the addresses of ``receive.peers``.
        store: The database.
    """
    receiver = f"stow/{secrets.token_hex(8)}"
    inbox = Inbox(settings.inbox, "stow")
    inbox.remove_unfinished()
    with store.begin() as connection:
        close_stale_associations(connection, receiver, time.time())
    door = _Door(settings, Intake(inbox, Commits(store), settings.receive), receiver)
    router = APIRouter()
    router.add_api_route("/studies", door.store_any, methods=["POST"])
    router.add_api_route("/studies/{study}", door.store_one, methods=["POST"])
    return router


class _Door:
    def __init__(self, settings: Settings, intake: Intake, receiver: str) -> None:
        self._receive = settings.receive
        self._intake = intake
        self._receiver = receiver
        self._limiter: anyio.CapacityLimiter | None = None  # belongs to the loop of the first request

    async def store_any(self, request: Request) -> Response:
        """Stores objects of any study."""
        return await self._store(request, None)

    async def store_one(self, request: Request, study: str) -> Response:
        """Stores objects of one study."""
        if not is_uid(study):
            return Response("the study is not a UID", 400)
        return await self._store(request, study)

    async def _store(self, request: Request, study: str | None) -> Response:
        address = request.client.host if request.client else ""
        if not is_known_address(address, self._receive.peers):
            self._intake.note(address, EventKind.REFUSED, "its address is not allowed")
            return Response("the address is not allowed", 403)
        boundary = find_boundary(request.headers.get("content-type", ""))
        if boundary is None:
            return Response('expected multipart/related; type="application/dicom"', 415)
        self._limiter = self._limiter or anyio.CapacityLimiter(MOST_AT_ONCE)
        if self._limiter.available_tokens < 1:
            return Response("busy", 503, headers={"Retry-After": _RETRY_SECONDS})
        body = aiter(request.stream())

        async def read() -> bytes | None:
            with anyio.fail_after(self._receive.idle_seconds):
                return await anext(body, None)

        work = partial(self._take_all, address, boundary, study, partial(anyio.from_thread.run, read))
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        except BadBodyError as error:
            return Response(f"the body cannot be read: {error}", 400)
        except TimeoutError:
            return Response("the body did not come in time", 408)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    def _take_all(self, address: str, boundary: str, study: str | None, read: Any) -> Response:
        answer = _Answer()
        visit = Visit(self._receiver, address, time.time())
        try:
            for number, part in enumerate(split_parts(_read_all(read), boundary)):
                if number >= self._receive.most_objects:
                    raise BadBodyError("it has too many parts")
                self._take(visit, self._bound(part), study, answer)
        finally:
            self._intake.close(visit)
        return answer.write()

    def _take(self, visit: Visit, part: Iterator[bytes], study: str | None, answer: _Answer) -> None:
        meta = None
        try:
            try:
                meta, data = split_file(part)
            except RefusedError as refused:
                self._intake.note(visit.peer, EventKind.REFUSED, str(refused))
                raise
            self._intake.take(visit, meta, data, study)
        except RefusedError as refused:
            answer.add(meta, refused.status)
        else:
            answer.add(meta, Status.SUCCESS)
        for _ in part:
            pass

    def _bound(self, part: Iterable[bytes]) -> Iterator[bytes]:
        left = 2 * self._receive.most_object_mb * 10**6
        for piece in part:
            if (left := left - len(piece)) < 0:
                raise BadBodyError("an object is far too large")
            yield piece


def _read_all(read: Any) -> Iterator[bytes]:
    while (chunk := read()) is not None:
        yield chunk


class _Answer:
    """The response's data set (PS3.18 10.5.3.2, PS3.18 Annex I)."""

    def __init__(self) -> None:
        self._sequences: dict[str, list[dict[str, Any]]] = {}

    def add(self, meta: Meta | None, status: Status) -> None:
        """Adds an object; one without UIDs stands among the other failures."""
        item: dict[str, Any] = {}
        is_named = meta is not None and is_uid(meta.SOPClassUID) and is_uid(meta.SOPInstanceUID)
        if meta is not None and is_named:
            item["00081150"] = {"vr": "UI", "Value": [meta.SOPClassUID]}
            item["00081155"] = {"vr": "UI", "Value": [meta.SOPInstanceUID]}
        if status != Status.SUCCESS:
            item["00081197"] = {"vr": "US", "Value": [int(status)]}
        failed = "00081198" if is_named else "0008119A"
        self._sequences.setdefault("00081199" if status == Status.SUCCESS else failed, []).append(item)

    def write(self) -> Response:
        """Returns 200 if all were stored, 409 if none was, and otherwise 202 (PS3.18 table 10.5.3-1)."""
        stored = "00081199" in self._sequences
        code = 409 if not stored else 200 if len(self._sequences) == 1 else 202
        found = {tag: {"vr": "SQ", "Value": items} for tag, items in sorted(self._sequences.items())}
        transient = any(
            item.get("00081197", {}).get("Value") == [int(Status.OUT_OF_RESOURCES)]
            for items in self._sequences.values()
            for item in items
        )
        headers = {"Retry-After": _RETRY_SECONDS} if transient else None
        return JSONResponse(found, 503 if transient and not stored else code, headers, _JSON)
