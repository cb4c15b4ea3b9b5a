"""Readings that were saved: where their files lie, and what a shadow model has to read."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from ich.serve.store.studies import Claim, begin_attempt
from ich.serve.store.tables import readings, studies


def list_folders(connection: Connection, study: int) -> list[str]:
    """Lists the folders of a study's readings, the oldest first; those of a shadow model have none."""
    query = select(readings.c.folder).where(readings.c.study_id == study, readings.c.shadow.is_(False))
    return list(connection.execute(query.order_by(readings.c.id)).scalars())


def find_newest(connection: Connection) -> int:
    """Returns the number of the newest reading; 0 if there is none."""
    return int(connection.execute(select(func.max(readings.c.id))).scalar() or 0)


def claim_for_shadow(
    connection: Connection, reader: str, after: int, now: float
) -> tuple[int, Claim | None] | None:
    """Takes the study of the next reading for a shadow model.

    Args:
        connection: An open transaction.
        reader: The reader.
        after: Number of the last reading that it took.
        now: The time.

    Returns:
        The number of the reading and the claim on its study. The claim is None if the study received more
        since, because another reading follows then, or if its pixels were deleted. None without a reading.
    """
    row = connection.execute(
        select(readings.c.id.label("reading"), readings.c.generation.label("read"), studies)
        .join(studies, studies.c.id == readings.c.study_id)
        .where(readings.c.id > after, readings.c.shadow.is_(False))
        .order_by(readings.c.id)
        .limit(1)
    ).first()
    if row is None:
        return None
    if row.read != row.generation or row.pixels_deleted:
        return int(row.reading), None
    return int(row.reading), begin_attempt(connection, row, reader, now)
