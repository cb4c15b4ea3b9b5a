"""Nodes commit themselves to keep an answer, lose it or forget it; and senders are killed meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess

import pytest
from answers import WAIT, Desk, list_uids
from nodes import COMMITMENT, Archive, commit, send_report, serving
from processes import FORKING
from pynetdicom import AE, build_role
from receiving import find_free_port

from ich.serve.receive import receiving
from ich.serve.results import ResultFiles
from ich.serve.sending import run
from ich.serve.settings import Settings
from ich.serve.states import SendState


@pytest.mark.races
def test_an_archive_that_commits_itself_at_once(open_desk: Callable[..., Desk]) -> None:
    archive = Archive(make_report=commit)
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.CONFIRMED)
    assert len(archive.asked[0].ReferencedSOPSequence) == 4
    assert [kind for kind, *_ in desk.list_events()] == ["sent", "confirmed"]


@pytest.mark.races
def test_an_archive_that_lost_something_gets_it_again(open_desk: Callable[..., Desk]) -> None:
    archive = Archive(make_report=lambda question: commit(question, lost=1))
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.WAITING)
        assert desk.tell()[1] == "the node keeps 3 of 4 objects"
        archive.make_report, desk.now = commit, desk.now + 100
        assert desk.make_worker().deliver_next()
        desk.await_state(SendState.CONFIRMED)
    assert list(archive.stored.values()) == [2] * 4
    first, second = archive.asked
    assert first.TransactionUID != second.TransactionUID


def test_an_archive_that_forgets_is_asked_again(open_desk: Callable[..., Desk]) -> None:
    archive = Archive()
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True, commitment_minutes=5))
        assert desk.send() == (SendState.SENT, "")
        desk.now += 300
        assert not desk.make_worker().deliver_next()
        assert desk.tell() == (SendState.WAITING, "the node did not confirm it in time")
        desk.now += 100
        assert desk.send() == (SendState.SENT, "")
    assert len(archive.asked) == 2


@pytest.mark.parametrize(
    ("status", "error"),
    [(0x0112, "0x0112 for the request for storage commitment"), (None, "the node does not take requests")],
)
def test_an_archive_that_does_not_take_the_question(
    open_desk: Callable[..., Desk], status: int | None, error: str
) -> None:
    archive = Archive(action_status=lambda: status or 0)
    with serving(archive, commits=status is not None) as node:
        state, said = open_desk(replace(node, commitment=True)).send()
    assert state == SendState.WAITING
    assert said.startswith(error)


@pytest.fixture
def receiver() -> Iterator[Callable[[Desk], int]]:
    """The receiver, which takes reports too; in another process as a rule. Returns its port."""
    with ExitStack() as stack:

        def start(desk: Desk) -> int:
            receive = replace(desk.settings.receive, port=find_free_port(), least_free_gb=0)
            settings = replace(desk.settings, receive=receive)
            return stack.enter_context(receiving(settings, "receiver-1")).port

        yield start


@pytest.mark.parametrize("role", [True, False])
def test_a_report_on_a_new_association_counts(
    open_desk: Callable[..., Desk], receiver: Callable[[Desk], int], role: bool
) -> None:
    archive = Archive()
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        assert desk.send() == (SendState.SENT, "")
        (question,) = archive.asked
        stranger, partly, broken = commit(question), commit(question), commit(question)
        stranger.TransactionUID = "2.25.1"
        del partly.ReferencedSOPSequence[0]
        del broken.TransactionUID
        entity = AE(ae_title="PACS")
        entity.add_requested_context(COMMITMENT)
        ways = {"ext_neg": [build_role(COMMITMENT, scp_role=True)]} if role else {}
        association = entity.associate("127.0.0.1", receiver(desk), ae_title="ICH", **ways)
        assert association.is_established
        assert send_report(association, stranger) == 0x0000
        assert desk.tell() == (SendState.SENT, "")
        assert send_report(association, broken) == 0x0110
        assert send_report(association, partly) == 0x0000
        assert desk.tell() == (SendState.WAITING, "the node keeps 3 of 4 objects")
        assert send_report(association, commit(question)) == 0x0000
        association.release()
    assert desk.tell() == (SendState.CONFIRMED, "")


@contextmanager
def sending(settings: Settings, identity: str = "send-1") -> Iterator[BaseProcess]:
    """A sender in a process of its own."""
    process = FORKING.Process(target=run, args=(settings, identity))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.races
@pytest.mark.parametrize(
    ("moment", "state"), [(1, SendState.WAITING), (4, SendState.WAITING), (5, SendState.SENT)]
)
def test_a_sender_that_is_killed_doubles_and_loses_nothing(
    open_desk: Callable[..., Desk], written: ResultFiles, moment: int, state: SendState
) -> None:
    came, go = [threading.Event() for _ in range(10)], threading.Event()

    def hold(*_: object) -> int:
        """The archive holds its answer to the object, or after four of them to the question."""
        number = sum(event.is_set() for event in came)
        came[number].set()
        if number + 1 >= moment:
            go.wait(WAIT)
        return 0x0000

    archive = Archive(status=hold, action_status=hold, make_report=commit)
    with serving(archive) as node:
        desk = open_desk(replace(node, commitment=True))
        with sending(desk.settings) as process:
            assert came[moment - 1].wait(WAIT)
            process.kill()
            process.join()
        assert desk.tell()[0] == state  # and not shown as confirmed
        go.set()
        with sending(desk.settings, "send-2") as process:
            desk.await_state(SendState.CONFIRMED)
            process.terminate()
            process.join(WAIT)
            assert process.exitcode == 0
    assert set(archive.stored) == set(list_uids(written))


@pytest.mark.races
def test_a_node_that_is_away_delays_no_other(open_desk: Callable[..., Desk]) -> None:
    with serving(Archive()) as node, socket.create_server(("127.0.0.1", 0)) as silent:
        away = replace(node, name="away", address=f"127.0.0.1:{silent.getsockname()[1]}")
        desk = open_desk(away, node)
        with sending(desk.settings):
            end = time.monotonic() + WAIT
            while [kind for kind, *_ in desk.list_events()] != ["sent", "confirmed"]:
                assert time.monotonic() < end
                time.sleep(0.05)
