"""The queue of answers: what is due, who takes it and what becomes of it; on a simulated clock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from postgres import make_database, start_server
from sqlalchemy import select

from ich.serve.settings.parts import Node
from ich.serve.states import SendState
from ich.serve.store import Store, open_store
from ich.serve.store.events import EventKind
from ich.serve.store.sends import (
    FIRST_RETRY_SECONDS,
    LEASE_SECONDS,
    LONGEST_RETRY_SECONDS,
    Send,
    claim_send,
    fail_unconfirmed,
    find_transaction,
    list_unconfirmed,
    note_asked,
    note_confirmed,
    note_failed_attempt,
    note_sent,
    queue_sends,
    release_sender,
)
from ich.serve.store.tables import events, metadata, readings, sends, studies

PACS = Node("pacs", "dicom", "127.0.0.1:104", ae_title="PACS")
POSITIVES = Node("alarm", "webhook", "https://127.0.0.1/", outcomes=("POSITIVE",))


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with start_server() as server, make_database(server) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    is_file = request.param == "sqlite"
    opened = open_store(str(tmp_path / "queue.sqlite") if is_file else request.getfixturevalue("database"))
    yield opened
    if not is_file:
        with opened.begin() as connection:
            names = ", ".join(f'"{name}"' for name in metadata.tables)
            connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    opened.close()


def read(
    store: Store, study: int, now: float, outcome: str = "NEGATIVE", nodes: tuple[Node, ...] = (PACS,)
) -> int:
    """A reading of a study, and its answers; returns for how many nodes."""
    with store.begin() as connection:
        if not connection.execute(select(studies.c.id).where(studies.c.id == study)).first():
            row = {"id": study, "token": f"{study:032x}", "StudyInstanceUID": f"1.{study}", "state": "read"}
            connection.execute(studies.insert().values(**row, first_at=now, last_at=now))
        count = len(connection.execute(select(readings.c.id)).all())
        reading = connection.execute(
            readings.insert()
            .values(
                study_id=study,
                generation=count,
                model="f" * 64,
                number=1,
                folder=f"{study:032x}/{count}",
                started_at=now,
                finished_at=now,
                outcome=outcome,
            )
            .returning(readings.c.id)
        ).scalar_one()
        return queue_sends(connection, nodes, reading, outcome, now)


def claim(store: Store, now: float, node: Node = PACS, sender: str = "s") -> Send | None:
    with store.begin() as connection:
        return claim_send(connection, node.name, sender, now)


def take(store: Store, now: float, node: Node = PACS, sender: str = "s") -> Send:
    taken = claim(store, now, node, sender)
    assert taken is not None
    return taken


def list_states(store: Store) -> list[str]:
    with store.begin() as connection:
        return list(connection.execute(select(sends.c.state).order_by(sends.c.id)).scalars())


def find_next(store: Store) -> float:
    with store.begin() as connection:
        return float(connection.execute(select(sends.c.next_at)).scalar_one())


def list_events(store: Store) -> list[tuple[str, str]]:
    with store.begin() as connection:
        return [tuple(row) for row in connection.execute(select(events.c.kind, events.c.detail))]


def fail(store: Store, send: Send, now: float, error: str = "away", **ways: object) -> SendState | None:
    with store.begin() as connection:
        return note_failed_attempt(connection, send, "s", now, error, **ways)


def keep(store: Store, send: Send, now: float) -> bool:
    with store.begin() as connection:
        return note_sent(connection, send, "s", now) and note_confirmed(connection, send, "s", now)


def test_an_answer_goes_to_the_nodes_that_want_its_outcome(store: Store) -> None:
    assert read(store, 1, 0, "NEGATIVE", (PACS, POSITIVES)) == 1
    assert read(store, 2, 0, "POSITIVE", (PACS, POSITIVES)) == 2
    assert read(store, 3, 0, "", (PACS, POSITIVES)) == 0
    assert take(store, 0, POSITIVES).study == f"{2:032x}"


def test_a_positive_answer_is_first_then_the_oldest(store: Store) -> None:
    for study, outcome in enumerate(("NEGATIVE", "INDETERMINATE", "POSITIVE", "POSITIVE"), 1):
        read(store, study, study, outcome)
    assert [int(take(store, 9).study, 16) for _ in range(4)] == [3, 4, 1, 2]
    assert claim(store, 9) is None


def test_a_newer_reading_supersedes_answers_that_wait(store: Store) -> None:
    read(store, 1, 0)
    read(store, 2, 0)
    read(store, 1, 5, "POSITIVE")
    assert list_states(store) == [SendState.SUPERSEDED, SendState.WAITING, SendState.WAITING]
    assert [int(take(store, 9).study, 16) for _ in range(2)] == [1, 2]
    assert claim(store, 9) is None


def test_a_node_that_has_an_older_answer_gets_the_correction(store: Store) -> None:
    read(store, 1, 0, "POSITIVE", (POSITIVES,))
    keep(store, take(store, 0, POSITIVES), 1)
    assert read(store, 1, 5, "NEGATIVE", (POSITIVES,)) == 1
    assert read(store, 2, 5, "NEGATIVE", (POSITIVES,)) == 0


def test_an_answer_waits_for_the_older_one_that_is_on_its_way(store: Store) -> None:
    read(store, 1, 0)
    older = take(store, 0)
    read(store, 1, 1, "POSITIVE")
    read(store, 2, 1)
    assert take(store, 2, sender="t").study == f"{2:032x}"
    assert claim(store, 2, sender="t") is None
    assert keep(store, older, 3)  # it was sent after all, and is shown so
    assert list_states(store)[0] == SendState.CONFIRMED
    assert take(store, 3, sender="t").study == f"{1:032x}"


def test_a_superseded_answer_that_fails_is_not_sent_again(store: Store) -> None:
    read(store, 1, 0, "POSITIVE", (POSITIVES,))
    older = take(store, 0, POSITIVES)
    read(store, 1, 1, "NEGATIVE", (POSITIVES,))
    assert fail(store, older, 2) == SendState.SUPERSEDED
    assert list_states(store) == [SendState.SUPERSEDED, SendState.WAITING]


def test_a_node_that_is_away_for_an_hour_gets_its_answer_afterwards(store: Store) -> None:
    read(store, 1, 0)
    attempts, now = [], 0.0
    while list_states(store) == [SendState.WAITING]:
        assert claim(store, now - 1) is None
        send = take(store, now)
        attempts.append(now)
        if now < 3600:
            assert fail(store, send, now, "no connection") == SendState.WAITING
            now = find_next(store)
        else:
            assert keep(store, send, now)
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert waits[:3] == [FIRST_RETRY_SECONDS * 2**n for n in range(3)]
    assert max(waits) == LONGEST_RETRY_SECONDS == waits[-1]
    assert 3600 <= attempts[-1] < 3600 + LONGEST_RETRY_SECONDS
    assert list_events(store) == [  # not an event for each attempt
        (EventKind.NOT_SENT, "pacs: no connection"),
        (EventKind.SENT, "pacs"),
        (EventKind.CONFIRMED, "pacs"),
    ]


def test_a_node_that_refuses_is_given_up_when_the_settings_say_so(store: Store) -> None:
    read(store, 1, 0)
    now = 0.0
    while fail(store, take(store, now), now, f"0xA700 at {now}" * 50, give_up_hours=2) == SendState.WAITING:
        now = find_next(store)
    assert 2 * 3600 <= now < 2 * 3600 + LONGEST_RETRY_SECONDS
    assert claim(store, 1e9) is None
    with store.begin() as connection:
        assert len(connection.execute(select(sends.c.error)).scalar_one()) == 200
    assert list_events(store)[-1][1].endswith("; given up")
    read(store, 2, 0)
    assert fail(store, take(store, 0), 0, "no report", for_good=True) == SendState.FAILED


def ask(store: Store, send: Send, now: float, transaction_uid: str = "2.25.1") -> None:
    """The node took a send, and was asked for its commitment within ten minutes."""
    with store.begin() as connection:
        assert note_sent(connection, send, "s", now, transaction_uid=transaction_uid)
        note_asked(connection, send, now + 600)


def fail_late(store: Store, now: float, **ways: float) -> int:
    with store.begin() as connection:
        return fail_unconfirmed(connection, PACS.name, "s", now, **ways)


def test_a_node_that_answers_and_forgets_is_asked_again(store: Store) -> None:
    read(store, 1, 0)
    now = 0.0
    for attempt in range(3):
        ask(store, take(store, now), now, f"2.25.{attempt}")
        with store.begin() as connection:
            (waiting,) = list_unconfirmed(connection)
        assert (waiting.node, waiting.sent_at, waiting.next_at) == ("pacs", now, now + 600)
        assert fail_late(store, now + 599) == 0
        assert claim(store, now + 600) is None
        if attempt < 2:
            assert fail_late(store, now + 600) == 1
            assert list_states(store) == [SendState.WAITING]
            now = find_next(store)
    assert list_events(store).count((EventKind.NOT_SENT, "pacs: the node did not confirm it in time")) == 2
    with store.begin() as connection:
        assert find_transaction(connection, "2.25.1") is None  # of an earlier attempt
        assert find_transaction(connection, "") is None
        found = find_transaction(connection, "2.25.2")
        assert found is not None
        assert note_confirmed(connection, found, "s", 1300)
        assert not note_confirmed(connection, found, "s", 1301)
        assert list_unconfirmed(connection) == []
    assert claim(store, 1e9) is None


def test_a_node_that_never_confirms_is_given_up_when_the_settings_say_so(store: Store) -> None:
    read(store, 1, 0)
    ask(store, take(store, 3599), 3599)
    assert fail_late(store, 4199, give_up_hours=1) == 1
    assert list_states(store) == [SendState.FAILED]


def test_a_commitment_that_comes_late_counts(store: Store) -> None:
    read(store, 1, 0)
    ask(store, take(store, 0), 0)
    fail_late(store, 600)
    again = take(store, 700)
    with store.begin() as connection:
        found = find_transaction(connection, "2.25.1")
        assert found is not None
        assert note_confirmed(connection, found, "s", 701)
        assert not note_sent(connection, again, "s", 702)
    assert fail(store, again, 703) is None
    assert list_states(store) == [SendState.CONFIRMED]


def test_an_unconfirmed_answer_is_not_sent_again_after_a_newer_one(store: Store) -> None:
    read(store, 1, 0)
    ask(store, take(store, 0), 0)
    read(store, 1, 1)
    keep(store, take(store, 1), 2)
    assert list_states(store) == [SendState.SENT, SendState.CONFIRMED]
    assert fail_late(store, 601) == 1
    assert claim(store, 1e9) is None
    assert list_states(store) == [SendState.SUPERSEDED, SendState.CONFIRMED]


def test_what_an_ended_sender_held_is_due_at_once_and_what_a_lost_one_held_later(store: Store) -> None:
    read(store, 1, 0)
    first = take(store, 0)
    with store.begin() as connection:
        assert release_sender(connection, "other", 1) == 0
        assert release_sender(connection, "s", 1) == 1
    second = take(store, 1, sender="t")
    assert not keep(store, first, 2)  # it no longer counts
    assert claim(store, LEASE_SECONDS) is None
    third = take(store, 1 + LEASE_SECONDS, sender="u")
    assert third.attempts == second.attempts + 1
    with store.begin() as connection:
        assert release_sender(connection, None, 2000) == 1  # whoever it was
        assert release_sender(connection, None, 2000) == 0
    assert take(store, 2000).attempts == third.attempts + 1


@pytest.mark.races
def test_several_senders_never_take_the_same_answer(store: Store) -> None:
    for study in range(1, 41):
        read(store, study, 0)
    taken: list[int] = []

    def work(name: str) -> None:
        while send := claim(store, 1, sender=name):
            taken.append(send.id)

    threads = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == list(range(1, 41))
