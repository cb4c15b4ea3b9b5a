"""A study's page, its slices, and what people judge."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from results import GAP, make_refused, make_result
from served import Department, draw_page, find_csrf, receive_images
from sqlalchemy import select, update
from starlette.testclient import TestClient

from ich.dicom import read_hu
from ich.index import build_index, read_labels, read_study_labels
from ich.phantom import write_phantom
from ich.schema import LABELS, SUBTYPES, WINDOWS, UserError
from ich.schema.codes import Reason
from ich.schema.results import Remark, StudyResult
from ich.serve.results import ResultFiles
from ich.serve.settings.parts import Web
from ich.serve.states import Verdict
from ich.serve.store.events import EventKind
from ich.serve.store.judgments import JudgedReading, Judgment
from ich.serve.store.tables import events, objects, readings, studies
from ich.serve.web.export import write_labels
from ich.serve.web.truth import interpret, read_numbers

MARKER = "ZQXJ"
"""Goes into every identifying attribute of a file, and may go nowhere else."""

DAY = 86_400.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A folder with a series whose patient is marked, and the rows of its index."""
    root = tmp_path_factory.mktemp("phantom")
    write_phantom(root, patients=1, size=64, conformant=True)
    table = build_index(root, index_dir=tmp_path_factory.mktemp("index"), progress=False).table
    for path in table["path"]:
        slices = pydicom.dcmread(root / path)
        slices.PatientID, slices.PatientName, slices.AccessionNumber = MARKER, f"{MARKER}^{MARKER}", MARKER
        slices.StudyDate, slices.PatientBirthDate, slices.StudyID = "19010203", "18800405", MARKER
        slices.InstitutionName = slices.ReferringPhysicianName = slices.StudyDescription = MARKER
        slices.save_as(root / path)
    rows = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    return root, rows.sort_values("position", ignore_index=True).assign(PatientID=MARKER)


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    with Department(tmp_path) as opened:
        opened.add_accounts()
        yield opened


def add_images(
    department: Department,
    images: tuple[Path, pd.DataFrame],
    result: StudyResult | None = None,
    page: str | None = None,
) -> str:
    """Receives the series, and saves a result, by default a POSITIVE one; returns the token."""
    root, rows = images
    result = make_result(rows) if result is None else result
    token = receive_images(department, root, rows)
    department.read(token, result, page)
    return token


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, images) -> str:
    """The page that a reader writes of the series."""
    return draw_page(make_result(images[1]), *images, tmp_path_factory.mktemp("page") / "page.html")


def test_the_page_of_a_positive_study(department: Department, images, drawn: str) -> None:
    result = make_result(images[1], reasons=[GAP])
    token = add_images(department, images, result, drawn)
    client = department.visit("view")
    page = client.get(f"/studies/{token}").text
    for text in (
        "Signs of intracranial hemorrhage: subdural",
        "at or above the decision threshold of 0.40",
        Reason.GAP.sentence,
        "Called present: subdural",
        "Not used: the series is a scout",
        "may not judge results",
    ):
        assert text in page
    assert page.count('class="slot"') == len(images[1])
    assert page.count('class="bar key"') == len(result.key_slices)
    pictures = re.findall(r'src="(/studies/[^"]+/pictures/\d+)"', page)
    assert [int(each.rsplit("/")[-1]) for each in pictures] == [place + 1 for place in result.key_slices]
    for each in pictures:
        assert client.get(each).content.startswith(b"\x89PNG")
    whole = client.get(re.search(r'href="(/studies/[^"]+/page)"', page)[1])
    assert whole.status_code == 200
    assert "sandbox" in whole.headers["content-security-policy"]
    for center, width in WINDOWS.values():
        assert f'data-center="{center}" data-width="{width}"' in page
    with department.store.view() as connection:
        opened = select(events.c.actor).where(events.c.kind == EventKind.OPENED, events.c.study == token)
        assert connection.execute(opened).scalars().all() == ["view"]


def test_slices_are_the_pixels_of_the_files_in_the_order_of_the_result(department, images) -> None:
    root, rows = images
    token = add_images(department, images)
    client = department.visit("view")
    for number, path in enumerate(rows["path"], 1):
        answer = client.get(f"/studies/{token}/slices/{number}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["x-sides"] == "known"
        shape = int(answer.headers["x-rows"]), int(answer.headers["x-columns"])
        np.testing.assert_array_equal(
            np.frombuffer(answer.content, "<i2").reshape(shape), read_hu(root / path)
        )
    again = client.get(f"/studies/{token}/slices/1")
    unchanged = client.get(f"/studies/{token}/slices/1", headers={"If-None-Match": again.headers["etag"]})
    assert unchanged.status_code == 304
    assert "private" in unchanged.headers["cache-control"]
    assert unchanged.content == b""


def test_sides_that_are_contradicted_are_not_shown(department: Department, images) -> None:
    turned = Remark(Reason.TURNED, "the head is turned")
    token = add_images(department, images, make_result(images[1], present=(), reasons=[turned]))
    answer = department.visit("view").get(f"/studies/{token}/slices/1")
    assert answer.headers["x-sides"] == "unknown"


def test_tricks_with_paths_find_nothing(department: Department, images) -> None:
    token = add_images(department, images)
    client = department.visit("view")
    for number in (
        "0",
        "-1",
        "99",
        "1.5",
        "x",
        "1%00",
        "..%2f..%2fqueue.sqlite",
        "%2e%2e%2f1",
        "\u0663",
        "1" * 400,
    ):
        assert client.get(f"/studies/{token}/slices/{number}").status_code == 404, number
    for path in (
        "/studies/../accounts",
        "/studies/%2e%2e%2fresults",
        "/studies/' OR 1=1 --",
        "/studies/" + "0" * 32,
        f"/studies/{token}?reading=999",
        f"/studies/{token}/readings/999/page",
        f"/studies/{token}/readings/1/pictures/999",
        f"/studies/{token}/readings/..%2f..%2f1/page",
        "/static/../accounts.py",
        "/static/%2e%2e/pages.py",
        "/static/..%2f__init__.py",
    ):
        assert client.get(path).status_code in (403, 404), path


def test_a_reading_of_another_study_is_not_shown(department: Department, images) -> None:
    token = add_images(department, images)
    other = department.add_study(make_result(), "2.25.77")
    client = department.visit("view")
    assert client.get(f"/studies/{token}?reading=1").status_code == 200
    for path in ("?reading=1", "/readings/1/page", "/slices/1?reading=1"):
        assert client.get(f"/studies/{other}{path}").status_code == 404


def test_deleted_pixels_are_said_to_be_gone(department: Department, images) -> None:
    token = add_images(department, images)
    client = department.visit("view")
    with department.store.begin() as connection:
        path = connection.execute(select(objects.c.path).order_by(objects.c.id)).scalars().first()
    department.inbox.locate(path).unlink()
    first = [client.get(f"/studies/{token}/slices/{n}") for n in range(1, len(images[1]) + 1)]
    gone = [answer for answer in first if answer.status_code != 200]
    assert [answer.status_code for answer in gone] == [410]
    assert "have been deleted" in gone[0].text
    with department.store.begin() as connection:
        connection.execute(update(studies).values(pixels_deleted=True))
    assert client.get(f"/studies/{token}/slices/2").status_code == 410
    assert "The files of this study have been deleted" in client.get(f"/studies/{token}").text


def test_a_file_that_cannot_be_decoded_is_named_by_its_code(department: Department, images) -> None:
    root, rows = images
    token = department.receive(
        dict.fromkeys(rows["SOPInstanceUID"], b"no image"),
        rows["StudyInstanceUID"].iloc[0],
        rows["SeriesInstanceUID"].iloc[0],
    )
    department.read(token, make_result(rows))
    answer = department.visit("view").get(f"/studies/{token}/slices/1")
    assert answer.status_code == 422
    assert str(root) not in answer.text
    assert "not_dicom" in answer.text


def test_pages_of_studies_without_a_result(department: Department) -> None:
    client = department.visit("view")
    waiting = department.receive({"2.25.5.1": b"x"}, "2.25.5", "2.25.5.9")
    assert "has not been read yet" in client.get(f"/studies/{waiting}").text
    refused = department.add_study(make_refused(), "2.25.6")
    page = client.get(f"/studies/{refused}").text
    assert "Not analyzed: no axial head series (localizer only)" in page
    assert 'id="viewer"' not in page
    assert client.get(f"/studies/{refused}/slices/1").status_code == 404
    with department.store.view() as connection:
        folder = connection.execute(select(readings.c.folder)).scalar_one()
    ResultFiles(department.settings.results / folder).result.unlink()
    with Department(Path(department.settings.folder).parent) as again:  # it remembers nothing
        client = again.visit("view")
        assert "can no longer be read" in client.get(f"/studies/{refused}").text
        assert client.get("/").status_code == 200


def test_no_page_names_the_patient_unless_configured(tmp_path: Path, images, drawn: str) -> None:
    pages = {}
    for shows in (False, True):
        with Department(tmp_path / str(shows), Web(shows_identity=shows)) as department:
            department.add_accounts()
            token = add_images(department, images, page=drawn)
            client = department.visit("judge")
            page = client.get(f"/studies/{token}").text
            judge(client, token, verdict="accept")
            paths = ["/", f"/?search={MARKER}", f"/studies/{token}", "/agreement", "/metrics", "/health"]
            paths += re.findall(r'(?:src|href)="(/studies/[^"]+)"', page)
            pages[shows] = "".join(client.get(path).text.replace(f'value="{MARKER}"', "") for path in paths)
            slices = client.get(f"/studies/{token}/slices/1")
            assert MARKER not in str(slices.headers)
            with department.store.view() as connection:
                assert MARKER not in str(connection.execute(select(events)).all())
            found = client.get(f"/?search={MARKER}").text
            assert (f"study-{token}" in found) == shows
            assert f"study-{token}" not in client.get("/?search=nobody").text
    for text in (MARKER, "19010203", "1901-02-03", "18800405"):
        assert text not in pages[False]
    assert MARKER in pages[True]
    assert "19010203" in pages[True]
    for uid in (images[1]["StudyInstanceUID"].iloc[0], images[1]["SOPInstanceUID"].iloc[0]):
        assert uid not in pages[False]


def judge(client: TestClient, token: str, **fields: str) -> int:
    """Sends the form of a judgment as a person does; returns the status."""
    page = client.get(f"/studies/{token}").text
    action = re.search(r'action="(/studies/[^"]+/judgments)"', page)
    assert action is not None
    answer = client.post(action[1], data={"csrf": find_csrf(page), **fields})
    return answer.status_code


def test_only_judges_judge(department: Department, images) -> None:
    token = add_images(department, images)
    viewer = department.visit("view")
    csrf = find_csrf(viewer.get("/").text)
    path = f"/studies/{token}/readings/1/judgments"
    assert viewer.post(path, data={"csrf": csrf, "verdict": "accept"}).status_code == 403
    judging = department.visit("judge")
    assert judging.post(path, data={"csrf": csrf, "verdict": "accept"}).status_code == 403
    assert judge(judging, token, verdict="accept") == 303
    assert "1 accepted" in viewer.get("/").text
    assert judging.get("/judgments.csv").status_code == 403


def test_a_newer_judgment_replaces_the_earlier_one_visibly(department: Department, images) -> None:
    token = add_images(department, images)
    client = department.visit("judge")
    assert judge(client, token, verdict="accept") == 303
    department.time += 60
    assert judge(client, token, verdict="reject") == 303
    page = client.get(f"/studies/{token}").text
    assert page.count('<li class="replaced">') == 1
    assert "1 rejected" in client.get("/").text
    assert "1 accepted" not in client.get("/").text


WRONG: list[tuple[dict[str, str], str]] = [
    ({}, "Choose whether you accept"),
    ({"verdict": "correct"}, "at least one label"),
    ({"verdict": "correct", "label_any": "0", "label_subdural": "1"}, "any says that there is none"),
    ({"verdict": "correct", "label_any": "1", **{f"label_{n}": "0" for n in SUBTYPES}}, "no subtype"),
    ({"verdict": "correct", "label_subdural": "1", "slices_subdural": "5-3"}, "slices from 1 to"),
    ({"verdict": "correct", "label_subdural": "1", "slices_subdural": "999"}, "slices from 1 to"),
    ({"verdict": "correct", "label_subdural": "1", "slices_subdural": "two"}, "names no slices"),
    ({"verdict": "correct", "label_subdural": "0", "slices_subdural": "2"}, "but slices are listed"),
    ({"verdict": "correct", "slices_any": "1", "slices_subdural": "2"}, "Slice 2 has a subtype"),
    ({"verdict": "maybe"}, "Choose whether you accept"),
]


def test_a_judgment_that_contradicts_itself_is_refused(department: Department, images) -> None:
    token = add_images(department, images)
    client = department.visit("judge")
    csrf = find_csrf(client.get(f"/studies/{token}").text)
    for fields, message in WRONG:
        answer = client.post(f"/studies/{token}/readings/1/judgments", data={"csrf": csrf, **fields})
        assert answer.status_code == 422
        assert message in answer.text
        for name, value in fields.items():
            assert value in answer.text or name == "verdict"  # what was typed is kept
        assert "Judgments so far" not in answer.text


def test_what_a_judgment_says() -> None:
    positive, negative = make_result(), make_result(present=())
    unclear = make_result(present=(), reasons=[GAP])
    uids = [each.SOPInstanceUID for each in positive.slices]
    nothing = dict.fromkeys(LABELS, 0)
    accepted = interpret(positive, Verdict.ACCEPT, {})
    assert accepted.labels == {**nothing, "subdural": 1, "any": 1}
    assert interpret(positive, Verdict.REJECT, {}).labels == nothing
    assert interpret(positive, Verdict.REJECT, {}).slices == dict.fromkeys(uids, nothing)
    assert interpret(negative, Verdict.ACCEPT, {}).slices == dict.fromkeys(uids, nothing)
    assert interpret(negative, Verdict.REJECT, {}).labels == {"any": 1}
    assert interpret(negative, Verdict.REJECT, {}).slices == {}
    for verdict in (Verdict.ACCEPT, Verdict.REJECT):
        assert interpret(unclear, verdict, {}).labels == {}
    corrected = interpret(unclear, Verdict.CORRECT, {"slices_epidural": "2-3, 5"})
    assert corrected.labels == {"epidural": 1, "any": 1}
    shown = [uid for uid, labels in corrected.slices.items() if labels["epidural"]]
    assert shown == [uids[1], uids[2], uids[4]]
    assert all(corrected.slices[uid]["any"] == 1 for uid in shown)
    assert "any" not in corrected.slices[uids[0]]  # another subtype may be there


def test_labels_that_are_not_the_rsna_s_follow_from_nothing() -> None:
    found = make_result()
    labels = {"fracture": found.labels["any"], "shift": found.labels["epidural"]}
    slices = tuple(
        replace(each, probs={"fracture": 0.5, "shift": 0.1}, calibrated=None) for each in found.slices
    )
    other = replace(found, decides="fracture", labels=labels, slices=slices)
    assert interpret(other, Verdict.REJECT, {}).labels == {"fracture": 0}
    assert interpret(other, Verdict.CORRECT, {"label_shift": "1", "label_fracture": "0"}).labels == {
        "fracture": 0,
        "shift": 1,
    }


@pytest.mark.parametrize(
    ("text", "numbers"), [("1", {1}), ("2-4", {2, 3, 4}), (" 1 , 3 - 4; 9,", {1, 3, 4, 9}), ("", set())]
)
def test_numbers_of_slices_are_read(text: str, numbers: set[int]) -> None:
    assert read_numbers(text, 9, "any") == numbers
    with pytest.raises(UserError, match="any: 10"):
        read_numbers("10", 9, "any")


def test_judgments_become_labels_that_evaluate_and_recalibrate_read(
    department: Department, images, tmp_path: Path
) -> None:
    token = add_images(department, images)
    negative = department.add_study(make_result(present=()), "2.25.50")
    unclear = department.add_study(make_result(present=(), reasons=[GAP]), "2.25.51")
    department.add_study(make_result(), "2.25.52")  # nobody judges it
    judging, boss = department.visit("judge"), department.visit("administer")
    correction = {"verdict": "correct", "slices_subdural": "3-4", **{f"label_{n}": "0" for n in SUBTYPES[:4]}}
    assert judge(judging, token, **correction) == 303
    assert judge(judging, negative, verdict="reject") == 303
    assert judge(boss, negative, verdict="accept") == 303  # they disagree
    assert judge(judging, unclear, verdict="correct", label_any="0") == 303
    paths = {}
    for of in ("studies", "slices"):
        paths[of] = tmp_path / f"{of}.csv"
        paths[of].write_bytes(boss.get(f"/judgments.csv?of={of}").content)
    of_studies = read_study_labels(paths["studies"])
    assert of_studies.index.name == "StudyInstanceUID"
    study = images[1]["StudyInstanceUID"].iloc[0]
    assert of_studies.loc[study].to_dict() == {**dict.fromkeys(LABELS, 0), "subdural": 1, "any": 1}
    assert of_studies.loc["2.25.51"].eq(0).all()
    assert "any" not in of_studies.loc[of_studies.index == "2.25.50"].dropna(axis=1).columns
    of_slices = read_labels(paths["slices"])
    shown = of_slices.loc[images[1]["SOPInstanceUID"], "any"].to_numpy()
    np.testing.assert_array_equal(np.flatnonzero(shown), [2, 3])


def test_what_accounts_disagree_about_is_unknown() -> None:
    def say(account: str, labels: dict[str, int], at: int, reading: int = 1) -> JudgedReading:
        return JudgedReading(Judgment(reading, account, Verdict.CORRECT, labels, {}, at, at), "1.2", "", at)

    def read(*said: JudgedReading) -> list[dict[str, str]]:
        return list(csv.DictReader(write_labels(said, "studies").splitlines()))

    nothing = dict.fromkeys(LABELS, 0)
    both = read(say("a", nothing, 1), say("b", {**nothing, "subdural": 1, "any": 1}, 2))
    assert both[0]["any"] == both[0]["subdural"] == ""
    assert both[0]["epidural"] == "0"
    later = read(say("a", {"any": 1}, 1), say("a", nothing, 2, reading=2))
    assert later[0]["any"] == "0"
    some = {name: 0 for name in SUBTYPES if name != "subdural"}
    assert read(say("a", {"any": 1, "subdural": 0}, 1), say("b", some, 2)) == []  # any, and none of them


def test_agreement_is_counted_by_week_and_outcome(department: Department) -> None:
    tokens = [department.add_study(make_result(), f"2.25.{n}") for n in range(60, 63)]
    tokens.append(department.add_study(make_result(present=()), "2.25.64"))
    client = department.visit("judge")
    assert "Nobody has judged" in client.get("/agreement").text
    for token, verdict in zip(tokens, ("accept", "accept", "reject", "accept"), strict=True):
        judge(client, token, verdict=verdict)
    department.time += 7 * DAY
    client = department.visit("judge")
    judge(client, tokens[0], verdict="reject")  # counts in place of the earlier one
    page = client.get("/agreement").text
    rows = re.findall(r'<tr><th scope="row">(\S+)</th><td>(\d+ of \d+)', page)
    assert [counts for _, counts in rows] == ["0 of 1", "2 of 3"]
    assert "1 of 2" in page  # of the positive ones in the first week


def test_an_earlier_reading_stays_visible(department: Department, images, tmp_path: Path) -> None:
    root, rows = images
    token = add_images(department, images, make_result(rows.iloc[:-1], present=(), reasons=[GAP]))
    extra = tmp_path / "late.dcm"
    shutil.copy(root / rows["path"].iloc[0], extra)
    department.receive({"2.25.99.1": extra.read_bytes()}, rows["StudyInstanceUID"].iloc[0], "2.25.99")
    department.time += 100
    department.read(token, make_result(rows))
    client = department.visit("view")
    page = client.get(f"/studies/{token}").text
    assert "POSITIVE" in page
    assert "INDETERMINATE" in page
    earlier = client.get(f"/studies/{token}?reading=1").text
    assert "This is an earlier reading" in earlier
    assert earlier.count('class="slot"') == len(rows) - 1
