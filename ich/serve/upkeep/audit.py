"""The audit log as lines of JSON, and files of its older part, one for each month."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from ich.files import flush_to_disk, for_owner_only
from ich.schema.formats import write_instant
from ich.serve.store import Store
from ich.serve.store.tables import events

_MOST_AT_ONCE = 5000  # events of one transaction


def export_events(connection: Connection, folder: Path) -> Iterator[str]:
    """Yields the audit log from its beginning, each event as a line of JSON without its end.

    Args:
        connection: An open transaction.
        folder: Folder of the older part; it need not exist.
    """
    for path in sorted(folder.glob("events-*.jsonl")):
        yield from path.read_text(encoding="utf-8").splitlines()
    for row in connection.execute(select(events).order_by(events.c.id)):
        yield write_event(row)


def write_event(row: Row[Any]) -> str:
    """Writes an event as a line of JSON."""
    fields = {"id": row.id, "at": write_instant(row.at)}
    others = {name: getattr(row, name) for name in ("actor", "kind", "study", "detail")}
    return json.dumps(fields | others, ensure_ascii=False)


def move_events(store: Store, folder: Path, before: float) -> int:
    """Moves old events from the database into files; returns how many.

    An event is in its file before it leaves the database. If the process ends in between, the next one finds
    it there, and does not write it again.

    Args:
        store: The database.
        folder: Folder of the files; it is made if need be.
        before: Events before this time are moved.
    """
    count = 0
    while True:
        with store.view() as connection:
            query = select(events).where(events.c.at < before).order_by(events.c.id).limit(_MOST_AT_ONCE)
            rows = connection.execute(query).all()
        if not rows:
            return count
        with for_owner_only():
            folder.mkdir(parents=True, exist_ok=True)
            for month, group in groupby(rows, lambda row: f"{_find_time(row):%Y-%m}"):
                _append(folder / f"events-{month}.jsonl", list(group))
            flush_to_disk(folder)
        with store.begin() as connection:
            connection.execute(delete(events).where(events.c.id.in_([row.id for row in rows])))
        count += len(rows)


def _append(path: Path, rows: Sequence[Row[Any]]) -> None:
    with path.open("a+b") as file:
        file.seek(0)
        known, end = _read_written(file.read())
        file.truncate(end)
        lines = [write_event(row) for row in rows if row.id not in known]
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def _read_written(content: bytes) -> tuple[set[int], int]:
    """Returns the numbers of the events in a file, and where its last whole line ends."""
    end = content.rfind(b"\n") + 1
    return {json.loads(line)["id"] for line in content[:end].splitlines()}, end


def _find_time(row: Row[Any]) -> datetime:
    return datetime.fromtimestamp(row.at, UTC)
