"""How a signal tells a process of the service to stop."""

from __future__ import annotations

import signal
from contextlib import suppress
from queue import Empty, SimpleQueue


class Stop:
    """What a signal sets, and what threads wait for.

    A ``threading.Event`` must not be set in the handler of a signal: the handler may interrupt a thread that
    holds the lock of this event, and then wait for it forever. ``queue.SimpleQueue.put`` may be called there.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Tells all that wait, and all that will wait, to stop."""
        self._is_set = True
        self._wakes.put(None)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until it is set, or for so many seconds; returns whether it is set."""
        if not self._is_set:
            with suppress(Empty):
                self._wakes.get(timeout=seconds)
                self._wakes.put(None)  # for the next one that waits
        return self._is_set


def stop_on(*numbers: signal.Signals) -> Stop:
    """Returns what is set as soon as one of these signals comes; for the main thread only."""
    stop = Stop()
    for number in numbers:
        signal.signal(number, lambda *_: stop.set())
    return stop
