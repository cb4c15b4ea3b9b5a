"""The queue of the service: what is stored, when a study is complete, who reads it; on a simulated clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from postgres import make_database, start_server
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from ich.schema import UserError
from ich.serve.states import StudyState
from ich.serve.store import Store, open_store
from ich.serve.store.objects import (
    Added,
    Arrival,
    add_object,
    add_objects,
    close_association,
    close_stale_associations,
    open_association,
)
from ich.serve.store.studies import (
    Claim,
    Reading,
    claim_study,
    finish_study,
    queue_complete,
    release_reader,
    set_aside,
)
from ich.serve.store.tables import arrivals, conflicts, events, metadata, objects, readings, studies

QUIET, LONGEST = 30.0, 900.0
OBJECT = Arrival(
    StudyInstanceUID="1.2",
    SeriesInstanceUID="1.2.3",
    SOPInstanceUID="1.2.3.1",
    SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
    syntax="1.2.840.10008.1.2.1",
    digest="a" * 64,
    path="aa/a.dcm",
    bytes=9,
)
READ = Reading("f" * 64, 1, "0001", 0.0, "NEGATIVE", 0.1, 0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with start_server() as address:
        yield address


@pytest.fixture(scope="module")
def database(server: str) -> Iterator[str]:
    with make_database(server) as address:
        open_store(address).close()
        yield address


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An SQLite file that is not there yet, or an empty database of PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "queue.sqlite")
    return str(request.getfixturevalue("database"))


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    opened = open_store(address)
    yield opened
    if "://" in address:
        with opened.begin() as connection:
            names = ", ".join(f'"{name}"' for name in metadata.tables)
            connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY")
    opened.close()


def add(store: Store, now: float, **changes: object) -> Added:
    with store.begin() as connection:
        return add_object(connection, replace(OBJECT, **changes), now)


def queue(store: Store, now: float) -> int:
    with store.begin() as connection:
        return queue_complete(connection, now, quiet=QUIET, longest=LONGEST)


def claim(store: Store, reader: str = "r") -> Claim | None:
    with store.begin() as connection:
        return claim_study(connection, reader, 0.0)


def find_state(store: Store) -> StudyState:
    with store.begin() as connection:
        return StudyState(connection.execute(select(studies.c.state)).scalar_one())


def test_migrations_make_the_tables_that_the_code_names(store: Store) -> None:
    with store.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    store = open_store(str(path))
    with store.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(UserError, match=r"was made by a newer version of ich \(9999\); upgrade ich"):
        open_store(str(path))
    with pytest.raises(UserError, match=r"queue=mysql://\S+: expected a path"):
        open_store("mysql://me:secret@here/x")
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(UserError, match="cannot be opened: file is not a database"):
        open_store(str(tmp_path / "text"))


def test_the_same_object_twice_is_one_and_another_content_is_set_aside(store: Store) -> None:
    assert add(store, 0) == Added.NEW
    assert add(store, 1) == Added.KNOWN
    assert add(store, 2, digest="b" * 64, path="bb/b.dcm") == Added.CONFLICT
    assert add(store, 3, digest="b" * 64, path="bb/b.dcm") == Added.CONFLICT
    with store.begin() as connection:
        assert connection.execute(select(studies.c.objects)).scalar_one() == 1
        assert connection.execute(select(conflicts.c.path)).scalars().all() == ["bb/b.dcm"]
    assert queue(store, QUIET) == 1  # neither came as something new


def test_objects_that_are_added_together_become_what_they_become_one_by_one(store: Store) -> None:
    def name(study: int, number: int, **changes: object) -> Arrival:
        uids = {"StudyInstanceUID": f"1.{study}", "SOPInstanceUID": f"1.{study}.{number}"}
        return replace(OBJECT, **uids, association=association, **changes)

    with store.begin() as connection:
        association = open_association(connection, "dimse/x", "CT1", 0.0)
        assert add_objects(connection, [name(1, 1), name(2, 1)], 1.0) == [Added.NEW] * 2
        given = [
            name(1, 1),
            name(1, 2),
            name(3, 1),
            name(1, 3),
            name(1, 2),
            name(2, 1, digest="b" * 64),
            name(3, 1, digest="c" * 64),
            *(name(4, number) for number in range(5)),
        ]
        assert add_objects(connection, given, 2.0, most=4) == [
            *(Added.KNOWN, Added.NEW, Added.NEW, Added.NEW, Added.KNOWN, Added.CONFLICT, Added.CONFLICT),
            *([Added.NEW] * 4 + [Added.TOO_MANY]),
        ]
        columns = (studies.c.objects, studies.c.generation, studies.c.first_at, studies.c.last_at)
        found = connection.execute(select(*columns).order_by(studies.c.StudyInstanceUID)).all()
        assert found == [(3, 3, 1.0, 2.0), (1, 1, 1.0, 1.0), (1, 1, 2.0, 2.0), (4, 4, 2.0, 2.0)]
        assert connection.execute(select(func.count()).select_from(arrivals)).scalar_one() == 4
        named = (
            select(objects.c.SOPInstanceUID)
            .join(studies)
            .where(objects.c.SOPInstanceUID.startswith(studies.c.StudyInstanceUID))
        )
        assert len(connection.execute(named).all()) == 3 + 1 + 1 + 4


def test_a_study_is_complete_after_a_quiet_time(store: Store) -> None:
    add(store, 0)
    add(store, 20, SOPInstanceUID="1.2.3.2")
    assert queue(store, 20 + QUIET - 1) == 0
    assert queue(store, 20 + QUIET) == 1
    assert find_state(store) == StudyState.QUEUED


def test_a_study_that_never_rests_is_read_in_the_end(store: Store) -> None:
    for number in range(100):
        add(store, number * 10, SOPInstanceUID=f"1.2.3.{number + 1}")
        assert queue(store, number * 10) == (number * 10 >= LONGEST)


def test_an_open_association_holds_the_study_back(store: Store) -> None:
    with store.begin() as connection:
        first, second = (open_association(connection, "dimse/me", "CT1", 0.0) for _ in range(2))
    add(store, 0, association=first)
    add(store, 0, association=first, SOPInstanceUID="1.2.3.2")
    add(store, 0, association=second, StudyInstanceUID="1.9", SOPInstanceUID="1.9.1")
    assert queue(store, LONGEST + 1) == 0
    with store.begin() as connection:
        close_association(connection, first, LONGEST)
    assert queue(store, LONGEST + 1) == 1
    with store.begin() as connection:  # the process of the second one ended without a word
        assert close_stale_associations(connection, "dimse/me", LONGEST) == 0
        assert close_stale_associations(connection, "stow/another", LONGEST) == 0
        assert close_stale_associations(connection, "dimse/another", LONGEST) == 1
    assert queue(store, LONGEST + 1) == 1


def test_a_late_slice_leads_to_another_reading(store: Store) -> None:
    add(store, 0)
    queue(store, QUIET)
    taken = claim(store)
    assert taken is not None
    assert taken.paths == ("aa/a.dcm",)
    add(store, 40, SOPInstanceUID="1.2.3.2", path="cc/c.dcm")
    with store.begin() as connection:
        first = finish_study(connection, taken, READ, 50)
    assert find_state(store) == StudyState.RECEIVING
    assert queue(store, 50) == 0
    assert queue(store, 40 + QUIET) == 1
    again = claim(store)
    assert again is not None
    assert again.paths == ("aa/a.dcm", "cc/c.dcm")
    with store.begin() as connection:
        finish_study(connection, again, READ, 90)
        assert connection.execute(select(readings.c.supersedes_id)).scalars().all() == [None, first]
    assert find_state(store) == StudyState.READ


def test_each_study_has_one_reader_and_the_urgent_one_is_first(store: Store) -> None:
    for number in range(3):
        add(store, number, StudyInstanceUID=f"1.{number}", SOPInstanceUID=f"1.{number}.1")
    queue(store, 100)
    with store.begin() as connection:
        urgent = studies.update().where(studies.c.StudyInstanceUID == "1.2").values(priority=1)
        connection.execute(urgent)
    taken = [claim(store, f"r{number}") for number in range(4)]
    assert [each.StudyInstanceUID if each else None for each in taken] == ["1.2", "1.0", "1.1", None]


def test_a_study_that_ends_its_readers_is_set_aside(store: Store) -> None:
    add(store, 0)
    queue(store, QUIET)
    for state in (StudyState.QUEUED, StudyState.SET_ASIDE):
        assert claim(store, "r") is not None
        with store.begin() as connection:
            assert release_reader(connection, "other", 0.0, most_kills=2) == 0
            assert release_reader(connection, "r", 0.0, most_kills=2) == 1
        assert find_state(store) == state
    assert claim(store) is None
    with store.begin() as connection:
        assert connection.execute(select(events.c.kind, events.c.detail)).all() == [
            ("set aside", "it ended 2 readers")
        ]
    add(store, 100, SOPInstanceUID="1.2.3.2")  # with another object it gets another chance
    assert queue(store, 100 + QUIET) == 1


def run_at_once(act: Callable[[int], object], count: int = 4) -> list[object]:
    """Calls a function in several threads that start together; returns what each found."""
    together = threading.Barrier(count)

    def wait_and_act(number: int) -> object:
        together.wait(60)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_act, range(count)))


@pytest.mark.races
def test_readers_that_ask_at_once_never_take_the_same_study(store: Store) -> None:
    count = 24
    for number in range(count):
        add(store, 0, StudyInstanceUID=f"1.{number}", SOPInstanceUID=f"1.{number}.1")
    queue(store, 100)

    def take(reader: int) -> list[int]:
        found = []
        while taken := claim(store, f"r{reader}"):
            found.append(taken.study)
        return found

    taken = [study for found in run_at_once(take) for study in found]
    while left := claim(store):  # all queued ones can be locked by the others when a reader asks
        taken.append(left.study)
    assert sorted(taken) == list(range(1, count + 1))


@pytest.mark.races
def test_objects_that_come_at_once_are_each_there_once(store: Store) -> None:
    """Four associations bring the same studies, and two of them the same objects."""

    def bring(number: int) -> list[Added]:
        return [
            add(store, 0, StudyInstanceUID=f"1.{study}", SOPInstanceUID=f"1.{study}.{number // 2}.{each}")
            for study in range(3)
            for each in range(3)
        ]

    found = [added for each in run_at_once(bring) for added in each]
    assert (found.count(Added.NEW), found.count(Added.KNOWN)) == (18, 18)
    with store.view() as connection:
        assert connection.execute(select(studies.c.objects, studies.c.generation)).all() == [(6, 6)] * 3


@pytest.mark.races
def test_processes_that_start_at_once_make_the_tables_once(
    request: pytest.FixtureRequest, address: str
) -> None:
    with ExitStack() as stack:
        if "://" in address:
            address = stack.enter_context(make_database(request.getfixturevalue("server")))
        for opened in run_at_once(lambda _: open_store(address)):
            opened.close()


def test_an_association_that_is_not_known_is_an_error(store: Store) -> None:
    with pytest.raises(IntegrityError):
        add(store, 0, association=99)


def test_a_reader_that_was_stopped_leaves_no_blame_and_an_ended_one_makes_the_study_wait(
    store: Store,
) -> None:
    for number in range(2):
        add(store, number, StudyInstanceUID=f"1.{number}", SOPInstanceUID=f"1.{number}.1")
    queue(store, 100)
    for is_blamed, expected in ((False, "1.0"), (True, "1.0"), (True, "1.1")):
        taken = claim(store, "r")
        assert taken is not None
        assert taken.StudyInstanceUID == expected
        with store.begin() as connection:
            release_reader(connection, "r", 0.0, most_kills=2, is_blamed=is_blamed)
    assert taken.number == 3  # no two attempts share one


def test_what_is_set_aside_is_received_again_with_another_object(store: Store) -> None:
    add(store, 0)
    queue(store, QUIET)
    taken = claim(store)
    assert taken is not None
    add(store, 40, SOPInstanceUID="1.2.3.2")
    with store.begin() as connection:
        assert set_aside(connection, taken, "no head", 50)
        assert not set_aside(connection, taken, "no head", 51)
    assert find_state(store) == StudyState.RECEIVING


def test_a_reader_that_was_given_up_saves_nothing(store: Store) -> None:
    add(store, 0)
    queue(store, QUIET)
    slow = claim(store, "slow")
    assert slow is not None
    with store.begin() as connection:
        release_reader(connection, "slow", 0.0, most_kills=9)
    assert claim(store, "other") is not None
    with store.begin() as connection:
        assert finish_study(connection, slow, READ, 99) is None
        assert connection.execute(select(readings)).all() == []
