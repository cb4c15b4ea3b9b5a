"""A receiver with pynetdicom's acceptor in front of the same intake, as the peer of the own loop."""

import logging
import signal
import threading
import time
import warnings
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association

from ich.serve.inbox import Inbox
from ich.serve.receive.commits import Commits
from ich.serve.receive.intake import Intake, Visit
from ich.serve.receive.meta import Meta
from ich.serve.receive.refusals import RefusedError, Status
from ich.serve.receive.server import REQUEST_SECONDS
from ich.serve.receive.syntaxes import make_contexts
from ich.serve.settings import Settings
from ich.serve.store import open_store


def run(settings: Settings, identity: str) -> None:
    """Receives until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    store = open_store(settings.store)
    commits = Commits(store)
    door = _Door(Intake(Inbox(settings.inbox), commits, settings.receive), f"dimse/{identity}")
    ae = AE(settings.receive.ae_title)
    ae.supported_contexts = list(make_contexts())
    ae.require_called_aet = True
    ae.maximum_associations = settings.receive.most_associations
    ae.acse_timeout = REQUEST_SECONDS
    ae.network_timeout = ae.dimse_timeout = settings.receive.idle_seconds
    handlers = [
        (evt.EVT_C_STORE, door.store),
        *((event, door.close) for event in (evt.EVT_RELEASED, evt.EVT_ABORTED)),
    ]
    server = ae.start_server((settings.receive.host, settings.receive.port), False, evt_handlers=handlers)
    stop.wait()
    if server is not None:
        server.shutdown()
    commits.close()
    store.close()


class _Door:
    def __init__(self, intake: Intake, receiver: str) -> None:
        self._intake = intake
        self._receiver = receiver
        self._visits: dict[Association, Visit] = {}

    def store(self, event: Any) -> int:
        calling = str(event.assoc.requestor.ae_title)
        visit = self._visits.setdefault(event.assoc, Visit(self._receiver, calling, time.time()))
        request = event.request
        names = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID, event.context.transfer_syntax)
        try:
            self._intake.take(visit, Meta(*map(str, names)), [request.DataSet.getvalue()])
        except RefusedError as refused:
            return refused.status
        return Status.SUCCESS

    def close(self, event: Any) -> None:
        if (visit := self._visits.pop(event.assoc, None)) is not None:
            self._intake.close(visit)
