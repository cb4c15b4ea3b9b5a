"""Answers in a real Orthanc: it stores each once, and commits itself on an association of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from answers import Desk, list_uids
from pynetdicom import AE, evt
from test_orthanc import OPENER, ORTHANC, await_answer, find_port

from ich.serve.results import ResultFiles
from ich.serve.sending.commitment import Reports, make_report_context
from ich.serve.settings.parts import Node
from ich.serve.states import SendState

pytestmark = [
    pytest.mark.races,
    pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed (Debian: orthanc)"),
]

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Orthanc:
    dicom_port: int
    http_port: int
    receiver_port: int

    def ask(self, path: str, posted: bytes | None = None) -> Any:
        with OPENER.open(f"http://127.0.0.1:{self.http_port}{path}", posted, timeout=30) as answer:
            return json.loads(answer.read())

    def list_stored(self) -> list[str]:
        return [each["MainDicomTags"]["SOPInstanceUID"] for each in self.ask("/instances?expand")]


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    home = tmp_path / "orthanc"
    home.mkdir()
    found = Orthanc(find_port(), find_port(), find_port())
    (home / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "ICHTEST",
                "StorageDirectory": str(home / "storage"),
                "IndexDirectory": str(home / "index"),
                "TemporaryDirectory": str(home),
                "HttpPort": found.http_port,
                "DicomPort": found.dicom_port,
                "RemoteAccessAllowed": False,
                "DicomModalities": {
                    "ich": {
                        "AET": "ICH",
                        "Host": "127.0.0.1",
                        "Port": found.receiver_port,
                        "AllowStorageCommitment": True,
                    }
                },
                "DicomWeb": {"Enable": True},
                "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [],
            }
        )
    )
    with (home / "log").open("w") as log:
        command = [str(ORTHANC), "--verbose", str(home / "orthanc.json")]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home)
        try:
            await_answer(found.ask, server, home / "log")
            yield found
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def test_orthanc_stores_and_commits_itself(
    orthanc: Orthanc, open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    desk = open_desk(
        Node("pacs", "dicom", f"127.0.0.1:{orthanc.dicom_port}", ae_title="ORTHANC", commitment=True)
    )
    reports = Reports(desk.settings, desk.store, "receiver-1", lambda: desk.now)
    entity = AE(ae_title="ICH")
    entity.supported_contexts = [make_report_context()]

    def take(event: evt.Event) -> tuple[int, None]:
        return reports.take(event.event_type or 0, event.event_information), None

    address = ("127.0.0.1", orthanc.receiver_port)
    server = entity.start_server(address, block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)])
    try:
        for _ in range(2):  # the second time it forgot, and has everything still once
            assert desk.make_worker().deliver_next()
            desk.await_state(SendState.CONFIRMED)
            assert sorted(orthanc.list_stored()) == sorted(list_uids(written))
            with desk.store.begin() as connection:
                connection.exec_driver_sql("UPDATE sends SET state = 'waiting', next_at = 0")
        assert ("confirmed", "receiver-1", "pacs") in desk.list_events()
    finally:
        server.shutdown()


def test_orthanc_takes_an_answer_by_dicomweb(
    orthanc: Orthanc, open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    if not PLUGIN.exists():
        pytest.skip("the plugin is not installed (Debian: orthanc-dicomweb)")
    desk = open_desk(Node("web", "stow", f"http://127.0.0.1:{orthanc.http_port}/dicom-web"))
    assert desk.send() == (SendState.CONFIRMED, "")
    desk.read()
    assert desk.make_worker().deliver_next()
    assert [kind for kind, *_ in desk.list_events()].count("confirmed") == 2
    assert sorted(orthanc.list_stored()) == sorted(list_uids(written))  # under the same UIDs
