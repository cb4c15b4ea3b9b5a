"""Answers by C-STORE, and the question whether the node keeps them (PS3.4 B and J)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from ich.serve.sending.addresses import split_address
from ich.serve.sending.commitment import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from ich.serve.sending.delivery import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    SUCCESS,
    Delivery,
    NotTaken,
    Waiting,
    is_taken,
    read_objects,
)
from ich.serve.sending.tls import make_context

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_REQUEST = 1  # action type of a request for storage commitment, PS3.4 J.3.2


def deliver(delivery: Delivery) -> Waiting | None:
    """Stores all objects of an answer at a DICOM node, and asks for its commitment if so configured.

    Raises:
        NotTaken: If the node is away, or refused an object or the question.
    """
    objects = read_objects(delivery.node, delivery.files)
    association = _open(delivery, objects)
    with _aborting(association):
        for each in objects:
            _store(association, each)
        if delivery.node.commitment:
            _ask(association, delivery, objects)
            return association.release
        association.release()
    return None


def _open(delivery: Delivery, objects: list[Dataset]) -> Association:
    node = delivery.node
    host, port = split_address(node)

    def take_report(event: Event) -> tuple[int, None]:
        return delivery.take_report(event.event_type or 0, event.event_information), None

    entity = AE(ae_title=delivery.ae_title)
    entity.connection_timeout = CONNECT_SECONDS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = ANSWER_SECONDS
    for uid in sorted({each.SOPClassUID for each in objects}):
        entity.add_requested_context(uid, _SYNTAXES)
    if node.commitment:
        entity.add_requested_context(STORAGE_COMMITMENT, _SYNTAXES)
    association = entity.associate(
        host,
        port,
        ae_title=node.ae_title or "",
        tls_args=None if node.tls is None else (make_context(node.tls), host),
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, take_report)],
    )
    if association.is_established:
        return association
    if association.is_rejected:
        answer = association.acceptor.primitive
        raise NotTaken(f"the association was rejected: {getattr(answer, 'reason_str', 'no reason')}")
    raise NotTaken("no connection")


@contextmanager
def _aborting(association: Association) -> Iterator[None]:
    """Aborts the association if the delivery fails, so that no thread of it stays."""
    try:
        yield
    except BaseException:
        association.abort()
        raise


def _store(association: Association, each: Dataset) -> None:
    name = each.SOPClassUID.name
    try:
        answer = association.send_c_store(each)
    except ValueError as error:
        raise NotTaken(f"the node does not take {name}") from error
    except RuntimeError as error:
        raise NotTaken("the node ended the association") from error
    if "Status" not in answer:
        raise NotTaken(f"no answer to {name}")
    if not is_taken(answer.Status):
        raise NotTaken(f"0x{answer.Status:04X} for {name}")


def _ask(association: Association, delivery: Delivery, objects: list[Dataset]) -> None:
    """Asks the node to commit itself to keep the objects (PS3.4 J.3.2)."""
    question = Dataset()
    question.TransactionUID = generate_uid(prefix=None)
    question.ReferencedSOPSequence = [_refer(each) for each in objects]
    delivery.announce(question.TransactionUID)
    try:
        answer, _ = association.send_n_action(
            question, _REQUEST, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    except ValueError as error:
        raise NotTaken("the node does not take requests for storage commitment") from error
    except RuntimeError as error:
        raise NotTaken("the node ended the association") from error
    if "Status" not in answer:
        raise NotTaken("no answer to the request for storage commitment")
    if answer.Status != SUCCESS:
        raise NotTaken(f"0x{answer.Status:04X} for the request for storage commitment")


def _refer(each: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = each.SOPClassUID
    reference.ReferencedSOPInstanceUID = each.SOPInstanceUID
    return reference
