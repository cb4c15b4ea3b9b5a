"""What a sender sends is on the disk and in the database before it hears that it was taken."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import uid
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from receiving import (
    ECHO,
    Start,
    ask,
    associate,
    echo,
    list_inbox,
    make_object,
    send,
    wait_for,
)
from slices import to_bytes
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ich.dicom import read_pixels
from ich.serve.receive.syntaxes import SYNTAXES
from ich.serve.store import open_store
from ich.serve.store.studies import queue_complete

pytestmark = pytest.mark.races

MISMATCH, NOT_UNDERSTOOD = 0xA900, 0xC000


def test_what_was_sent_is_on_the_disk_and_in_the_database(start: Start) -> None:
    settings = start()
    sent = [make_object(study, number) for study in (1, 2) for number in range(1, 4)]
    assert send(settings.receive.port, sent) == [0] * 6
    rows = ask(settings, "SELECT path, digest, bytes, SOPInstanceUID, SeriesInstanceUID, syntax FROM objects")
    assert {row[0] for row in rows} == list_inbox(settings)
    for (path, digest, size, *names), ds in zip(rows, sent, strict=True):
        file = settings.inbox / path
        found = pydicom.dcmread(file)
        assert found == ds
        assert names == [ds.SOPInstanceUID, ds.SeriesInstanceUID, found.file_meta.TransferSyntaxUID]
        content = file.read_bytes()
        assert size == len(content)
        meta = 144 + found.file_meta.FileMetaInformationGroupLength
        assert digest == hashlib.sha256(content[meta:]).hexdigest()
        assert read_pixels(file)[0].tobytes() == ds.PixelData
    assert ask(settings, "SELECT StudyInstanceUID, objects, state FROM studies") == [
        ("2.25.1", 3, "receiving"),
        ("2.25.2", 3, "receiving"),
    ]


def test_the_order_is_write_flush_name_flush_commit_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = start()
    assert send(settings.receive.port, [make_object(1, 1)]) == [0]  # makes the folders and the study
    order: list[str] = []
    fsync = os.fsync

    def note_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_file():
            found = pydicom.dcmread(path)  # its content is there
            order.append(f"fsync of the file {found.SOPInstanceUID}")
        elif path != settings.inbox:  # a new folder
            named = [file for file in path.iterdir() if pydicom.dcmread(file).InstanceNumber == 2]
            order.append(f"fsync of the folder with {len(named)} file")
        fsync(descriptor)

    def note_commit(_: Any) -> None:
        order.append("commit")

    association = associate(settings.receive.port)
    monkeypatch.setattr(os, "fsync", note_fsync)
    event.listen(Engine, "commit", note_commit)
    try:
        assert association.send_c_store(make_object(1, 2)).Status == 0
        order.append("answer")
        rows = ask(settings, "SELECT SOPInstanceUID FROM objects")
    finally:
        event.remove(Engine, "commit", note_commit)
        monkeypatch.undo()
        association.release()
    assert order == ["fsync of the file 2.25.1.1.2", "fsync of the folder with 1 file", "commit", "answer"]
    assert rows == [("2.25.1.1.1",), ("2.25.1.1.2",)]


def test_the_same_object_twice_is_one_and_another_content_is_kept_apart(start: Start) -> None:
    settings = start()
    other = make_object(1, 1, RescaleIntercept=-1024.0)
    assert send(settings.receive.port, [make_object(), make_object(), other, other]) == [0] * 4
    ((path,),) = ask(settings, "SELECT path FROM objects")
    ((apart, number),) = ask(settings, "SELECT path, object_id FROM conflicts")
    assert number == 1
    assert list_inbox(settings) == {path, apart}
    assert pydicom.dcmread(settings.inbox / path).RescaleIntercept == -24
    assert pydicom.dcmread(settings.inbox / apart).RescaleIntercept == -1024
    token = ask(settings, "SELECT token FROM studies")[0]
    named = wait_for(lambda: ask(settings, "SELECT study FROM events WHERE kind = 'conflict'"))
    assert named == [token, token]


def test_two_studies_mixed_over_four_associations_are_complete_when_all_have_ended(start: Start) -> None:
    settings = start()
    port, store = settings.receive.port, open_store(settings.store)

    def queue() -> list[tuple[str, int]]:
        with store.begin() as connection:
            queue_complete(connection, time.time() + 3600, quiet=30, longest=900)
        return ask(
            settings,
            "SELECT StudyInstanceUID, objects FROM studies WHERE state = 'queued' ORDER BY StudyInstanceUID",
        )

    def count_open() -> int:
        return int(ask(settings, "SELECT count(*) FROM associations WHERE closed_at IS NULL")[0][0])

    associations = [associate(port) for _ in range(4)]
    given = [make_object(study, number) for number in (5, 3, 1, 6, 2, 4) for study in (2, 1)]
    for turn, ds in enumerate(given):
        assert associations[(turn + turn // 4) % 4].send_c_store(ds).Status == 0
    assert ask(settings, "SELECT count(*) FROM arrivals") == [(8,)]
    while associations:
        assert queue() == []
        associations.pop().release()
        assert wait_for(lambda: count_open() == len(associations))
    assert queue() == [("2.25.1", 6), ("2.25.2", 6)]
    assert send(port, [make_object(1, 7)]) == [0]  # a late slice
    assert wait_for(lambda: count_open() == 0)
    assert ask(settings, "SELECT StudyInstanceUID FROM studies WHERE state = 'receiving'") == [("2.25.1",)]
    assert queue() == [("2.25.1", 7), ("2.25.2", 6)]
    store.close()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_syntax_that_can_be_decoded_is_taken(start: Start, syntax: str) -> None:
    settings = start()
    is_encoder = syntax in (uid.RLELossless, uid.JPEG2000Lossless, uid.JPEGLSLossless)
    plain = syntax if syntax in SYNTAXES[:4] else uid.ExplicitVRLittleEndian
    ds = make_object(syntax=plain)
    if is_encoder:
        ds.compress(syntax, generate_instance_uid=False)
    elif plain != syntax:  # what a codec makes of it is not the receiver's business
        ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = syntax
    assert send(settings.receive.port, [ds], syntax=syntax) == [0]
    assert ask(settings, "SELECT syntax FROM objects") == [(syntax,)]
    (name,) = list_inbox(settings)
    found = pydicom.dcmread(settings.inbox / name)
    assert found.file_meta.TransferSyntaxUID == syntax
    assert found.PixelData == ds.PixelData


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"StudyInstanceUID": None}, NOT_UNDERSTOOD),
        ({"SeriesInstanceUID": ""}, NOT_UNDERSTOOD),
        ({"StudyInstanceUID": "../../../etc/passwd"}, NOT_UNDERSTOOD),
        ({"SeriesInstanceUID": "1.2\\1.3"}, NOT_UNDERSTOOD),
        ({"SOPInstanceUID": "1.2/../../x"}, NOT_UNDERSTOOD),
        ({"SOPInstanceUID": "1." * 32 + "1"}, NOT_UNDERSTOOD),
        ({"StudyInstanceUID": "Marker^Patient"}, NOT_UNDERSTOOD),
        ({"SOPClassUID": uid.MRImageStorage}, MISMATCH),
    ],
)
def test_what_is_not_a_valid_object_is_refused_for_good(
    start: Start, changes: dict[str, Any], status: int
) -> None:
    settings = start()
    association = associate(settings.receive.port)
    data = to_bytes(make_object(**changes))
    assert store_bytes(association, data[data.index(b"\x08\0") :], changes.get("SOPInstanceUID")) == status
    assert association.send_c_store(make_object(1, 2)).Status == 0  # the association still works
    association.release()
    ((path,),) = ask(settings, "SELECT path FROM objects")
    assert list_inbox(settings) == {path}
    ((actor, detail),) = wait_for(
        lambda: ask(settings, "SELECT actor, detail FROM events WHERE kind = 'refused'")
    )
    assert actor == "CT1"
    assert detail.startswith(f"0x{status:04X} ")
    assert not any(part in detail for part in ("2.25", "1.2", "Marker", ".."))


def store_bytes(association: Any, data: bytes, instance: str | None = None) -> int:
    """Sends a data set as it is, which pynetdicom would not."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 0
    request.AffectedSOPClassUID = uid.CTImageStorage
    request.AffectedSOPInstanceUID = "2.25.1.1.1"
    request.DataSet = io.BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    number = next(c.context_id for c in association.accepted_contexts if c.abstract_syntax != ECHO)
    association._reactor_checkpoint.clear()
    with pydicom.config.disable_value_validation():
        if instance is not None:
            del message.command_set.AffectedSOPInstanceUID  # it would keep its validation
            message.command_set.AffectedSOPInstanceUID = instance
        for each in message.encode_msg(number, 16000):
            association.dul.send_pdu(each)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


@pytest.mark.skipif(shutil.which("storescu", path="/usr/bin") is None, reason="needs DCMTK")
def test_dcmtk_sends_and_is_answered(start: Start, tmp_path: Path) -> None:
    settings = start()
    for number in range(1, 6):
        (tmp_path / f"{number}.dcm").write_bytes(to_bytes(make_object(1, number)))
    peer = ["-aec", "ICH", "127.0.0.1", str(settings.receive.port)]
    files = sorted(map(str, tmp_path.glob("*.dcm")))
    for command in (["/usr/bin/echoscu", *peer], ["/usr/bin/storescu", "-R", *peer, *files]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert ask(settings, "SELECT objects FROM studies") == [(5,)]
    assert echo(settings.receive.port)
