"""Addresses of nodes."""

from __future__ import annotations

from urllib.parse import urlsplit

from ich.schema import UserError
from ich.serve.settings.parts import Node


def split_address(node: Node) -> tuple[str, int]:
    """Splits the address HOST:PORT of a node; an IPv6 host stands in brackets.

    Raises:
        UserError: If it is something else.
    """
    host, colon, port = node.address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535) or "/" in host:
        raise UserError(
            f"send: address={node.address} of {node.name}; expected HOST:PORT, such as pacs.example:104"
        )
    return host, int(port)


def check_url(node: Node) -> str:
    """Checks the URL of a node, and returns its host.

    Raises:
        UserError: If it is not a URL, or holds a password, which messages would show.
    """
    expected = f"send: address of {node.name}; expected a URL that begins with https:// or http://"
    try:
        parts = urlsplit(node.address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{expected}: {error}") from error
    if parts.scheme not in ("https", "http") or not host:
        raise UserError(expected)
    if parts.username is not None:
        raise UserError(f"{expected}, without a name and password; put a token into secret_file")
    return host
