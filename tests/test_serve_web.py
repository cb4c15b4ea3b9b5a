"""The pages of the service: who gets in, what each role sees, and what no page shows."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import FORKING
from results import GAP, make_refused, make_result
from served import NOON, PASSWORD, Department, find_csrf, log_in
from sqlalchemy import insert, select, update
from starlette.testclient import TestClient

from ich.schema import DISCLAIMER, UserError
from ich.serve.settings import Settings
from ich.serve.settings.parts import Tls, Web
from ich.serve.states import SendState, StudyState
from ich.serve.store.events import EventKind
from ich.serve.store.tables import events, readings, sends, sessions, studies
from ich.serve.web import add_account, check, run
from ich.serve.web.access import SESSION_COOKIE
from ich.serve.web.attempts import MOST_ALONE, MOST_TOGETHER, WINDOW, Attempts
from ich.serve.web.worklist import PAGE

HOUR, DAY = 3600.0, 86_400.0
ROLES = ("view", "judge", "administer")


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    with Department(tmp_path) as opened:
        opened.add_accounts()
        yield opened


def list_tokens(page: str) -> list[str]:
    """The studies of a page of the worklist, in order."""
    return re.findall(r'id="study-([0-9a-f]{32})"', page)


def list_events(department: Department) -> list[tuple[str, str]]:
    with department.store.view() as connection:
        rows = connection.execute(select(events.c.actor, events.c.kind).order_by(events.c.id))
        return [(row.actor, row.kind) for row in rows]


def fill(path: str) -> str:
    """The path of a route with something for each of its parameters."""
    return re.sub(r"\{[^}]+\}", "1", path)


def list_routes(department: Department) -> list[tuple[str, str]]:
    """The methods and paths of all pages behind the login."""
    return [
        (method.upper(), fill(path))
        for path, methods in department.app.openapi()["paths"].items()
        for method in methods
        if path not in ("/login", "/health", "/ready", "/metrics")
        and (method, path) not in (("post", "/studies"), ("post", "/studies/{study}"))  # of DICOMweb
    ]


def test_nothing_is_shown_without_a_session(department: Department) -> None:
    token = department.add_study(make_result(), "2.25.1000")
    visitor = department.visit()
    routes = list_routes(department)
    assert ("GET", "/") in routes
    assert ("POST", "/accounts") in routes
    for method, path in [*routes, ("GET", f"/studies/{token}")]:
        answer = visitor.request(method, path)
        assert answer.status_code in (303, 401), (method, path)
        assert answer.headers.get("location", "/login").startswith("/login"), (method, path)
        assert token not in answer.text
    assert visitor.get("/openapi.json").status_code == 404


@pytest.mark.parametrize("cookie", ["", "x", "a" * 5000, "'; DROP TABLE sessions; --", "%00"])
def test_a_made_up_session_lets_nobody_in(department: Department, cookie: str) -> None:
    visitor = department.visit()
    visitor.cookies.set(SESSION_COOKIE, cookie)
    assert visitor.get("/").status_code == 303


def test_every_page_is_safe_and_says_what_it_is_for(department: Department) -> None:
    token = department.add_study(make_result(), "2.25.1000")
    boss = department.visit("administer")
    for path in ("/", "/accounts", "/password", "/agreement", f"/studies/{token}", "/nowhere"):
        answer = boss.get(path)
        assert DISCLAIMER in answer.text
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<script(?! src=)|<style| style=| on[a-z]+=", answer.text), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text), path
    for path in ("/static/style.css", "/static/worklist.js"):
        assert department.visit().get(path).status_code == 200


def test_a_login_starts_a_new_session_whose_token_is_not_kept(department: Department) -> None:
    first = department.visit()
    assert log_in(first, "view").status_code == 303
    token = first.cookies[SESSION_COOKIE]
    with department.store.view() as connection:
        kept = connection.execute(select(sessions.c.digest)).scalars().all()
    assert token not in "".join(kept)
    fixed = department.visit()
    fixed.cookies.set(SESSION_COOKIE, token)  # the attacker's own
    assert fixed.get("/login").headers["location"] == "/"
    stranger = department.visit()
    stranger.cookies.set(SESSION_COOKIE, "f" * 43, domain="testserver.local")
    answer = log_in(stranger, "judge")
    cookies = answer.headers.get_list("set-cookie")
    issued = next(cookie for cookie in cookies if cookie.startswith(SESSION_COOKIE))
    assert "f" * 43 not in issued
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= set(issued.split("; "))


def test_a_browser_that_keeps_no_cookie_is_told_why(department: Department) -> None:
    visitor = department.visit()
    csrf = find_csrf(visitor.get("/login").text)
    visitor.cookies.clear()  # as over http from another machine
    answer = visitor.post("/login", data={"csrf": csrf, "name": "view", "password": PASSWORD})
    assert answer.status_code == 403
    assert "https" in answer.text


def test_the_session_before_ends_with_a_new_login(department: Department) -> None:
    client = department.visit("view")
    before = client.cookies[SESSION_COOKIE]
    token = find_csrf(client.get("/password").text)
    client.post("/logout", data={"csrf": token})
    thief = department.visit()
    thief.cookies.set(SESSION_COOKIE, before)
    assert thief.get("/").status_code == 303
    assert ("view", EventKind.LOGOUT) in list_events(department)


def test_a_session_ends_when_nobody_uses_it(department: Department) -> None:
    client = department.visit("view")
    for _ in range(3):
        department.time += 8 * HOUR
        assert client.get("/").status_code == 200
    for _ in range(13):
        department.time += HOUR
        answer = client.get("/", headers={"X-Refresh": "1"})  # the page itself, which is no use
    assert answer.status_code == 401
    assert client.get("/").status_code == 303


@pytest.mark.parametrize("goal", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\r\nb: c"])
def test_a_login_leads_nowhere_else(department: Department, goal: str) -> None:
    visitor = department.visit()
    assert log_in(visitor, "view", goal=goal).headers["location"] == "/"
    assert log_in(department.visit(), "view", goal="/agreement?x=1").headers["location"] == "/agreement?x=1"


def test_forms_need_their_own_token(department: Department) -> None:
    boss, other = department.visit("administer"), department.visit("administer")
    good = find_csrf(boss.get("/accounts").text)
    theirs = find_csrf(other.get("/accounts").text)
    for token in ("", "x", theirs, None):
        fields = {"name": "eve", "role": "administer", "password": PASSWORD}
        answer = boss.post("/accounts", data=fields | ({} if token is None else {"csrf": token}))
        assert answer.status_code == 403
    assert "eve" not in boss.get("/accounts").text
    assert boss.post("/accounts", data={**fields, "csrf": good}).status_code == 303
    assert "eve" in boss.get("/accounts").text
    visitor = department.visit()
    visitor.get("/login")
    assert visitor.post("/login", data={"name": "view", "password": PASSWORD}).status_code == 403
    assert boss.post("/accounts", content=b"csrf=" + b"a" * 100_000).status_code == 413


def test_an_unknown_name_and_a_wrong_password_look_alike(department: Department) -> None:
    wrong = log_in(department.visit(), "view", "wrong password")
    unknown = log_in(department.visit(), "nobody", "wrong password")
    assert wrong.status_code == unknown.status_code == 401
    texts = [re.sub(r'value="[^"]*"', "", answer.text) for answer in (wrong, unknown)]
    assert texts[0] == texts[1]
    assert [event for event in list_events(department) if event[1] == EventKind.LOGIN_REFUSED] == [
        ("view", EventKind.LOGIN_REFUSED),
        ("unknown", EventKind.LOGIN_REFUSED),  # what was typed may be a password
    ]


def test_guessing_is_stopped_and_ends_by_itself(department: Department) -> None:
    visitor = department.visit()
    for _ in range(MOST_TOGETHER):
        assert log_in(visitor, "view", "guess").status_code == 401
    answer = log_in(visitor, "view")
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) <= WINDOW
    assert log_in(department.visit(address="10.0.0.7"), "view").status_code == 303  # the person elsewhere
    department.time += WINDOW + 1
    assert log_in(visitor, "view").status_code == 303


def test_many_addresses_or_names_are_stopped_too() -> None:
    attempts = Attempts()
    for number in range(MOST_ALONE):
        attempts.note_failure("ann", f"10.0.0.{number}", 0.0)
        attempts.note_failure(f"name{number}", "10.9.9.9", 0.0)
    assert attempts.find_wait("ann", "10.1.1.1", 1.0) == WINDOW - 1
    assert attempts.find_wait("ben", "10.9.9.9", 1.0) == WINDOW - 1
    assert attempts.find_wait("ben", "10.1.1.1", 1.0) == 0
    assert attempts.find_wait("ann", "10.1.1.1", WINDOW) == 0


@pytest.mark.parametrize(("role", "status"), [("view", 403), ("judge", 403), ("administer", 200)])
def test_only_administrators_see_accounts(department: Department, role: str, status: int) -> None:
    client = department.visit(role)
    assert client.get("/accounts").status_code == status
    assert ("Accounts</a>" in client.get("/").text) == (status == 200)
    token = find_csrf(client.get("/").text)
    fields = {"csrf": token, "name": "eve", "role": "view", "password": PASSWORD}
    assert client.post("/accounts", data=fields).status_code == (303 if status == 200 else 403)


def test_an_account_is_made_changed_disabled_and_reset(department: Department) -> None:
    boss, viewer = department.visit("administer"), department.visit("view")

    def change(name: str, **fields: str) -> int:
        token = find_csrf(boss.get("/accounts").text)
        return boss.post(f"/accounts/{name}", data={"csrf": token, **fields}).status_code

    assert change("view", change="role", role="judge") == 303
    assert viewer.get("/").status_code == 303  # a change ends the sessions
    assert change("view", change="password", password="another long word") == 303
    assert log_in(department.visit(), "view").status_code == 401
    assert log_in(department.visit(), "view", "another long word").status_code == 303
    assert change("view", change="disable") == 303
    assert log_in(department.visit(), "view", "another long word").status_code == 401
    assert change("view", change="enable") == 303
    assert log_in(department.visit(), "VIEW ", "another long word").status_code == 303
    for name, fields in {
        "administer": {"change": "disable"},  # oneself
        "nobody": {"change": "disable"},
        "view": {"change": "password", "password": "short"},
        "judge": {"change": "role", "role": "king"},
    }.items():
        assert change(name, **fields) == 422, name


def test_everybody_changes_their_own_password(department: Department) -> None:
    client = department.visit("view")
    token = find_csrf(client.get("/password").text)
    fields = {"csrf": token, "old": "wrong", "password": "a new long password"}
    assert client.post("/password", data=fields).status_code == 422
    assert client.post("/password", data={**fields, "old": PASSWORD}).status_code == 303
    assert client.get("/").status_code == 303
    assert log_in(department.visit(), "view", "a new long password").status_code == 303


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("view", PASSWORD, "There is an account view already"),
        ("a b", PASSWORD, "1 to 64 letters"),
        ("../x", PASSWORD, "1 to 64 letters"),
        ("ann", "short", "12 to 256 characters"),
        ("ann", "a" * 257, "12 to 256 characters"),
    ],
)
def test_a_wrong_account_is_refused(department: Department, name: str, password: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_account(department.store, name, password, "view", NOON, actor="test")


@pytest.mark.parametrize(
    ("address", "name", "status", "role"),
    [
        ("10.1.2.3", "ann", 200, "administer"),
        ("10.1.2.3", "ben", 200, "view"),
        ("10.1.2.3", None, 401, None),
        ("10.1.2.3", "", 401, None),
        ("192.168.0.1", "ann", 401, None),  # not the proxy
        ("testclient", "ann", 401, None),
    ],
)
def test_a_proxy_names_the_user(
    tmp_path: Path, address: str, name: str | None, status: int, role: str | None
) -> None:
    web = Web(user_header="X-User", proxies=("10.0.0.0/8",), user_roles={"ann": "administer"})
    with Department(tmp_path, web) as department:
        client = department.visit(address=address)
        answer = client.get("/", headers={} if name is None else {"X-User": name})
        assert answer.status_code == status
        if role is not None:
            assert "Log out" not in answer.text
            assert client.get("/accounts", headers={"X-User": name or ""}).status_code == (
                200 if role == "administer" else 403
            )
        twice = client.get("/", headers=[("X-User", "ann"), ("X-User", "ben")])
        assert twice.status_code == 401


def test_a_session_counts_for_nothing_behind_a_proxy(tmp_path: Path) -> None:
    with Department(tmp_path) as department:
        department.add_accounts()
        cookie = department.visit("administer").cookies[SESSION_COOKIE]
    web = Web(user_header="X-User", proxies=("10.0.0.0/8",), user_role=None)
    with Department(tmp_path, web) as department:
        client = department.visit()
        client.cookies.set(SESSION_COOKIE, cookie)
        assert client.get("/").status_code == 401
        assert department.visit(address="10.0.0.1").get("/", headers={"X-User": "ann"}).status_code == 401


def add_day(department: Department) -> dict[str, str]:
    """Studies of two days with all outcomes and states; their tokens by what they are."""
    found = {}
    department.time = NOON - DAY
    found["old positive"] = department.add_study(make_result(), "2.25.1")
    department.time = NOON - 4 * HOUR
    found["positive"] = department.add_study(make_result(present=("subdural",)), "2.25.2")
    department.time = NOON - 3 * HOUR
    found["negative"] = department.add_study(make_result(present=()), "2.25.3")
    department.time = NOON - 2 * HOUR
    found["indeterminate"] = department.add_study(make_result(present=(), reasons=[GAP]), "2.25.4")
    found["refused"] = department.add_study(make_refused(), "2.25.5")
    department.time = NOON - HOUR
    found["urgent"] = department.receive({"2.25.6.1": b"x"}, "2.25.6", "2.25.6.9")
    department.time = NOON
    found["aside"] = department.receive({"2.25.7.1": b"x"}, "2.25.7", "2.25.7.9")
    with department.store.begin() as connection:
        for name, values in {
            "urgent": {"priority": 5},
            "aside": {"state": StudyState.SET_ASIDE, "reason": "it is a phantom"},
        }.items():
            connection.execute(update(studies).where(studies.c.token == found[name]).values(values))
    return found


def test_the_worklist_begins_with_what_is_urgent_today(department: Department) -> None:
    tokens = add_day(department)
    page = department.visit("view").get("/").text
    order = ["positive", "urgent", "aside", "refused", "indeterminate", "negative", "old positive"]
    assert list_tokens(page) == [tokens[name] for name in order]
    for text in (
        "subdural",
        "threshold 0.40",
        "Slices seem to be missing between others",
        "it is a phantom",
        "NOT ANALYZED",
        "priority 5",
    ):
        assert text in page


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("outcome=POSITIVE", ["positive", "old positive"]),
        ("outcome=NOT ANALYZED", ["refused"]),
        ("state=set aside", ["aside"]),
        ("state=receiving", ["urgent"]),
        ("outcome=POSITIVE&until=DAY0", ["old positive"]),
        ("outcome=POSITIVE&since=DAY1", ["positive"]),
        ("since=DAY0&until=DAY0", ["old positive"]),
        ("search=nothing", []),
        ("state=x&outcome=y&since=z&after=1_2", None),
    ],
)
def test_the_worklist_is_filtered(department: Department, query: str, names: list[str] | None) -> None:
    tokens = add_day(department)
    for number in (0, 1):
        day = time.strftime("%Y-%m-%d", time.localtime(NOON - DAY + number * DAY))
        query = query.replace(f"DAY{number}", day)
    client = department.visit("view")
    found = list_tokens(client.get(f"/?{query}").text)
    assert set(found) == {tokens[name] for name in (tokens if names is None else names)}
    one = tokens["negative"]
    assert list_tokens(client.get(f"/?search={one[:12].upper()}").text) == [one]


def test_the_worklist_shows_how_answers_do(department: Department) -> None:
    token = department.add_study(make_result(), "2.25.1")
    with department.store.begin() as connection:
        number = connection.execute(select(readings.c.id)).scalar_one()
        for node, state in (("a", SendState.WAITING), ("b", SendState.CONFIRMED), ("c", SendState.CONFIRMED)):
            row = {"reading_id": number, "node": node, "state": state, "next_at": 0.0, "created_at": 0.0}
            connection.execute(insert(sends).values(row))
    page = department.visit("view").get("/").text
    assert token in page
    assert "1 waiting" in page
    assert "2 confirmed" in page


def turn_pages(client: TestClient, path: str) -> list[list[str]]:
    """The studies of the worklist, page by page."""
    found = []
    while path:
        page = client.get(path).text
        found.append(list_tokens(page))
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = following[1].replace("&amp;", "&") if following else ""
    return found


def test_pages_follow_one_another_without_gap_or_repetition(department: Department) -> None:
    template = department.add_study(make_result(), "2.25.1")
    with department.store.begin() as connection:
        row = connection.execute(select(studies)).mappings().one()
        reading = connection.execute(select(readings)).mappings().one()
        rows = [
            {**row, "id": n, "token": f"{n:032x}", "StudyInstanceUID": f"2.25.9.{n}", "priority": n % 3,
             "last_at": NOON - (n // 3) * 600.0}
            for n in range(2, 501)
        ]  # fmt: skip
        connection.execute(insert(studies), rows)
        read = [
            {**reading, "id": n, "study_id": n, "outcome": ("POSITIVE", "NEGATIVE")[n % 2]}
            for n in range(2, 501)
        ]
        connection.execute(insert(readings), read)
    client = department.visit("view")
    pages = turn_pages(client, "/?state=read")
    assert {len(page) for page in pages} == {PAGE}
    found = [token for page in pages for token in page]
    assert len(found) == len(set(found)) == 500
    assert template in found
    assert sum(map(len, turn_pages(client, "/?outcome=POSITIVE&since=2000-01-01"))) == 251


def make_certificate(folder: Path, name: str) -> Tls:
    """Makes a key, and a certificate of 127.0.0.1 that it signs itself."""
    how = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ich -addext"
    tls = Tls(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))
    files = ["-keyout", tls.key, "-out", tls.certificate]
    command = ["openssl", *how.split(), "subjectAltName=IP:127.0.0.1", *files]
    subprocess.run(command, check=True, capture_output=True)
    return tls


@pytest.mark.races
def test_the_process_serves_over_tls_until_it_is_ended(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls = make_certificate(tmp_path, "own")
    settings = Settings("model.zip", str(tmp_path / "service"), web=Web(port=port, tls=tls))
    process = FORKING.Process(target=run, args=(settings, "web-1"))
    process.start()
    with httpx.Client(verify=ssl.create_default_context(cafile=tls.certificate)) as client:
        for _ in range(600):
            try:
                answer = client.get(f"https://127.0.0.1:{port}/login")
                break
            except httpx.TransportError:
                assert process.is_alive()
                time.sleep(0.1)
    process.terminate()
    process.join()
    assert answer.status_code == 200
    assert "max-age" in answer.headers["strict-transport-security"]
    assert process.exitcode in (0, -signal.SIGTERM)


def test_settings_that_cannot_be_served_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"web\.port={port} cannot be listened at"):
            check(Settings("a", str(tmp_path), web=Web(port=port)))
    check(Settings("a", str(tmp_path), web=Web(port=port)))
    with pytest.raises(UserError, match=r"web\.proxies: 'here'"):
        check(Settings("a", str(tmp_path), web=Web(port=port, proxies=("here",))))
    for name in ("one", "two"):
        make_certificate(tmp_path, name)
    for certificate, key, message in (
        ("one.pem", "two.key", "cannot be used: they do not belong together"),
        ("gone.pem", "one.key", "No such file|no such file"),
    ):
        web = Web(port=port, tls=Tls(str(tmp_path / certificate), str(tmp_path / key)))
        with pytest.raises(UserError, match=message):
            check(Settings("a", str(tmp_path), web=web))
    check(
        Settings(
            "a", str(tmp_path), web=Web(port=port, tls=Tls(f"{tmp_path}/one.pem", f"{tmp_path}/one.key"))
        )
    )
