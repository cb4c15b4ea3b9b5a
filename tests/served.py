"""A service's database and folders, filled for tests of its pages."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import select
from starlette.testclient import TestClient

from ich.outputs.pages import write_study_page
from ich.outputs.pages.views import make_views
from ich.outputs.records import write_json
from ich.schema.results import StudyResult
from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.settings.parts import Web
from ich.serve.states import Role, StudyState
from ich.serve.store import open_store
from ich.serve.store.accounts import create_account, find_account, start_session
from ich.serve.store.objects import Arrival, add_object
from ich.serve.store.studies import Reading, claim_study, finish_study
from ich.serve.store.tables import studies
from ich.serve.web import make_app
from ich.serve.web.access import SESSION_COOKIE
from ich.serve.web.passwords import hash_password

NOON = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 43_200
"""The simulated time when a test begins."""

PASSWORD = "correct horse battery"


class Department:
    """A service on a simulated clock, with an account for each role: view, judge and administer.

    Args:
        folder: An empty folder.
        web: Settings of the pages.
    """

    def __init__(self, folder: Path, web: Web | None = None) -> None:
        self.settings = Settings("model.zip", str(folder / "service"), web=web or Web())
        self.store = open_store(self.settings.store)
        self.inbox = Inbox(self.settings.inbox)
        self.time = NOON
        self.app = make_app(self.settings, self.store, lambda: self.time)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def add_accounts(self) -> None:
        with self.store.begin() as connection:
            for role in Role:
                create_account(connection, role, _hash(PASSWORD), role, self.time)

    def visit(self, name: str | None = None, address: str = "127.0.0.1") -> TestClient:
        """A browser, logged in as the account of a role."""
        client = TestClient(
            self.app,
            base_url="https://testserver",
            headers={"Accept": "text/html"},
            follow_redirects=False,
            client=(address, 50000),
        )
        if name is not None:
            with self.store.begin() as connection:
                account = find_account(connection, name)
                assert account is not None
                client.cookies.set(SESSION_COOKIE, start_session(connection, account.id, self.time))
        return client

    def receive(self, files: dict[str, bytes], study: str, series: str) -> str:
        """Receives files by SOPInstanceUID, and returns the token of their study."""
        with self.store.begin() as connection:
            for uid, content in files.items():
                kept = self.inbox.keep(b"", [content])
                digest = hashlib.sha256(content + uid.encode()).hexdigest()
                arrival = Arrival(study, series, uid, "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1",
                                  digest, kept.path, kept.bytes)  # fmt: skip
                add_object(connection, arrival, self.time)
            query = select(studies.c.token).where(studies.c.StudyInstanceUID == study)
            return str(connection.execute(query).scalar_one())

    def read(self, token: str, result: StudyResult, page: str | None = None) -> int:
        """Saves the result of a study; returns the number of the reading."""
        with self.store.begin() as connection:
            connection.execute(
                studies.update().where(studies.c.token == token).values(state=StudyState.QUEUED, priority=9)
            )
            claim = claim_study(connection, "r", self.time)
            assert claim is not None
            assert claim.token == token
            folder = f"{token}/{claim.generation}"
            connection.execute(studies.update().where(studies.c.token == token).values(priority=0))
            number = finish_study(connection, claim, _describe(result, folder, self.time), self.time)
        files = self.settings.results / folder
        files.mkdir(parents=True)
        write_json(result, files / "result.json")
        if page is not None:
            (files / "page.html").write_text(page, encoding="utf-8")
        assert number is not None
        return number

    def add_study(self, result: StudyResult, study: str) -> str:
        """Receives a study of one object that is no image, and saves its result; returns its token."""
        token = self.receive({f"{study}.1": b"no image"}, study, f"{study}.9")
        self.read(token, replace(result, StudyInstanceUID=study))
        return token


def _describe(result: StudyResult, folder: str, now: float) -> Reading:
    prob = None if result.outcome is None else result.labels[result.headline].prob
    return Reading("f" * 64, result.number, folder, now - 9, result.outcome or "", prob, result.distance)


@cache
def _hash(password: str) -> str:
    return hash_password(password)


def log_in(client: TestClient, name: str, password: str = PASSWORD, goal: str = "/"):
    """Fills in and sends the form of the login."""
    csrf = find_csrf(client.get("/login").text)
    return client.post("/login", data={"csrf": csrf, "name": name, "password": password, "goal": goal})


def find_csrf(page: str) -> str:
    """The token of the forms of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, page
    return found[1]


def receive_images(department: Department, root: Path, rows: pd.DataFrame) -> str:
    """Receives the slices of a series; returns the token of the study.

    Args:
        department: The service.
        root: Folder of the files.
        rows: Rows of an index for the series.
    """
    files = {row.SOPInstanceUID: (root / row.path).read_bytes() for row in rows.itertuples()}
    return department.receive(files, rows["StudyInstanceUID"].iloc[0], rows["SeriesInstanceUID"].iloc[0])


def draw_page(result: StudyResult, root: Path, rows: pd.DataFrame, out: Path) -> str:
    """The page that a reader writes, with heat maps that are made up."""
    views = [replace(view, heat=draw_heat(view.hu)) for view in make_views(result, root, rows, None)]
    write_study_page(result, views, out)
    return out.read_text(encoding="utf-8")


def draw_heat(hu: NDArray[np.int16]) -> NDArray[np.float32]:
    rows, columns = np.ogrid[: hu.shape[0], : hu.shape[1]]
    far = (rows - 0.4 * hu.shape[0]) ** 2 + (columns - 0.65 * hu.shape[1]) ** 2
    return np.exp(-far / (0.08 * hu.shape[0]) ** 2).astype(np.float32)
