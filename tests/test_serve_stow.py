"""STOW-RS takes objects as C-STORE does, and says of each what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydicom import uid
from receiving import ask, list_inbox, make_object, make_receive_settings, wait_for
from slices import to_bytes

from ich.serve.inbox import Inbox
from ich.serve.receive.stow import make_router
from ich.serve.settings import Settings
from ich.serve.store import open_store

pytestmark = pytest.mark.races

HEADERS = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=XX'}
Door = tuple[Settings, TestClient]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    yield from open_door(tmp_path)


def open_door(folder: Path, **changes: Any) -> Iterator[Door]:
    settings = make_receive_settings(folder / "service", **changes)
    store = open_store(settings.store)
    app = FastAPI()
    app.include_router(make_router(settings, store))
    with TestClient(app, client=("127.0.0.1", 9)) as client:
        yield settings, client
    store.close()


def join(*parts: bytes) -> bytes:
    begin = b"--XX\r\nContent-Type: application/dicom\r\n\r\n"
    return b"".join(begin + part + b"\r\n" for part in parts) + b"--XX--\r\n"


def post(client: TestClient, body: bytes, path: str = "/studies") -> Any:
    pieces = (body[at : at + 997] for at in range(0, len(body), 997))
    return client.post(path, content=pieces, headers=HEADERS)


def test_all_some_and_none_are_answered_apart(door: Door) -> None:
    settings, client = door
    good = [to_bytes(make_object(1, number)) for number in (1, 2)]
    bad = to_bytes(make_object(1, 3, StudyInstanceUID="../x"))
    answer = post(client, join(*good))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.json() == {
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": [uid.CTImageStorage]},
                    "00081155": {"vr": "UI", "Value": [f"2.25.1.1.{number}"]},
                }
                for number in (1, 2)
            ],
        }
    }
    answer = post(client, join(good[0], bad, b"no DICOM"))
    assert answer.status_code == 202
    found = answer.json()
    assert [item["00081155"]["Value"] for item in found["00081199"]["Value"]] == [["2.25.1.1.1"]]
    assert found["00081198"]["Value"][0]["00081155"]["Value"] == ["2.25.1.1.3"]
    assert found["00081198"]["Value"][0]["00081197"]["Value"] == [0xC000]
    assert found["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
    assert post(client, join(bad)).status_code == 409
    assert {path for (path,) in ask(settings, "SELECT path FROM objects")} == list_inbox(settings)
    still_open = "SELECT count(*) FROM associations WHERE closed_at IS NULL"
    assert wait_for(lambda: ask(settings, still_open) == [(0,)])


def test_a_study_in_the_address_must_be_that_of_the_objects(door: Door) -> None:
    settings, client = door
    body = join(to_bytes(make_object(1, 1)))
    assert post(client, body, "/studies/2.25.2").status_code == 409
    assert list_inbox(settings) == set()
    assert post(client, body, "/studies/2.25.1").status_code == 200
    assert post(client, body, "/studies/x").status_code == 400


def test_a_full_disk_asks_to_come_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = door
    body = join(to_bytes(make_object(1, 1)))
    with monkeypatch.context() as patch:
        patch.setattr(Inbox, "measure_free_bytes", lambda _: 0)
        answer = post(client, body)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xA700]
    assert post(client, body).status_code == 200


@pytest.mark.parametrize("body", [b"", b"--XX\r\n\r\nabc", b"nonsense", join(bytes(200))[:-9]])
def test_a_body_that_is_cut_off_is_refused(door: Door, body: bytes) -> None:
    settings, client = door
    assert post(client, body).status_code == 400
    assert list_inbox(settings) == set()


def test_other_bodies_and_strangers_are_refused(door: Door, tmp_path: Path) -> None:
    _, client = door
    for kind in ("application/dicom", 'multipart/related; type="text/xml"; boundary=XX', "multipart/related"):
        assert client.post("/studies", content=b"", headers={"Content-Type": kind}).status_code == 415
    peers = [{"ae_title": "CT1", "addresses": ["192.0.2.1"]}]
    for _, other in open_door(tmp_path / "other", peers=peers):
        assert post(other, join(b"x")).status_code == 403


def test_limits_hold_while_a_body_comes(tmp_path: Path) -> None:
    for settings, client in open_door(tmp_path, most_object_mb=1, most_objects=2):
        large = to_bytes(make_object(1, 1, RedPaletteColorLookupTableData=bytes(1_500_000)))
        huge = to_bytes(make_object(1, 1, RedPaletteColorLookupTableData=bytes(3_000_000)))
        answer = post(client, join(large, to_bytes(make_object(1, 2))))
        assert answer.status_code == 202
        assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC001]
        assert post(client, join(huge)).status_code == 400
        assert post(client, join(b"a", b"b", b"c")).status_code == 400
        assert len(list_inbox(settings)) == 1
