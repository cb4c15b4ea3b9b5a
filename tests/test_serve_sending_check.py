"""What is said of wrong nodes before the service starts."""

from __future__ import annotations

import base64
import logging
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ich.schema import UserError
from ich.serve.sending import check
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node, Peer, Receive, Tls

PACS = Node("pacs", "dicom", "127.0.0.1:104", ae_title="PACS")
HOOK = Node("hook", "webhook", "https://127.0.0.1/in")


def say(*nodes: Node) -> str:
    with pytest.raises(UserError) as raised:
        check(Settings(bundle="", folder="", send=nodes))
    return str(raised.value)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], str]:
    def write_one(content: bytes) -> str:
        (tmp_path / "secret").write_bytes(content)
        return str(tmp_path / "secret")

    return write_one


def test_right_nodes_pass(write: Callable[[bytes], str], caplog: pytest.LogCaptureFixture) -> None:
    secret = write(base64.b64encode(b"a" * 32))
    hook = replace(HOOK, secret_file=secret)
    others = [Node(kind, kind, "http://127.0.0.1:8042/x", secret_file=secret) for kind in ("stow", "fhir")]
    check(Settings(bundle="", folder="", send=(PACS, hook, *others, Node("ris", "hl7", "[::1]:2575"))))
    assert not caplog.records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "127.0.0.1"}, r"send: address=127.0.0.1 of pacs; expected HOST:PORT"),
        ({"address": "127.0.0.1:0"}, "expected HOST:PORT"),
        ({"address": ":104"}, "expected HOST:PORT"),
        ({"address": "https://pacs:104"}, "expected HOST:PORT"),
        ({"ae_title": None}, "send: pacs of kind=dicom needs ae_title"),
        ({"kind": "stow", "address": "127.0.0.1:80"}, "send: address of pacs; expected a URL"),
        ({"kind": "fhir", "address": "http://me:secret@127.0.0.1/"}, "without a name and password"),
        ({"kind": "fhir", "address": "http://127.0.0.1:x/"}, "expected a URL"),
        (
            {"kind": "stow", "address": "http://127.0.0.1/", "commitment": True},
            "send: commitment of pacs; only a node of kind=dicom",
        ),
        (
            {"kind": "stow", "address": "http://127.0.0.1/", "secret_file": "/nowhere"},
            "send: secret_file=/nowhere cannot be read: No such file",
        ),
        ({"tls": Tls("/nowhere", "/nowhere")}, "send: tls of pacs: a file cannot be read: No such file"),
    ],
)
def test_wrong_nodes_are_named(changes: dict[str, Any], message: str) -> None:
    said = say(replace(PACS, **changes))
    assert message in said
    assert "secret@" not in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold one line with the secret"),
        (b"a\nb", "must hold one line with the secret"),
        ("\N{GREEK SMALL LETTER ALPHA}".encode(), "other characters than those of ASCII"),
        (base64.b64encode(b"short"), "expected the Base64 of 24 bytes or more, such as `openssl rand"),
        (b"not base 64 but long enough to be one!", "expected the Base64 of 24 bytes"),
    ],
)
def test_wrong_secrets_are_named(write: Callable[[bytes], str], content: bytes, message: str) -> None:
    assert message in say(replace(HOOK, secret_file=write(content)))


def test_a_webhook_needs_a_secret_and_a_name_is_there_once() -> None:
    assert say(HOOK) == "send: hook of kind=webhook needs secret_file, which signs its messages"
    assert say(PACS, PACS) == "send: name=pacs is given twice; each node needs its own"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_and_a_key_that_do_not_match(tmp_path: Path) -> None:
    for name in ("one", "two"):
        files = ["-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem"]
        how = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"]
        subprocess.run([*how, *files], check=True, capture_output=True)
    one, two = str(tmp_path / "one.pem"), str(tmp_path / "two.key")
    locked = ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", two, "-out", tmp_path / "locked.key"]
    subprocess.run(locked, check=True, capture_output=True)
    said = say(replace(PACS, tls=Tls(str(tmp_path / "two.pem"), str(tmp_path / "locked.key"))))
    assert "a password protects the key; give a key without one" in said
    assert "do not fit together: KEY_VALUES_MISMATCH" in say(replace(PACS, tls=Tls(one, two)))
    check(Settings(bundle="", folder="", send=(replace(PACS, tls=Tls(one, str(tmp_path / "one.key"))),)))


def test_a_node_whose_report_would_be_refused_is_a_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    node = replace(PACS, commitment=True)
    check(Settings(bundle="", folder="", send=(node,), receive=Receive(peers=(Peer("PACS"),))))
    assert not caplog.records
    check(Settings(bundle="", folder="", send=(node,), receive=Receive(peers=(Peer("CT1"),))))
    assert "receive.peers lacks PACS" in caplog.text


def test_an_unknown_host_is_a_warning_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check(Settings(bundle="", folder="", send=(replace(PACS, address="pacs.invalid:104"),)))
    assert "the host pacs.invalid of pacs is not known now" in caplog.text
