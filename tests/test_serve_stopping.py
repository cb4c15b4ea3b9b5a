"""How a signal tells a process of the service to stop."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

from ich.serve.stopping import Stop, stop_on


def test_a_signal_wakes_all_that_wait_and_those_that_come_later() -> None:
    kept = signal.getsignal(signal.SIGUSR2)
    try:
        stop = stop_on(signal.SIGUSR2)
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(stop.wait) for _ in range(3)]
            assert not stop.is_set()
            handler = signal.getsignal(signal.SIGUSR2)
            assert callable(handler)
            handler(signal.SIGUSR2, None)
            assert [each.result() for each in waiting] == [True] * 3
        assert stop.is_set()
        assert stop.wait()
    finally:
        signal.signal(signal.SIGUSR2, kept)


def test_without_a_signal_it_waits_no_longer_than_it_is_told_to() -> None:
    assert Stop().wait(0.01) is False
