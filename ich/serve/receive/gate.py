"""Counts connections, in all and of each address, so that no peer takes the place of others.

A connection waits until its association is accepted. Waiting ones cost little, and a new one takes the place
of the one that has waited longest, so silent connections keep nobody out.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


class Gate(Generic[_Key]):
    """Places for connections.

    Args:
        most: Most in all, of those that wait and of those that are accepted.
        most_of_a_peer: Most of one address.
    """

    def __init__(self, most: int, most_of_a_peer: int) -> None:
        self._most = most
        self._most_of_a_peer = most_of_a_peer
        self._lock = threading.Lock()
        self._waiting: dict[_Key, str] = {}  # by age
        self._accepted: dict[_Key, str] = {}

    def enter(self, key: _Key, address: str) -> _Key | None:
        """Lets a connection wait; returns the one that has to leave for it."""
        with self._lock:
            self._waiting[key] = address
            counts = Counter(self._waiting.values())
            if counts[address] > self._most_of_a_peer:
                crowded = address
            elif len(self._waiting) > self._most:
                crowded = max(counts, key=counts.__getitem__)
            else:
                return None
            oldest = next(other for other, owner in self._waiting.items() if owner == crowded)
            del self._waiting[oldest]
            return oldest

    def accept(self, key: _Key) -> bool:
        """Moves a connection from those that wait to those that are accepted, if there is a place."""
        with self._lock:
            address = self._waiting.get(key)
            if address is None:  # it had to leave meanwhile
                return False
            own = sum(owner == address for owner in self._accepted.values())
            if len(self._accepted) >= self._most or own >= self._most_of_a_peer:
                return False
            del self._waiting[key]
            self._accepted[key] = address
            return True

    def leave(self, key: _Key) -> None:
        """Frees the place of a connection."""
        with self._lock:
            self._waiting.pop(key, None)
            self._accepted.pop(key, None)

    def list_all(self) -> list[_Key]:
        """Lists all connections."""
        with self._lock:
            return [*self._waiting, *self._accepted]
