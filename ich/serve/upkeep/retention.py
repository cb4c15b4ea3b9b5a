"""Deletes the pixels of old studies, and files that no row names.

Each step may be the last one before the process ends. A study's rows go in one transaction, with the event.
Its files go after that. What is left of them is found by ``remove_stray``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ich.serve.inbox import Inbox
from ich.serve.store import Store
from ich.serve.store.retention import forget_objects, iterate_paths, list_expired

DAY = 86400.0

SETTLED_SECONDS = 3600.0
"""A file that is newer may belong to an object whose row is not committed yet."""

_MOST_AT_ONCE = 100  # studies of one look at the database


def delete_pixels(store: Store, inbox: Inbox, before: float, now: float, actor: str) -> int:
    """Deletes the pixels of studies that are finished; returns of how many.

    Args:
        store: The database.
        inbox: The files.
        before: The newest object of these studies came before this time.
        now: The time.
        actor: The process.
    """
    count = 0
    while True:
        with store.view() as connection:
            expired = list_expired(connection, before, _MOST_AT_ONCE)
        for study in expired:
            with store.begin() as connection:
                paths = forget_objects(connection, study, before, now, actor)
            for path in paths:
                inbox.remove_settled(path, now - SETTLED_SECONDS)
        count += len(expired)
        if len(expired) < _MOST_AT_ONCE:
            return count


def remove_stray(store: Store, inbox: Inbox, now: float) -> int:
    """Removes the files that no row names; returns how many.

    A receiver or ``delete_pixels`` that was killed leaves such files. Nobody was told that they are kept.

    Args:
        store: The database.
        inbox: The files.
        now: The time.
    """
    inbox.restore_removing()
    with store.view() as connection:  # 8 bytes for each, and by chance a stray file stays
        named = np.sort(np.fromiter(map(hash, iterate_paths(connection)), np.int64))
    return sum(
        inbox.remove_settled(path, now - SETTLED_SECONDS)
        for path in inbox.list_files(now - DAY)
        if not _holds(named, hash(path))
    )


def _holds(numbers: NDArray[np.int64], number: int) -> bool:
    """Whether (N,) sorted numbers hold one."""
    place = int(np.searchsorted(numbers, number))
    return place < len(numbers) and int(numbers[place]) == number
