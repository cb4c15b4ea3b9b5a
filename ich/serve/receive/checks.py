"""Faults of the settings that are found before anything listens."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

from ich.schema import UserError
from ich.serve.inbox import Inbox
from ich.serve.receive.server import listen
from ich.serve.settings import Settings
from ich.serve.tls import make_context


def check(settings: Settings) -> None:
    """Checks what can be wrong with the settings of receiving.

    Raises:
        UserError: If the folder cannot be written or its disk is full, an address of a peer is not one, a
            watched folder cannot be read, the files of the encryption do not fit, or nothing can listen.
    """
    _check_inbox(settings)
    for peer in settings.receive.peers:
        for address in peer.addresses:
            _check_address(peer.ae_title, address)
    for folder in settings.receive.folders:
        if not Path(folder).is_dir() or not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(f"receive.folders: {folder} is not a folder that can be read")
    if settings.receive.tls is not None:
        make_context(settings.receive.tls, "receive.tls")
    listen(settings.receive).close()


def _check_inbox(settings: Settings) -> None:
    try:
        inbox = Inbox(settings.inbox)
        inbox.remove(inbox.keep(b"", (b"probe",)).path)
        free = inbox.measure_free_bytes() / 1e9
    except OSError as error:
        raise UserError(f"folder={settings.folder} cannot be written: {error.strerror}") from error
    if free < (least := settings.receive.least_free_gb):
        raise UserError(
            f"folder={settings.folder} has {free:.1f} GB of room, and receive.least_free_gb={least:g}; "
            "make room, or lower receive.least_free_gb"
        )


def _check_address(title: str, address: str) -> None:
    try:
        ip_network(address, strict=False)
    except ValueError as error:
        raise UserError(
            f"receive.peers: {address!r} of {title} is not an IP address or network, such as 10.0.0.0/8"
        ) from error
