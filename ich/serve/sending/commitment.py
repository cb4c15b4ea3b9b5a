"""What nodes say of the objects that they were asked to keep: storage commitment (PS3.4 J.3.3)."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from sqlalchemy import Connection

from ich.serve.results import ResultFiles
from ich.serve.sending.delivery import SUCCESS, list_objects
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.sends import Send, find_transaction, note_confirmed, note_failed_attempt

STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
"""The Storage Commitment Push Model, PS3.4 J.3."""

STORAGE_COMMITMENT_INSTANCE = UID("1.2.840.10008.1.20.1.1")
"""The one instance of it that questions and reports name, PS3.4 J.3.5."""

_PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.5
_ALL_KEPT = 1  # event type of a report without failures, PS3.4 J.3.3


def make_report_context() -> PresentationContext:
    """Makes the context in which a node reports on an association of its own, as the receiver accepts it.

    The node may claim the role of the SCP, as PS3.4 J.3.3 wants, or name no role, as some do.
    """
    context = build_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    context.scu_role = context.scp_role = True
    return context


class Reports:
    """Takes the reports of nodes, in the process of the sender or in that of the receiver.

    Args:
        settings: The settings.
        store: The database.
        actor: The process.
        clock: Returns the time.
    """

    def __init__(
        self, settings: Settings, store: Store, actor: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._nodes = {node.name: node for node in settings.send}
        self._results = settings.results
        self._store, self._actor, self._clock = store, actor, clock

    def take(self, event_type: int, report: Dataset) -> int:
        """Takes the report of an N-EVENT-REPORT of the Storage Commitment Push Model.

        A report on a transaction that is no longer known changes nothing, and is accepted: the objects were
        sent again meanwhile, under another transaction.

        Args:
            event_type: EventTypeID (0000,1002).
            report: Its data set.

        Returns:
            The status for the node. It is a failure if the report cannot be read or the database does not
            answer, so that the node may repeat it.
        """
        try:
            kept, failed = (
                _list_uids(report, "ReferencedSOPSequence"),
                _list_uids(report, "FailedSOPSequence"),
            )
            with self._store.begin() as connection:
                send = find_transaction(connection, str(report.TransactionUID))
                if send is not None:
                    self._note(connection, send, kept, failed, event_type == _ALL_KEPT)
        except Exception:  # pydicom raises any exception for what a node has sent, and it may quote it
            return _PROCESSING_FAILURE
        return SUCCESS

    def _note(
        self, connection: Connection, send: Send, kept: set[str], failed: set[str], is_success: bool
    ) -> None:
        asked = self._list_asked(send)
        if is_success and not failed and asked <= kept:
            note_confirmed(connection, send, self._actor, self._clock())
            return
        node = self._nodes.get(send.node)
        error = f"the node keeps {len(asked & kept - failed)} of {len(asked)} objects"
        hours = None if node is None else node.give_up_hours
        note_failed_attempt(connection, send, self._actor, self._clock(), error, give_up_hours=hours)

    def _list_asked(self, send: Send) -> set[str]:
        """Lists the UIDs that the node was asked for; none if the node has left the settings since."""
        node = self._nodes.get(send.node)
        if node is None:
            return set()
        files = list_objects(node, ResultFiles(self._results / send.folder))
        return {str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in files}


def _list_uids(report: Dataset, keyword: str) -> set[str]:
    return {str(each.ReferencedSOPInstanceUID) for each in report.get(keyword) or ()}
