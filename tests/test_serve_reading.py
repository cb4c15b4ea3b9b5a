"""Readers of the service: from objects in the inbox to the files of a reading."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pydicom
import pytest
from processes import FORKING, run_program
from serve_parts import Service, list_slices, read_and_die, read_and_hold, write_model
from serve_roles import LIMIT, wait_until
from sqlalchemy.exc import OperationalError

from ich.files import hash_file
from ich.machine import read_processor
from ich.machine.packages import list_versions
from ich.networks.engines import PACKAGES, EngineFile, write_engine
from ich.outputs.records import read_json
from ich.predict import Predictor
from ich.serve.reading import find_model_faults, load_model, run
from ich.serve.reading.files import write_files
from ich.serve.reading.shadow import Shadow
from ich.serve.reading.study import prepare_study
from ich.serve.settings import Settings
from ich.serve.settings.parts import Node, Read
from ich.serve.store import open_store
from ich.serve.store.readers import remove_reader
from ich.serve.store.studies import Content, release_reader
from ich.serve.store.tables import attempts, events, readers, readings, sends, studies


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.zip")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return Predictor.load(model)


@pytest.fixture
def service(tmp_path: Path, model: Path) -> Iterator[Service]:
    nodes = (Node("archive", "stow", "http://127.0.0.1:1"),)
    settings = Settings(bundle=str(model), folder=str(tmp_path / "serve"), send=nodes)
    store = open_store(settings.store)
    yield Service(settings, store)
    store.close()


def change(study: Path, edit: Callable[[pydicom.Dataset], None]) -> list[Path]:
    for path in study.iterdir():
        ds = pydicom.dcmread(path)
        edit(ds)
        ds.save_as(path)
    return list_slices(study)


def test_a_study_becomes_a_reading_with_its_files(service: Service, predictor, study: Path) -> None:
    slices = list_slices(study)
    service.receive(*slices)
    reader = service.make_reader(predictor)
    assert reader.read_next()
    assert not reader.read_next()
    (files,) = service.find_files()
    result = read_json(files.result)
    expected = predictor.predict(study)
    assert replace(result, number=1) == replace(next(iter(expected)), number=1)
    assert result.outcome == "POSITIVE"
    assert "POSITIVE" in files.page.read_text(encoding="utf-8")
    report = pydicom.dcmread(files.report)
    assert report.StudyInstanceUID == result.StudyInstanceUID
    assert "PredecessorDocumentsSequence" not in report
    assert len(files.list_images()) == len(result.key_slices) > 0
    assert {path.stat().st_mode & 0o077 for path in files.folder.iterdir()} == {0}
    assert service.list_rows(studies.c.state, studies.c.reader) == [("read", "")]
    (row,) = service.list_rows(readings)
    assert predictor.algorithm.weights[0] in row
    ((kind, actor, detail),) = service.list_rows(events.c.kind, events.c.actor, events.c.detail)
    assert (kind, actor) == ("read", "reader")
    assert str(detail).startswith("POSITIVE in 0.0 s by ")


def test_the_engine_of_the_settings_computes_the_model(
    service: Service, model: Path, study: Path, tmp_path: Path
) -> None:
    engine = tmp_path / "engine.json"
    versions = list_versions(PACKAGES)
    found = EngineFile("bfloat16", hash_file(model), read_processor(), versions, 1, 16, 0.02, ())
    write_engine(found, engine)
    settings = replace(service.settings, read=Read(gpus=0, engine=str(engine)))
    assert find_model_faults(settings) == []
    service.receive(*list_slices(study))
    assert service.make_reader(load_model(str(model), settings.read, settings.read.engine)).read_next()
    (files,) = service.find_files()
    assert read_json(files.result).algorithm.name.endswith(" in bfloat16")
    write_engine(replace(found, model="0" * 64), engine)
    (fault,) = find_model_faults(settings)
    assert f"{engine} was measured for another model" in fault


def test_a_late_slice_makes_a_reading_that_supersedes_the_first(service: Service, predictor, study) -> None:
    *early, late = list_slices(study)
    reader = service.make_reader(predictor)
    service.receive(*early)
    assert reader.read_next()
    service.receive(late)
    assert reader.read_next()
    before, after = service.find_files()
    (first, none), (_, supersedes) = service.list_rows(readings.c.id, readings.c.supersedes_id)
    assert (none, supersedes) == (None, first)
    old, new = (pydicom.dcmread(files.report) for files in (before, after))
    assert old.SOPInstanceUID != new.SOPInstanceUID
    (of_study,) = new.PredecessorDocumentsSequence
    assert of_study.StudyInstanceUID == old.StudyInstanceUID
    (of_series,) = of_study.ReferencedSeriesSequence
    assert of_series.SeriesInstanceUID == old.SeriesInstanceUID
    (document,) = of_series.ReferencedSOPSequence
    assert document.ReferencedSOPClassUID == old.SOPClassUID
    assert document.ReferencedSOPInstanceUID == old.SOPInstanceUID
    states = service.list_rows(sends.c.reading_id, sends.c.state)
    assert states == [(first, "superseded"), (first + 1, "waiting")]
    assert read_json(before.result).number != read_json(after.result).number


def test_the_archives_copy_of_an_answer_changes_no_answer(service: Service, predictor, study: Path) -> None:
    reader = service.make_reader(predictor)
    service.receive(*list_slices(study))
    reader.read_next()
    (first,) = service.find_files()
    service.receive(first.report, *first.list_images())  # the archive sends them back
    assert reader.read_next()
    _, second = service.find_files()
    objects = [first.report, *first.list_images()]
    assert [path.read_bytes() for path in objects] == [
        (second.folder / path.name).read_bytes() for path in objects
    ]
    service.receive(second.report, *second.list_images())
    assert not reader.read_next()


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("StudyDescription", "Daily QA", r"a word in StudyDescription \(rules.words: qa\)"),
        ("PatientID", "PHANTOM-7", r"a word in PatientID \(rules.words: phantom\*\)"),
        ("ProtocolName", "Konstanzprüfung", r"a word in each series"),
        ("Modality", "MR", r"The series is not CT.*\(not_ct\)"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], r"The series is a scout.*\(localizer\)"),
    ],
)
def test_what_is_no_head_of_a_patient_is_set_aside_with_its_reason(
    service: Service, predictor, study: Path, keyword: str, value: str, reason: str
) -> None:
    def edit(ds: pydicom.Dataset) -> None:
        ds.SpecificCharacterSet = "ISO_IR 192"
        setattr(ds, keyword, value)

    service.receive(*change(study, edit))
    assert service.make_reader(predictor).read_next()
    assert service.find_files() == []
    ((state, said),) = service.list_rows(studies.c.state, studies.c.reason)
    assert state == "set aside"
    assert re.search(reason, str(said)), said
    assert service.list_rows(events.c.kind, events.c.detail) == [("set aside", said)]
    assert "PHANTOM-7" not in str(said)


def test_a_site_code_in_the_patient_id_and_one_test_slice_are_no_check(service, predictor, study) -> None:
    def edit(ds: pydicom.Dataset) -> None:
        ds.PatientID = "QA-1234"
        ds.SeriesDescription = "HEAD 5.0"

    service.receive(*change(study, edit))
    service.make_reader(predictor).read_next()
    assert service.list_rows(studies.c.state) == [("read",)]


def test_few_slices_are_set_aside_until_more_come(service: Service, predictor, study: Path) -> None:
    slices = list_slices(study)
    reader = service.make_reader(predictor)
    service.receive(*slices[:2])
    reader.read_next()
    ((state, reason),) = service.list_rows(studies.c.state, studies.c.reason)
    assert state == "set aside"
    assert "(too_few_slices)" in str(reason)
    service.receive(*slices[2:])
    reader.read_next()
    assert service.list_rows(studies.c.state, studies.c.reason) == [("read", "")]


def test_the_header_says_which_study_is_first(service: Service, predictor, study: Path, tmp_path) -> None:
    for uid, keyword, value in (
        ("2.25.1", "StudyID", "1"),
        ("2.25.2", "StudyPriorityID", "LOW"),
        ("2.25.3", "RequestedProcedurePriority", "STAT"),
    ):
        slices = list_slices(study)[:2]
        for number, path in enumerate(slices):
            ds = pydicom.dcmread(path)
            ds.StudyInstanceUID, ds.SOPInstanceUID = uid, f"{uid}.{number}"
            setattr(ds, keyword, value)
            ds.save_as(copy := tmp_path / f"{uid}.{number}.dcm")
            service.receive(copy)
    reader = service.make_reader(predictor)
    order = []
    while reader.read_next():
        done = {
            str(uid)
            for uid, state in service.list_rows(studies.c.StudyInstanceUID, studies.c.state)
            if state == "set aside"
        }
        order += sorted(done - set(order))
    assert order == ["2.25.3", "2.25.1", "2.25.2"]


def test_a_full_disk_loses_nothing(service: Service, predictor, study: Path, monkeypatch) -> None:
    service.receive(*list_slices(study))
    reader = service.make_reader(predictor)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ich.serve.reading.files.write_json", fail)
        with pytest.raises(OSError, match="No space"):
            reader.read_next()
    reader.give_back()
    assert service.list_rows(studies.c.state, studies.c.kills) == [("queued", 0)]
    assert reader.read_next()
    (files,) = service.find_files()
    assert list(files.folder.parent.iterdir()) == [files.folder]  # what the first attempt left is gone


@contextmanager
def reading(target: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    """A reader in a process of its own."""
    process = FORKING.Process(target=target, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.races
def test_the_next_process_reads_the_study_of_a_killed_one(service: Service, study: Path, tmp_path) -> None:
    service.receive(*list_slices(study))
    settings, sign = replace(service.settings, read=Read(gpus=0)), tmp_path / "written"
    with reading(read_and_hold, settings, "first", sign):
        wait_until(sign.exists)
    assert len(list(settings.results.glob("*/*"))) == 1
    with service.store.begin() as connection:  # as the supervisor does
        release_reader(connection, "first", service.now, most_kills=2, is_blamed=True)
        remove_reader(connection, "first")
    with reading(run, settings, "second") as process:
        wait_until(lambda: service.list_rows(studies.c.state) == [("read",)])
        assert service.list_rows(readers.c.identity, readers.c.model) == [
            ("second", hash_file(settings.bundle))
        ]
        process.terminate()
        process.join(LIMIT)
        assert process.exitcode == 0
    assert service.list_rows(readers) == []
    assert service.list_rows(studies.c.kills) == [(1,)]
    assert service.list_rows(readings.c.number) == [(2,)]
    (files,) = service.find_files()
    assert files.report.is_file()
    assert list(settings.results.glob("*/*")) == [files.folder]  # what the first one left is gone


def receive_two(service: Service, study: Path) -> list[str]:
    """Receives a study and another one with the same slices; returns their UIDs."""
    first = list_slices(study)
    service.receive(*first)
    for path in first:
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.1", "2.25.2"
        ds.SOPInstanceUID = f"2.25.3.{ds.InstanceNumber}"
        ds.save_as(path)
    service.receive(*list_slices(study))
    rows = service.list_rows(studies.c.id, studies.c.StudyInstanceUID)
    return [str(uid) for _, uid in sorted(rows)]


def list_states(service: Service) -> list[object]:
    """The states of the studies, in the order in which they came."""
    return [state for _, state in sorted(service.list_rows(studies.c.id, studies.c.state))]


@pytest.mark.parametrize(
    ("read", "threads"),
    [
        (Read(), ["MainThread", "ahead_0"]),
        (Read(most_kills=1), ["MainThread", "MainThread"]),
        (Read(workers=2), ["MainThread", "MainThread"]),
    ],
)
def test_the_next_study_is_prepared_and_stays_in_the_queue(
    service: Service, predictor, study, monkeypatch, read: Read, threads: list[str]
) -> None:
    service.settings = replace(service.settings, read=read)
    uids = receive_two(service, study)
    prepared = []

    def prepare(content: Content, *others: Any) -> Any:
        prepared.append((content.StudyInstanceUID, threading.current_thread().name))
        return prepare_study(content, *others)

    monkeypatch.setattr("ich.serve.reading.reader.prepare_study", prepare)
    reader = service.make_reader(predictor)
    assert reader.read_next()
    assert list_states(service) == ["read", "queued"]
    assert len(service.list_rows(attempts)) == 1
    assert reader.read_next()
    assert not reader.read_next()
    assert prepared == list(zip(uids, threads, strict=True))
    assert [read_json(files.result).StudyInstanceUID for files in service.find_files()] == uids


def test_a_study_that_got_more_or_is_less_urgent_is_not_taken_as_it_was_prepared(
    service: Service, predictor, study
) -> None:
    first, second = receive_two(service, study)
    *_, late = list_slices(study)
    ds = pydicom.dcmread(late)
    ds.SOPInstanceUID, ds.InstanceNumber = "2.25.3.999", 999
    ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + 5]
    ds.save_as(late.with_name("later.dcm"))
    reader = service.make_reader(predictor)
    assert reader.read_next()
    service.receive(late.with_name("later.dcm"))
    assert reader.read_next()
    before, after = (read_json(files.result) for files in service.find_files())
    assert (before.StudyInstanceUID, after.StudyInstanceUID) == (first, second)
    assert len(after.slices) == len(before.slices) + 1


@pytest.mark.races
def test_a_study_that_ends_readers_is_set_aside_and_no_other(service: Service, study: Path) -> None:
    _, deadly = receive_two(service, study)
    settings = replace(service.settings, read=Read(gpus=0))
    for number in range(3):  # while it is prepared, when it is taken, and when the other one was read alone
        with reading(read_and_die, settings, f"reader {number}", deadly) as process:
            process.join(LIMIT)
        with service.store.begin() as connection:  # as the supervisor does
            release_reader(connection, f"reader {number}", service.now, most_kills=2, is_blamed=True)
    assert list_states(service) == ["read", "set aside"]
    assert len(service.list_rows(readings)) == 1


def test_a_locked_database_loses_and_doubles_nothing(service: Service, predictor, study, monkeypatch) -> None:
    service.receive(*list_slices(study))
    service.store.close()
    service.store = open_store(service.settings.store, busy_seconds=0.1)
    reader = service.make_reader(predictor)
    other = sqlite3.connect(service.settings.store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match="locked"):  # when it takes the study
        reader.read_next()
    other.execute("ROLLBACK")

    def write_and_lock(*arguments: Any) -> None:
        write_files(*arguments)
        other.execute("BEGIN IMMEDIATE")

    with monkeypatch.context() as patch:
        patch.setattr("ich.serve.reading.reader.write_files", write_and_lock)
        with pytest.raises(OperationalError, match="locked"):  # when it saves the reading
            reader.read_next()
    other.execute("ROLLBACK")
    other.close()
    assert service.find_files() == []
    reader.give_back()
    assert service.list_rows(studies.c.state, studies.c.kills) == [("queued", 0)]
    assert reader.read_next()
    (files,) = service.find_files()
    assert list(files.folder.parent.iterdir()) == [files.folder]
    assert len(service.list_rows(sends.c.id)) == 1


def test_a_study_that_fails_its_reading_is_set_aside(
    service: Service, predictor, study, monkeypatch, caplog
) -> None:
    service.receive(*list_slices(study))
    patient = str(pydicom.dcmread(list_slices(study)[0]).PatientID)

    def fail(*_: object) -> None:
        raise ValueError(patient)

    monkeypatch.setattr(Predictor, "make_result", fail)
    reader = service.make_reader(predictor)
    assert reader.read_next()
    assert service.list_rows(studies.c.state) == [("queued",)]
    assert reader.read_next()
    assert service.list_rows(studies.c.state, studies.c.reason) == [("set aside", "it ended 2 readers")]
    assert "ValueError at study.py:" in caplog.text
    assert patient not in caplog.text


def test_a_shadow_model_leaves_rows_and_events_and_no_files(service: Service, predictor, study: Path) -> None:
    shadow = Shadow(service.settings, service.store, predictor, "shadow", lambda: service.now)
    reader = service.make_reader(predictor)
    service.receive(*list_slices(study))
    assert not shadow.read_next()
    reader.read_next()
    before = sorted(service.settings.results.rglob("*"))
    assert shadow.read_next()
    assert not shadow.read_next()
    assert sorted(service.settings.results.rglob("*")) == before
    assert service.list_rows(readings.c.shadow, readings.c.outcome) == [
        (False, "POSITIVE"),
        (True, "POSITIVE"),
    ]
    assert service.list_rows(sends.c.reading_id) == [(1,)]
    kinds = [kind for (kind,) in service.list_rows(events.c.kind)]
    assert kinds == ["read", "shadow"]
    assert service.list_rows(studies.c.state) == [("read",)]


def test_files_that_are_gone_are_not_read_as_a_smaller_study(
    service: Service, predictor, study: Path
) -> None:
    service.receive(*list_slices(study))
    next(service.settings.inbox.glob("??/*.dcm")).unlink()
    service.make_reader(predictor).read_next()
    ((state, reason),) = service.list_rows(studies.c.state, studies.c.reason)
    assert state == "set aside"
    assert str(reason).endswith("are no longer there")


def test_a_reader_imports_nothing_that_only_training_and_evaluation_need() -> None:
    program = (
        "import sys\n"
        "heavy = {'albumentations', 'lightning_fabric', 'pytorch_lightning', 'torchmetrics',\n"
        "         'scipy.optimize', 'scipy.stats'}\n"
        "for name in list(sys.modules):\n"
        "    if name.startswith('ich.') or any(f'{name}.'.startswith(f'{each}.') for each in heavy):\n"
        "        del sys.modules[name]\n"
        "import ich.serve.reading\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = run_program(program)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
