"""Answers go to the nodes of the settings: one thread for each, so that a slow node delays no other.

The receiver takes reports of commitment, and needs nothing else of this room. So what sends is imported late.
"""

from __future__ import annotations

import signal
import threading
import time

from ich.serve.settings import Settings
from ich.serve.stopping import stop_on
from ich.serve.store import open_store
from ich.serve.store.sends import release_sender


def check(settings: Settings) -> None:
    """Refuses nodes that cannot work, see ``ich.serve.sending.checks``.

    Raises:
        UserError: With what is wrong.
    """
    from ich.serve.sending.checks import check

    check(settings)


def run(settings: Settings, identity: str) -> None:
    """Delivers answers until SIGTERM. A delivery that is under way is finished first.

    A queue in a file has one such process, so what earlier ones had taken is due at once.

    Args:
        settings: The settings.
        identity: Name of the process, unlike that of any other one.
    """
    from ich.serve.sending.worker import Worker

    stop = stop_on(signal.SIGTERM)
    store = open_store(settings.store)
    try:
        if settings.queue is None:
            with store.begin() as connection:
                release_sender(connection, None, time.time())
        threads = [
            threading.Thread(
                target=Worker(settings, store, node, identity).work, args=(stop,), name=node.name
            )
            for node in settings.send
        ]
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join()
    finally:
        store.close()
