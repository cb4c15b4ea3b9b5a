"""Counts failed logins, so that nobody can guess passwords by trying."""

from __future__ import annotations

import threading
from collections import deque

WINDOW = 300.0
"""Failures count for so many seconds."""

MOST_TOGETHER = 5
"""Most failures of an account from one address."""

MOST_ALONE = 20
"""Most failures of an account from all addresses, and of an address for all accounts."""

_MOST_KEYS = 10_000  # so that no one can fill the memory


class Attempts:
    """Failed logins of the last minutes, in memory."""

    def __init__(self) -> None:
        self._failures: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def find_wait(self, name: str, address: str, now: float) -> float:
        """Returns after how many seconds a login may be tried; 0 if it may now."""
        with self._lock:
            waits = [
                self._failures[key][-most] + WINDOW - now
                for key, most in _list_keys(name, address)
                if len(self._forget(key, now)) >= most
            ]
        return max(waits, default=0.0)

    def note_failure(self, name: str, address: str, now: float) -> None:
        """Notes that a login failed."""
        with self._lock:
            for key, _ in _list_keys(name, address):
                self._forget(key, now)
                self._failures.setdefault(key, deque(maxlen=MOST_ALONE)).append(now)
            while len(self._failures) > _MOST_KEYS:
                self._failures.pop(next(iter(self._failures)))

    def _forget(self, key: tuple[str, str], now: float) -> deque[float]:
        """Forgets the failures of a key that are too old; returns the others."""
        failures = self._failures.get(key, deque())
        while failures and failures[0] <= now - WINDOW:
            failures.popleft()
        if not failures:
            self._failures.pop(key, None)
        return failures


def _list_keys(name: str, address: str) -> list[tuple[tuple[str, str], int]]:
    return [((name, address), MOST_TOGETHER), ((name, ""), MOST_ALONE), (("", address), MOST_ALONE)]
