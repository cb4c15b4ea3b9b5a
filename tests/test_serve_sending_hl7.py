"""Answers by HL7 reach their nodes over MLLP, and odd patients do not break the messages."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import hl7
import pytest
from answers import WAIT, Desk
from pydicom import dcmread
from pydicom.dataset import Dataset
from results import make_refused, make_result

from ich.outputs.records import read_json
from ich.serve.results import ResultFiles
from ich.serve.sending.bundle import make_bundle
from ich.serve.sending.delivery import NotTaken
from ich.serve.sending.oru import make_message
from ich.serve.settings.parts import Node
from ich.serve.states import SendState

NOW = datetime(2026, 11, 30, 4, 30, tzinfo=UTC)


@dataclass
class System:
    """An HL7 node that keeps messages and acknowledges them as the test says."""

    answer: Callable[[str], bytes]
    got: list[str] = field(default_factory=list)


def acknowledge(code: str, of: str | None = None) -> Callable[[str], bytes]:
    def answer(message: str) -> bytes:
        control = of or str(hl7.parse(message).segment("MSH")[10])
        return (
            b"\x0b" + f"MSH|^~\\&|A|B|ICH|ICH|1||ACK|1|P|2.5.1\rMSA|{code}|{control}\r".encode() + b"\x1c\r"
        )

    return answer


@contextmanager
def serving(system: System) -> Iterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(system, server))
        thread.start()
        yield Node("ris", "hl7", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join(WAIT)


def _serve(system: System, server: socket.socket) -> None:
    server.settimeout(WAIT)
    peer, _ = server.accept()
    with peer:
        peer.settimeout(WAIT)
        content = b""
        while not content.endswith(b"\x1c\r"):
            content += peer.recv(1 << 16)
        system.got.append(content[1:-2].decode())
        peer.sendall(system.answer(system.got[-1]))


def test_a_node_gets_the_result_and_accepts_it(open_desk: Callable[..., Desk], written: ResultFiles) -> None:
    system = System(acknowledge("AA"))
    with serving(system) as node:
        desk = open_desk(node)
        assert desk.send() == (SendState.CONFIRMED, "")
    message = hl7.parse(system.got[0])
    header, result = dcmread(written.report), read_json(written.result)
    assert str(message["PID"][0][3]) == header.PatientID
    assert str(message["PID"][0][5]).replace("^", "") == str(header.PatientName).replace("^", "")
    assert str(message["OBR"][0][4]) == "24725-4^Head CT^LN"
    assert str(message["OBR"][0][25]) == "P"
    said = [(str(obx[2]), str(obx[3]), str(obx[4]), str(obx[5]), str(obx[11])) for obx in message["OBX"]]
    assert said[0] == ("HD", "110180^Study Instance UID^DCM", "", result.StudyInstanceUID, "O")
    assert ("CWE", "OUTCOME^Outcome of the study^99ICH", "", "10828004^Positive^SCT", "P") in said
    finding = "35486000^Subdural intracranial hemorrhage^SCT"
    assert ("CWE", finding, "subdural", "52101004^Present^SCT", "P") in said
    assert ("NM", "122157^Probability^DCM", "subdural", "0.9100", "P") in said
    assert ("TX", "121106^Comment^DCM", "", "Research use only; not a medical device", "P") in said
    assert [str(obx[1]) for obx in message["OBX"]] == [str(number + 1) for number in range(len(said))]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (acknowledge("AE"), "the acknowledgment is AE"),
        (acknowledge("AR"), "the acknowledgment is AR"),
        (acknowledge("CA"), "the acknowledgment is CA"),
        (acknowledge("Doe^John"), "the acknowledgment is an unknown code"),
        (acknowledge("AA", "other"), "the acknowledgment is AA of another message"),
        (lambda _: b"\x0bMSH|^~\\&|A\r\x1c\r", "the answer is not an acknowledgment"),
        (lambda _: b"hello\x1c\r", "the answer is not HL7"),
        (lambda _: b"\x0bhello\x1c\r", "the answer is not HL7"),
        (lambda _: b"", "the answer is not HL7"),
    ],
)
def test_only_aa_for_this_message_counts(
    open_desk: Callable[..., Desk], answer: Callable[[str], bytes], error: str
) -> None:
    system = System(answer)
    with serving(system) as node:
        desk = open_desk(node)
        assert desk.send() == (SendState.WAITING, error)
    system.answer, desk.now = acknowledge("AA"), desk.now + 100
    with socket.create_server(("127.0.0.1", int(node.address.partition(":")[2]))) as server:
        thread = threading.Thread(target=_serve, args=(system, server))
        thread.start()
        assert desk.send() == (SendState.CONFIRMED, "")
        thread.join(WAIT)
    first, second = (str(hl7.parse(message).segment("MSH")[10]) for message in system.got)
    assert first == second  # so that the node can tell
    assert len(first) == 20


def make_header(**values: str) -> Dataset:
    header = Dataset()
    for keyword, value in {"PatientID": "P0", **values}.items():
        setattr(header, keyword, value)
    return header


def test_odd_names_do_not_break_a_message() -> None:
    header = make_header(
        PatientID=r"A|B^C\D&E~F",
        PatientName="Yamada^Tarou^M^Dr^Jr=山田^太郎",
        IssuerOfPatientID="Clinic|1",
        StudyDate="20260102",
        StudyTime="030405.678",
        AccessionNumber="7\rOBX|9",
    )
    text = make_message(make_result(), header, facility="ICH", identifier="1", now=NOW)
    message = hl7.parse(text)
    pid = message.segment("PID")
    assert message.unescape(str(pid[3][0][0])) == r"A|B^C\D&E~F"
    assert message.unescape(str(pid[3][0][3])) == "Clinic|1"
    assert str(pid[5]) == "Yamada^Tarou^M^Jr^Dr"
    assert str(message.segment("OBR")[7]) == "20260102030405"
    assert message.unescape(str(message.segment("OBR")[18])) == "7 OBX|9"
    assert {str(segment[0]) for segment in message} == {"MSH", "PID", "OBR", "OBX"}
    only = make_message(
        make_result(), make_header(PatientName="=山田^太郎"), facility="ICH", identifier="1", now=NOW
    )
    assert str(hl7.parse(only).segment("PID")[5]) == "山田^太郎"


@pytest.mark.parametrize("make", ["oru", "bundle"])
def test_nothing_is_said_of_nobody(make: str) -> None:
    def write(result: object, header: Dataset) -> object:
        if make == "oru":
            return make_message(result, header, facility="ICH", identifier="1", now=NOW)
        return make_bundle(result, header, NOW)

    with pytest.raises(NotTaken, match="the study has no PatientID") as raised:
        write(make_result(), make_header(PatientID=" "))
    assert raised.value.for_good
    with pytest.raises(NotTaken, match="the study could not be read"):
        write(make_refused(), make_header())


def test_a_reading_without_a_report_names_nobody(
    open_desk: Callable[..., Desk], written: ResultFiles
) -> None:
    desk = open_desk(Node("ris", "hl7", "127.0.0.1:1"))
    next(desk.settings.results.rglob("report.dcm")).unlink()
    assert desk.send() == (SendState.FAILED, "the reading has no DICOM report that names the patient")


def test_labels_without_a_code_and_undecided_ones_are_said_too() -> None:
    message = hl7.parse(
        make_message(
            make_result(present=(), decided=False), make_header(), facility="ICH", identifier="1", now=NOW
        )
    )
    said = [(str(obx[3]), str(obx[4]), str(obx[5])) for obx in message["OBX"]]
    assert ("OUTCOME^Outcome of the study^99ICH", "", "82334004^Indeterminate^SCT") in said
    assert [value for name, label, value in said if label == "epidural"] == ["0.0300"]  # no decision on it
    assert any("the model carries no operating point" in value for _, _, value in said)
