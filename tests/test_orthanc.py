"""A round trip through a real Orthanc, which the test starts for itself on the loopback interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from results import make_result
from test_dicom_outputs import read_series

from ich.outputs.captures import write_key_images
from ich.outputs.sr import write_sr
from ich.phantom import write_phantom

pytestmark = pytest.mark.races

ORTHANC = shutil.which("Orthanc", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # none between here and here
WAIT = 60  # seconds for it to answer, on a machine with other work


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Asks an Orthanc of one's own: a path, and what is posted there."""
    if ORTHANC is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    home, port = tmp_path / "orthanc", find_port()
    home.mkdir()
    (home / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "ICHTEST",
                "StorageDirectory": str(home / "storage"),
                "IndexDirectory": str(home / "index"),
                "TemporaryDirectory": str(home),
                "HttpPort": port,
                "RemoteAccessAllowed": False,
                "DicomServerEnabled": False,
                "OverwriteInstances": True,
                "Plugins": [],
            }
        )
    )

    def ask(path: str, posted: bytes | None = None) -> Any:
        with OPENER.open(f"http://127.0.0.1:{port}{path}", posted, timeout=30) as answer:
            content = answer.read()
            return content if path.endswith("/file") else json.loads(content)

    with (home / "log").open("w") as log:
        command = [ORTHANC, str(home / "orthanc.json")]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=home)
        try:
            await_answer(ask, server, home / "log")
            yield ask
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def await_answer(ask: Callable[..., Any], server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + WAIT
    while server.poll() is None and time.monotonic() < end:
        try:
            ask("/system")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"Orthanc does not answer: {log.read_text()[-2000:]}")


def test_what_is_written_comes_back_whole_and_only_once(orthanc: Callable[..., Any], tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", patients=1, seed=5, size=64, conformant=True)
    series = read_series(tmp_path / "phantom" / "stage_2_train")
    result = make_result(series.index)
    for run in range(2):
        write_sr(result, series.files, tmp_path / "report.dcm")
        written = [tmp_path / "report.dcm", *write_key_images(result, series.files, tmp_path)]
        for path in (*series.files.values(), *written):
            told = orthanc("/instances", path.read_bytes())
            assert told["Status"] == "Success", f"{path.name} in run {run}: {told}"
            assert orthanc(f"/instances/{told['ID']}/file") == path.read_bytes()
        (study,) = orthanc("/studies?expand")  # in the patient's study, and no second one
        assert study["PatientMainDicomTags"]["PatientID"] == result.PatientID
        found = {
            part["MainDicomTags"]["Modality"]: len(part["Instances"]) for part in orthanc("/series?expand")
        }
        assert found == {"CT": len(series.files), "SR": 1, "OT": 3}
