"""Answers by HTTP reach their nodes, which are servers of the test on loopback: DICOMweb, webhook, FHIR."""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import hmac
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from answers import Desk, list_uids
from fhir.resources.R4B.bundle import Bundle
from pydicom import dcmread
from test_orthanc import find_port

from ich.outputs.records import read_json
from ich.schema.formats import read_plain
from ich.schema.results import StudyResult
from ich.serve.results import ResultFiles
from ich.serve.settings.parts import Node
from ich.serve.states import SendState

KEY = b"0123456789abcdef0123456789abcdef"
DICOM_JSON = "application/dicom+json"


@dataclass
class Site:
    """A web server that keeps what is posted, and answers as the test says."""

    status: int = 200
    content: Callable[[bytes], bytes] = lambda _: b""
    headers: dict[str, str] = field(default_factory=dict)
    posted: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)


@contextmanager
def serving(site: Site) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            site.posted.append((self.path, dict(self.headers), content))
            answer = site.content(content)
            self.send_response(site.status)
            for name, value in {**site.headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret"
    path.write_text(f"whsec_{base64.b64encode(KEY).decode()}\n")
    return str(path)


def read_parts(headers: Mapping[str, str], content: bytes) -> list[Any]:
    """The data sets of a multipart request, read by another implementation."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + content, policy=email.policy.HTTP)
    return [dcmread(io.BytesIO(part.get_payload(decode=True))) for part in message.iter_parts()]


def answer_stow(stored: list[str], failed: Mapping[str, int]) -> bytes:
    def refer(uid: str, **more: Any) -> dict[str, Any]:
        return {"00081155": {"vr": "UI", "Value": [uid]}, **more}

    found: dict[str, Any] = {"00081199": {"vr": "SQ", "Value": [refer(uid) for uid in stored]}}
    if failed:
        reasons = {uid: {"00081197": {"vr": "US", "Value": [reason]}} for uid, reason in failed.items()}
        found["00081198"] = {"vr": "SQ", "Value": [refer(uid, **reason) for uid, reason in reasons.items()]}
    return json.dumps(found).encode()


def test_a_dicomweb_node_gets_all_objects(
    open_desk: Callable[..., Desk], written: ResultFiles, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("abc.def\n")
    site = Site(content=lambda _: answer_stow(list_uids(written), {}))
    with serving(site) as url:
        node = Node("web", "stow", f"{url}/dicom-web/", secret_file=str(tmp_path / "token"))
        assert open_desk(node).send() == (SendState.CONFIRMED, "")
    ((path, headers, content),) = site.posted
    assert path == "/dicom-web/studies"
    assert headers["Authorization"] == "Bearer abc.def"
    assert headers["Accept"] == DICOM_JSON
    assert [part.SOPInstanceUID for part in read_parts(headers, content)] == list_uids(written)


@pytest.mark.parametrize(
    ("status", "stored", "failed", "error"),
    [
        (200, 4, {}, ""),
        (202, 4, {}, ""),  # stored with warnings
        (202, 3, {3: 0xB00E}, ""),  # the node has it already
        (202, 3, {3: 0xA700}, "1 of 4 objects failed, the first with 0xA700"),
        (200, 3, {3: 0x0110}, "1 of 4 objects failed, the first with 0x0110"),
        (202, 3, {}, "the answer lacks 1 of 4 objects"),
        (409, 0, {0: 0xC000}, "HTTP status 409"),
        (503, 0, {}, "HTTP status 503"),
    ],
)
def test_what_a_dicomweb_node_says_of_each_object_counts(
    open_desk: Callable[..., Desk],
    written: ResultFiles,
    status: int,
    stored: int,
    failed: dict[int, int],
    error: str,
) -> None:
    uids = list_uids(written)
    reasons = {uids[place]: reason for place, reason in failed.items()}
    site = Site(status, lambda _: answer_stow(uids[:stored], reasons))
    with serving(site) as url:
        state, said = open_desk(Node("web", "stow", url)).send()
    assert (state, said) == (SendState.WAITING if error else SendState.CONFIRMED, error)


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (200, b"", ""),
        (200, b"<xml/>", "HTTP status 200 with an answer that is not DICOM JSON"),
        (202, b"", "HTTP status 202 with an answer that is not DICOM JSON"),
        (200, b'{"00081199": 1}', "HTTP status 200 with an answer that is not DICOM JSON"),
        (200, b" " * (5 << 20), "the answer is too long"),
        (302, b"", "HTTP status 302"),
    ],
)
def test_odd_answers_of_a_dicomweb_node(
    open_desk: Callable[..., Desk], status: int, content: bytes, error: str
) -> None:
    with serving(Site(status, lambda _: content, {"Location": "/elsewhere"})) as url:
        state, said = open_desk(Node("web", "stow", url)).send()
    assert (state, said) == (SendState.WAITING if error else SendState.CONFIRMED, error)


@pytest.mark.parametrize("shows", [False, True])
def test_a_webhook_gets_the_result_signed(
    open_desk: Callable[..., Desk], written: ResultFiles, secret: str, shows: bool
) -> None:
    site = Site(204)
    with serving(site) as url:
        desk = open_desk(Node("hook", "webhook", f"{url}/in?x=1", secret_file=secret, shows_identity=shows))
        assert desk.send() == (SendState.CONFIRMED, "")
    ((path, headers, content),) = site.posted
    assert path == "/in?x=1"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    digest = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    message = json.loads(content)
    assert message["type"] == "study.result"
    assert message["data"]["study"] == f"{1:032x}"
    sent, result = read_plain(StudyResult, message["data"]["result"], "message"), read_json(written.result)
    assert sent == (result if shows else replace(result, PatientID=""))
    assert (result.PatientID.encode() in content) == shows


@pytest.mark.parametrize("status", [301, 307, 400, 500])
def test_a_webhook_counts_with_2xx_only_and_redirects_are_not_followed(
    open_desk: Callable[..., Desk], secret: str, status: int
) -> None:
    site = Site(status, headers={"Location": "/elsewhere"})
    with serving(site) as url:
        desk = open_desk(Node("hook", "webhook", url, secret_file=secret))
        assert desk.send() == (SendState.WAITING, f"HTTP status {status}")
        site.status, desk.now = 200, desk.now + 100
        assert desk.send() == (SendState.CONFIRMED, "")
    first, second = (headers["webhook-id"] for _, headers, _ in site.posted)
    assert first == second  # so that the node can tell


def test_a_web_node_that_is_away_is_named(open_desk: Callable[..., Desk], secret: str) -> None:
    desk = open_desk(Node("hook", "webhook", f"http://127.0.0.1:{find_port()}", secret_file=secret))
    assert desk.send() == (SendState.WAITING, "no connection")
    Path(secret).unlink()
    desk.now += 100
    state, error = desk.send()
    assert state == SendState.WAITING
    assert "cannot be read: No such file" in error


def answer_fhir(status: str) -> Callable[[bytes], bytes]:
    def answer(posted: bytes) -> bytes:
        entries = [{"response": {"status": status}} for _ in json.loads(posted)["entry"]]
        found = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
        return json.dumps(found).encode()

    return answer


def test_a_fhir_server_gets_a_valid_transaction(open_desk: Callable[..., Desk], written: ResultFiles) -> None:
    site = Site(content=answer_fhir("201 Created"))
    with serving(site) as url:
        desk = open_desk(Node("fhir", "fhir", f"{url}/base"))
        assert desk.send() == (SendState.CONFIRMED, "")
    ((path, headers, content),) = site.posted
    assert (path, headers["Content-Type"]) == ("/base", "application/fhir+json")
    bundle = Bundle.model_validate_json(content)
    report, *observations = (entry.resource for entry in bundle.entry)
    header, result = dcmread(written.report), read_json(written.result)
    assert report.get_resource_type() == "DiagnosticReport"
    assert report.subject.identifier.value == header.PatientID
    assert report.imagingStudy[0].identifier.value == f"urn:oid:{result.StudyInstanceUID}"
    assert report.status == "preliminary"
    assert [each.reference for each in report.result] == [entry.fullUrl for entry in bundle.entry[1:]]
    assert observations[0].valueCodeableConcept.coding[0].display == "Positive"
    said = {each.code.text: each for each in observations[1:]}
    assert set(said) == set(result.labels)
    assert said["subdural"].code.coding[0].code == "35486000"
    assert said["subdural"].valueCodeableConcept.coding[0].code == "52101004"
    assert float(said["subdural"].component[0].valueQuantity.value) == result.labels["subdural"].prob
    for entry in bundle.entry:  # a second attempt changes the same resources
        assert entry.request.method == "PUT"
        assert entry.request.url.endswith(f"identifier=urn:ietf:rfc:3986|{entry.fullUrl}")
        assert entry.resource.identifier[0].value == entry.fullUrl
    name = str(header.PatientName).partition("^")[0]
    assert name.encode() not in content


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (answer_fhir("412 Precondition Failed"), "8 of 8 resources were not taken"),
        (lambda _: b'{"resourceType": "OperationOutcome"}', "the answer is not a transaction-response"),
        (lambda _: b"ok", "the answer is not JSON"),
    ],
)
def test_a_fhir_server_must_take_all(
    open_desk: Callable[..., Desk], content: Callable[[bytes], bytes], error: str
) -> None:
    with serving(Site(content=content)) as url:
        assert open_desk(Node("fhir", "fhir", url)).send() == (SendState.WAITING, error)
