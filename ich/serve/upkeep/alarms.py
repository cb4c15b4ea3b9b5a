"""Begins and ends alarms, and posts both to an address."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

import httpx
from sqlalchemy import Connection

from ich.serve.sending.webhook import read_key, sign
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

SECRET = "upkeep.alarm_secret_file"

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


def post_notices(store: Store, settings: Upkeep, url: str, now: float) -> None:
    """Posts what was not posted yet, the oldest first.

    A notice is marked after it was taken. It comes twice if the process ends in between.

    Args:
        store: The database.
        settings: Whether and how notices are signed.
        url: Where they are posted to.
        now: The time.

    Raises:
        OSError: If a notice was not taken; it and the later ones wait for the next time.
        UserError: If the secret cannot be read.
    """
    with store.view() as connection:
        notices = list_notices(connection)
    for notice in notices:
        body = write_notice(notice)
        headers = {"Content-Type": "application/json"}
        if settings.alarm_secret_file is not None:
            key = read_key(settings.alarm_secret_file, SECRET)
            headers |= sign(body, f"alarm-{notice.alarm}-{notice.state}", int(now), key)
        _post(url, body, headers)
        with store.begin() as connection:
            mark_posted(connection, notice)


def write_notice(notice: Notice) -> bytes:
    """Writes a notice as JSON, in the form of the results that ``ich.serve.sending.webhook`` posts."""
    ended_at = None if notice.ended_at is None else format_time(notice.ended_at)
    began_at = format_time(notice.began_at)
    data = {"alarm": notice.alarm, "name": notice.name, "detail": notice.detail}
    return json.dumps(
        {
            "type": f"alarm.{notice.state}",
            "timestamp": ended_at or began_at,
            "data": data | {"began_at": began_at, "ended_at": ended_at},
        }
    ).encode()


def format_time(seconds: float) -> str:
    """Writes a time in UTC by ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    """Posts to an address and nowhere else: no redirect is followed, and no proxy of the environment used."""
    try:
        with httpx.Client(timeout=POST_SECONDS, trust_env=False, follow_redirects=False) as client:
            answer = client.post(url, content=body, headers=headers)
    except httpx.HTTPError as error:
        raise OSError(f"upkeep.alarm_url does not answer ({type(error).__name__})") from error
    if not answer.is_success:
        raise OSError(f"upkeep.alarm_url answered with HTTP status {answer.status_code}")
