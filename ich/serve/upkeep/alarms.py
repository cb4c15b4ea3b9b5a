"""Begins and ends alarms, and posts both to an address."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
from sqlalchemy import Connection

from ich.schema import UserError
from ich.serve.settings.parts import Upkeep
from ich.serve.store import Store
from ich.serve.store.alarms import (
    Notice,
    begin_alarm,
    end_alarm,
    list_active,
    list_notices,
    mark_posted,
)
from ich.serve.upkeep.stalls import Finding

_LOG = logging.getLogger(__name__)

SIGNATURE = "X-Ich-Signature"
"""Header with the HMAC of the body: ``sha256=`` and hexadecimal digits."""

POST_SECONDS = 10.0
"""How long the address has to answer."""


def settle_alarms(
    connection: Connection,
    now: float,
    actor: str,
    group: str,
    found: Sequence[Finding],
    kept: Collection[str] = (),
) -> None:
    """Begins the alarms that were found, and ends those of the same group that were not.

    Args:
        connection: An open transaction.
        now: The time.
        actor: The process.
        group: What the names of these alarms begin with.
        found: What needs a person.
        kept: Names of alarms that stay as they are.
    """
    for each in found:
        if begin_alarm(connection, now, actor, each.name, each.detail):
            _LOG.warning("alarm began: %s: %s", each.name, each.detail)
    names = {each.name for each in found} | set(kept)
    for name in list_active(connection):
        if name.startswith(f"{group}.") and name not in names and end_alarm(connection, now, actor, name):
            _LOG.warning("alarm ended: %s", name)


def post_notices(store: Store, settings: Upkeep, post: Callable[[bytes, dict[str, str]], None]) -> None:
    """Posts what was not posted yet, the oldest first.

    A notice is marked after it was taken. It comes twice if the process ends in between.

    Args:
        store: The database.
        settings: Whether and how notices are signed.
        post: Posts a body with its headers.

    Raises:
        OSError: If a notice was not taken; it and the later ones wait for the next time.
    """
    with store.view() as connection:
        notices = list_notices(connection)
    for notice in notices:
        body = write_notice(notice)
        post(body, make_headers(body, settings))
        with store.begin() as connection:
            mark_posted(connection, notice)


def write_notice(notice: Notice) -> bytes:
    """Writes a notice as JSON."""
    fields = {
        "alarm": notice.alarm,
        "name": notice.name,
        "state": "began" if notice.ended_at is None else "ended",
        "detail": notice.detail,
        "began_at": format_time(notice.began_at),
        "ended_at": None if notice.ended_at is None else format_time(notice.ended_at),
    }
    return json.dumps(fields).encode()


def format_time(seconds: float) -> str:
    """Writes a time in UTC by ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def make_headers(body: bytes, settings: Upkeep) -> dict[str, str]:
    """Makes the headers of a notice, with its signature if there is a secret."""
    headers = {"Content-Type": "application/json"}
    if settings.alarm_secret_file is not None:
        secret = read_secret(settings.alarm_secret_file)
        headers[SIGNATURE] = f"sha256={hmac.new(secret, body, hashlib.sha256).hexdigest()}"
    return headers


def read_secret(path: str) -> bytes:
    """Reads the secret of the signature, without the white space around it.

    Raises:
        UserError: If it cannot be read, or is empty.
    """
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise UserError(f"upkeep.alarm_secret_file={path} cannot be read: {error.strerror}") from error
    if not secret:
        raise UserError(f"upkeep.alarm_secret_file={path} is empty; write a secret into it")
    return secret


def post_to(url: str) -> Callable[[bytes, dict[str, str]], None]:
    """Returns a function that posts to an address.

    It raises OSError if the address does not answer, or answers with another status than 2xx.
    """

    def post(body: bytes, headers: dict[str, str]) -> None:
        try:
            httpx.post(url, content=body, headers=headers, timeout=POST_SECONDS).raise_for_status()
        except httpx.HTTPStatusError as error:
            raise OSError(f"upkeep.alarm_url answered {error.response.status_code}") from error
        except httpx.HTTPError as error:
            raise OSError(f"upkeep.alarm_url does not answer: {type(error).__name__}") from error

    return post
