"""What retention deletes: the objects of old studies. Their studies, readings, sends and judgments stay."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Connection, delete, select, union_all, update

from ich.serve.states import StudyState
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.tables import conflicts, objects, studies

FINISHED = (StudyState.READ, StudyState.SET_ASIDE)
"""States of studies that need their objects no longer."""

_ROWS = 10_000  # that the database hands over at once


def list_expired(connection: Connection, before: float, most: int) -> list[int]:
    """Lists the studies whose pixels can go, the oldest first.

    Args:
        connection: An open transaction.
        before: Their newest object came before this time.
        most: Most studies of the list.
    """
    query = select(studies.c.id).where(_is_expired(before)).order_by(studies.c.last_at).limit(most)
    return list(connection.execute(query).scalars())


def forget_objects(connection: Connection, study: int, before: float, now: float, actor: str) -> list[str]:
    """Deletes the rows of a study's objects, and leaves an event.

    The rows go before the files do: a row says that its file is there. If the same object comes again, it is
    new.

    Args:
        connection: An open transaction.
        study: Number of the study.
        before: As in ``list_expired``; a study that received more meanwhile stays.
        now: The time.
        actor: The process.

    Returns:
        The paths of the files that nothing names any longer.
    """
    row = connection.execute(
        select(studies.c.token).where(studies.c.id == study, _is_expired(before)).with_for_update()
    ).first()
    if row is None:
        return []
    own = select(objects.c.id).where(objects.c.study_id == study)
    paths = list(
        connection.execute(
            union_all(
                select(objects.c.path).where(objects.c.study_id == study),
                select(conflicts.c.path).where(conflicts.c.object_id.in_(own)),
            )
        ).scalars()
    )
    connection.execute(delete(conflicts).where(conflicts.c.object_id.in_(own)))
    connection.execute(delete(objects).where(objects.c.study_id == study))
    connection.execute(update(studies).where(studies.c.id == study).values(pixels_deleted=True, objects=0))
    add_event(connection, now, actor, EventKind.DELETED, study=row.token, detail=f"{len(paths)} files")
    return paths


def iterate_paths(connection: Connection) -> Iterator[str]:
    """Iterates over the paths of all files that a row names, without holding all of them."""
    query = union_all(select(objects.c.path), select(conflicts.c.path))
    return iter(connection.execute(query.execution_options(yield_per=_ROWS)).scalars())


def _is_expired(before: float) -> ColumnElement[bool]:
    return studies.c.state.in_(FINISHED) & studies.c.pixels_deleted.is_(False) & (studies.c.last_at < before)
