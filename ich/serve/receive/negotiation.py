"""Answers a request for an association (PS3.8 7.1): who may come, and what may be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import negotiate_as_acceptor

from ich.serve.receive.meta import IMPLEMENTATION_UID
from ich.serve.receive.syntaxes import make_contexts
from ich.serve.receive.wire import MOST_PDU, EndedError, Pdu
from ich.serve.settings.parts import Peer

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_NAME = "ICH"

TITLE, CALLED, CONGESTION = (1, 1, 3), (1, 1, 7), (2, 3, 2)
"""Result, source and reason of a rejection (PS3.8 9.3.4): the calling title, the called one, too many."""
_CONTEXT_NAME, _VERSION = (1, 1, 2), (1, 2, 2)


@dataclass(frozen=True)
class Context:
    """A presentation context that was accepted."""

    SOPClassUID: str
    syntax: str


@dataclass(frozen=True)
class Request:
    """A request for an association.

    Attributes:
        calling: Title of the peer.
        called: Title that it wants.
        primitive: All of it, as pynetdicom has it.
        rejection: Why it cannot be served; None if it can.
        most: Longest P-DATA-TF that the peer takes, bytes; 0 for any.
    """

    calling: str
    called: str
    primitive: A_ASSOCIATE
    rejection: tuple[int, int, int] | None
    most: int


def read_request(data: bytes) -> Request:
    """Reads an A-ASSOCIATE-RQ.

    Args:
        data: What follows the length of the PDU.

    Raises:
        EndedError: If it cannot be read.
    """
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(bytes((Pdu.ASSOCIATE_RQ, 0)) + len(data).to_bytes(4, "big") + data)
        primitive = pdu.to_primitive()
        most = int(primitive.maximum_length_received or 0)
    except Exception as error:  # pynetdicom raises any
        raise EndedError("a request for an association cannot be read", abort=6) from error
    rejection = None
    if not pdu.protocol_version & 1:
        rejection = _VERSION
    elif primitive.application_context_name != APPLICATION_CONTEXT:
        rejection = _CONTEXT_NAME
    return Request(pdu.calling_ae_title.strip(), pdu.called_ae_title.strip(), primitive, rejection, most)


def is_known_address(address: str, peers: Sequence[Peer]) -> bool:
    """Returns whether any allowed peer may come from an address."""
    return not peers or any(_has_address(peer, address) for peer in peers)


def is_known_peer(title: str, address: str, peers: Sequence[Peer]) -> bool:
    """Returns whether a peer is allowed, by its title and its address."""
    return not peers or any(peer.ae_title == title and _has_address(peer, address) for peer in peers)


def _has_address(peer: Peer, address: str) -> bool:
    if not peer.addresses:
        return True
    try:
        own = ip_address(address)
    except ValueError:  # a peer without one, such as of a Unix socket
        return False
    mapped = getattr(own, "ipv4_mapped", None) or own  # an IPv4 peer of a socket for both
    return any(mapped in ip_network(each, strict=False) for each in peer.addresses)


def write_acceptance(request: Request) -> tuple[bytes, dict[int, Context]]:
    """Returns the A-ASSOCIATE-AC, and the presentation contexts that are accepted by their numbers.

    Raises:
        EndedError: If the contexts of the request cannot be read.
    """
    try:
        asked = request.primitive.presentation_context_definition_list
        roles: dict[UID, tuple[bool | None, bool | None]] = {
            UID(str(each.sop_class_uid)): (bool(each.scu_role), bool(each.scp_role))
            for each in request.primitive.user_information
            if isinstance(each, SCP_SCU_RoleSelectionNegotiation)
        }
        found, taken = negotiate_as_acceptor(asked, list(make_contexts()), roles)
        accepted = {
            each.context_id or 0: Context(str(each.abstract_syntax), str(each.transfer_syntax[0]))
            for each in found
            if each.result == 0
        }
        answer = A_ASSOCIATE()
        answer.application_context_name = APPLICATION_CONTEXT
        answer.calling_ae_title = request.primitive.calling_ae_title
        answer.called_ae_title = request.primitive.called_ae_title
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = found
        answer.user_information = [*_describe_self(), *taken]
        return bytes(A_ASSOCIATE_AC(answer).encode()), accepted
    except Exception as error:  # pynetdicom raises any
        raise EndedError("the presentation contexts of a request cannot be read", abort=6) from error


def _describe_self() -> list[Any]:
    length, uid, name = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = MOST_PDU
    uid.implementation_class_uid = IMPLEMENTATION_UID
    name.implementation_version_name = IMPLEMENTATION_NAME
    return [length, uid, name]


def write_rejection(rejection: tuple[int, int, int]) -> bytes:
    """Returns the A-ASSOCIATE-RJ."""
    answer = A_ASSOCIATE()
    answer.result, answer.result_source, answer.diagnostic = rejection
    return bytes(A_ASSOCIATE_RJ(answer).encode())
