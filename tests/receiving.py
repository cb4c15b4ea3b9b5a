"""Senders and a receiver on loopback."""

from __future__ import annotations

import socket
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydicom import config, uid
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from slices import make_slice

from ich.serve.settings import Settings, make_settings

CT = uid.CTImageStorage
ECHO = "1.2.840.10008.1.1"
Start = Callable[..., Settings]
"""Type of the fixture that starts a receiver with settings."""
GOOD_SECONDS = 30
"""The time in which a test waits for what must happen; hit only if it never does."""


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def make_receive_settings(folder: Path, **changes: Any) -> Settings:
    receive = {"port": find_free_port(), "least_free_gb": 0.001, **changes}
    return make_settings({"bundle": "none", "folder": str(folder), "receive": receive}, "test")


def make_object(
    study: int = 1, number: int = 1, syntax: str = uid.ExplicitVRLittleEndian, **changes: Any
) -> Dataset:
    """A slice with UIDs that a network takes."""
    values = {
        "SOPClassUID": CT,
        "StudyInstanceUID": f"2.25.{study}",
        "SeriesInstanceUID": f"2.25.{study}.1",
        "SOPInstanceUID": f"2.25.{study}.1.{number}",
        "InstanceNumber": number,
        "PatientName": "Marker^Patient",
        **changes,
    }
    ds = make_slice(syntax=syntax, **values)
    with config.disable_value_validation():
        ds.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
        ds.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    return ds


def associate(
    port: int, *, title: str = "ICH", calling: str = "CT1", seconds: float = GOOD_SECONDS, **options: Any
) -> Any:
    """Asks for an association with C-ECHO and the storage of CT; waits for each answer for some seconds."""
    ae = AE(calling)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    ae.add_requested_context(ECHO)
    ae.add_requested_context(CT, options.pop("syntax", uid.ExplicitVRLittleEndian))
    return ae.associate("127.0.0.1", port, ae_title=title, **options)


def find_rejection(port: int, **options: Any) -> tuple[int, int, int]:
    """Asks for an association that is rejected; returns the result, the source and the reason.

    They are those of the PDU that came: pynetdicom takes a rejection for an abort if it comes very fast.
    """
    found: list[tuple[int, int, int]] = []

    def note(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            found.append((event.pdu.result, event.pdu.source, event.pdu.reason_diagnostic))

    association = associate(port, evt_handlers=[(evt.EVT_PDU_RECV, note)], **options)
    assert not association.is_established
    return wait_for(lambda: found)[0]


def send(port: int, objects: Iterable[Dataset], **options: Any) -> list[int]:
    """Sends objects over one association; returns their statuses."""
    association = associate(port, **options)
    assert association.is_established
    statuses = [int(association.send_c_store(each).Status) for each in objects]
    association.release()
    return statuses


def echo(port: int, **options: Any) -> bool:
    """Returns whether C-ECHO succeeds."""
    association = associate(port, **options)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0


def ask(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    """Asks the database of a service."""
    connection = sqlite3.connect(settings.store)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def wait_for(condition: Callable[[], Any]) -> Any:
    """Waits until a condition holds; returns its value."""
    end = time.monotonic() + GOOD_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return found


def list_inbox(settings: Settings) -> set[str]:
    """Lists the files of an inbox."""
    return {str(path.relative_to(settings.inbox)) for path in settings.inbox.rglob("*") if path.is_file()}
