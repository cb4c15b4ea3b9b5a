"""Takes the answers to one node that are due, and delivers them one after another."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ich.schema import UserError
from ich.serve.results import ResultFiles
from ich.serve.sending import dicom, fhir, mllp, stow, webhook
from ich.serve.sending.commitment import Reports
from ich.serve.sending.delivery import Deliver, Delivery, NotTaken, Waiting
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node
from ich.serve.stopping import Stop
from ich.serve.store import Store
from ich.serve.store.sends import (
    Send,
    claim_send,
    fail_unconfirmed,
    note_asked,
    note_confirmed,
    note_failed_attempt,
    note_sent,
)

KINDS: dict[str, Deliver] = {
    "dicom": dicom.deliver,
    "stow": stow.deliver,
    "webhook": webhook.deliver,
    "hl7": mllp.deliver,
    "fhir": fhir.deliver,
}
"""What delivers answers, by the kind of the node."""

_POLL_SECONDS = 1.0
_REPORT_SECONDS = 10.0  # a report on the association of the question comes within it
_MOST_WAITING = 4  # associations that are kept open for a report


class Worker:
    """Delivers the answers to one node.

    Args:
        settings: The settings.
        store: The database.
        node: The node.
        identity: Name of the process.
        clock: Returns the time.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        node: Node,
        identity: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._store, self._node = settings, store, node
        self._identity, self._clock = identity, clock
        self._reports = Reports(settings, store, identity, clock)
        self._waiting: deque[tuple[float, Waiting]] = deque()

    def work(self, stop: Stop) -> None:
        """Delivers what is due until it is told to stop. A database that does not answer is tried again."""
        while not stop.is_set():
            try:
                was_due = self.deliver_next()
            except SQLAlchemyError:
                was_due = False
            self._end_waiting(time.monotonic() - _REPORT_SECONDS)
            if not was_due:
                stop.wait(_POLL_SECONDS)
        self.close()

    def close(self) -> None:
        """Ends all associations that are open for a report."""
        self._end_waiting(time.monotonic())

    def deliver_next(self) -> bool:
        """Delivers the next answer that is due; returns whether there was one."""
        node, now = self._node, self._clock()
        with self._store.begin() as connection:
            fail_unconfirmed(connection, node.name, self._identity, now, give_up_hours=node.give_up_hours)
            send = claim_send(connection, node.name, self._identity, now)
        if send is None:
            return False
        try:
            waiting = KINDS[self._node.kind](self._make_delivery(send))
        except NotTaken as error:
            self._note_failed(send, str(error), for_good=error.for_good)
        except UserError as error:  # of the settings, such as a secret that is gone
            self._note_failed(send, str(error))
        except Exception as error:  # what libraries raise may quote a file or the node
            self._note_failed(send, f"it could not be sent ({type(error).__name__})")
        else:
            self._note_taken(send, waiting)
        return True

    def _make_delivery(self, send: Send) -> Delivery:
        def announce(transaction_uid: str) -> None:
            with self._store.begin() as connection:
                note_sent(connection, send, self._identity, self._clock(), transaction_uid=transaction_uid)

        return Delivery(
            node=self._node,
            ae_title=self._settings.receive.ae_title,
            study=send.study,
            reading=send.reading,
            files=ResultFiles(self._settings.results / send.folder),
            announce=announce,
            take_report=self._reports.take,
        )

    def _note_failed(self, send: Send, error: str, *, for_good: bool = False) -> None:
        hours = self._node.give_up_hours
        with self._store.begin() as connection:
            note_failed_attempt(
                connection, send, self._identity, self._clock(), error, give_up_hours=hours, for_good=for_good
            )

    def _note_taken(self, send: Send, waiting: Waiting | None) -> None:
        now = self._clock()
        with self._store.begin() as connection:
            if waiting is None:
                note_sent(connection, send, self._identity, now)
                note_confirmed(connection, send, self._identity, now)
            else:
                note_asked(connection, send, now + 60 * self._node.commitment_minutes)
        if waiting is not None:
            self._waiting.append((time.monotonic(), waiting))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()[1]()

    def _end_waiting(self, before: float) -> None:
        while self._waiting and self._waiting[0][0] <= before:
            self._waiting.popleft()[1]()
