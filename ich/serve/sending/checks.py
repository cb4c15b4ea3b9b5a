"""What can be said of the nodes before the service starts."""

from __future__ import annotations

import importlib.util
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from ich.schema import UserError
from ich.serve.sending.addresses import check_url, split_address
from ich.serve.sending.posting import read_secret
from ich.serve.sending.tls import make_context
from ich.serve.sending.webhook import read_key
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node, Receive

_LOGGER = logging.getLogger(__name__)


def check(settings: Settings) -> None:
    """Checks the nodes, without a connection to any.

    Raises:
        UserError: If two share a name, or one has an address, certificate or secret that cannot work.
    """
    names = Counter(node.name for node in settings.send)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"send: name={twice[0]} is given twice; each node needs its own")
    for node in settings.send:
        _KINDS[node.kind](node)
        _check_tls(node)
        _look_up(node)
        if node.commitment:
            _check_commitment(node, settings.receive)


def _check_dicom(node: Node) -> None:
    split_address(node)
    if node.ae_title is None:
        raise UserError(f"send: {node.name} of kind=dicom needs ae_title")


def _check_commitment(node: Node, receive: Receive) -> None:
    if node.kind != "dicom":
        raise UserError(f"send: commitment of {node.name}; only a node of kind=dicom can be asked for it")
    if receive.peers and node.ae_title not in {peer.ae_title for peer in receive.peers}:
        _LOGGER.warning(
            "send: %s is asked for commitment, but receive.peers lacks %s; its report would be refused on an "
            "association of its own",
            node.name,
            node.ae_title,
        )


def _check_hl7(node: Node) -> None:
    split_address(node)
    if importlib.util.find_spec("hl7") is None:
        raise UserError(f"send: {node.name} of kind=hl7 needs pip install 'ich[hl7]'")


def _check_web(node: Node) -> None:
    check_url(node)
    if node.secret_file is not None:
        read_secret(node.secret_file)


def _check_webhook(node: Node) -> None:
    check_url(node)
    if node.secret_file is None:
        raise UserError(f"send: {node.name} of kind=webhook needs secret_file, which signs its messages")
    read_key(node.secret_file)


def _check_tls(node: Node) -> None:
    if node.tls is None:
        return
    try:
        make_context(node.tls)
    except ssl.SSLError as error:
        raise UserError(
            f"send: tls of {node.name}: certificate={node.tls.certificate}, key={node.tls.key} and "
            f"authority={node.tls.authority} do not fit together: {error.reason or error}"
        ) from error
    except ValueError as error:
        raise UserError(f"send: key={node.tls.key} of {node.name}: {error}") from error
    except OSError as error:
        raise UserError(f"send: tls of {node.name}: a file cannot be read: {error.strerror}") from error


def _look_up(node: Node) -> None:
    """Warns of a host that is not known now. It may be known later, so this prevents nothing."""
    host = split_address(node)[0] if node.kind in ("dicom", "hl7") else check_url(node)
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        _LOGGER.warning("send: the host %s of %s is not known now; answers to it wait", host, node.name)


_KINDS: dict[str, Callable[[Node], None]] = {
    "dicom": _check_dicom,
    "hl7": _check_hl7,
    "stow": _check_web,
    "fhir": _check_web,
    "webhook": _check_webhook,
}
