"""Notes peers that are turned away, in few events however often they come."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from ich.serve.receive.intake import Intake
from ich.serve.store.events import EventKind

_SECONDS = 60.0  # between two events of one peer and reason
_MOST = 1000  # peers and reasons that are remembered


class RefusedPeers:
    """Notes refusals of connections in the audit log: the first of a kind at once, more of it once a minute.

    Args:
        intake: What writes the events.
        clock: Returns the time, seconds since 1970.
    """

    def __init__(self, intake: Intake, clock: Callable[[], float]) -> None:
        self._intake = intake
        self._clock = clock
        self._lock = threading.Lock()
        self._noted: dict[tuple[str, str], float] = {}
        self._since: Counter[tuple[str, str]] = Counter()

    def note(self, address: str, reason: str) -> None:
        """Notes that a peer was turned away, or its connection was ended.

        Args:
            address: Its address.
            reason: Why.
        """
        key, now = (address, reason), self._clock()
        with self._lock:
            if key in self._noted and now - self._noted[key] < _SECONDS:
                self._since[key] += 1
                return
            more = self._since.pop(key, 0)
            if len(self._noted) >= _MOST:
                self._noted.clear()
                self._since.clear()
            self._noted[key] = now
        detail = f"{reason}; {more} times more since the last event" if more else reason
        self._intake.note(address, EventKind.REFUSED, detail)
