"""Takes studies in: over DICOM, over DICOMweb and from watched folders.

``server`` listens, and ``gate`` counts the connections. ``negotiation`` answers a request for an association,
and ``association`` serves it; ``wire`` and ``commands`` read and write its bytes. ``stow`` is the way over
DICOMweb, and ``folders`` that over files. All of them hand objects to ``intake``: it writes the file, then
``commits`` its row, and only then the sender hears that it is taken. ``refusals`` says why one is not.
``checks`` finds faults of the settings before anything listens.
"""

from __future__ import annotations

import logging
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ich.files import for_owner_only
from ich.serve.inbox import Inbox
from ich.serve.receive.checks import check as check
from ich.serve.receive.commits import Commits
from ich.serve.receive.folders import Folders
from ich.serve.receive.intake import Intake
from ich.serve.receive.server import Server
from ich.serve.sending.commitment import Reports
from ich.serve.settings import Settings
from ich.serve.stopping import stop_on
from ich.serve.store import open_store
from ich.serve.store.objects import close_stale_associations

LOCKED_SECONDS = 10.0
"""How long a sender waits for a locked database until it is refused; it gives up after some 30 seconds."""

# pynetdicom logs what peers send, and a traceback for what it cannot read.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def run(settings: Settings, identity: str) -> None:
    """Receives until SIGTERM.

    Args:
        settings: The settings of the service.
        identity: Names this process in the database.

    Raises:
        UserError: If it cannot listen, or its files or its database cannot be used.
    """
    stop = stop_on(signal.SIGTERM)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)  # its warnings quote values
    warnings.simplefilter("ignore")
    with for_owner_only(), receiving(settings, identity):
        stop.wait()


@contextmanager
def receiving(settings: Settings, identity: str) -> Iterator[Server]:
    """Receives within the context; gives the server.

    Args:
        settings: The settings of the service.
        identity: Names this process in the database.

    Raises:
        UserError: As ``run``.
    """
    inbox = Inbox(settings.inbox)
    inbox.remove_unfinished()
    store = open_store(settings.store, busy_seconds=LOCKED_SECONDS)
    receiver = f"dimse/{identity}"
    with store.begin() as connection:
        for way in (receiver, f"folder/{identity}"):
            close_stale_associations(connection, way, time.time())
    commits = Commits(store)
    try:
        intake = Intake(inbox, commits, settings.receive)
        reports = Reports(settings, store, receiver)
        server = Server(settings.receive, intake, receiver, reports.take)
        folders = Folders(settings.receive.folders, intake, commits, f"folder/{identity}")
        server.start()
        folders.start()
        try:
            yield server
        finally:
            folders.stop()
            server.stop()
    finally:
        commits.close()
        store.close()
