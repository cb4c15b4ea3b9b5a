"""What a person does with the pages, in headless Chromium: `bash .ci/browser` installs what this asks.

axe finds what a screen reader or the keyboard cannot use.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from results import GAP, make_result
from served import PASSWORD, Department, draw_page, receive_images

from ich.index import build_index
from ich.phantom import write_phantom

pytestmark = pytest.mark.races


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a service with a positive study that can be seen, and others."""
    root, folder = tmp_path_factory.mktemp("phantom"), tmp_path_factory.mktemp("service")
    write_phantom(root, patients=1, size=128, conformant=True)
    table = build_index(root, index_dir=tmp_path_factory.mktemp("index"), progress=False).table
    rows = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    rows = rows.sort_values("position", ignore_index=True)
    with Department(folder) as department:
        department.time = time.time() - 60
        department.add_accounts()
        department.add_study(make_result(present=()), "2.25.71")
        department.add_study(make_result(present=(), reasons=[GAP]), "2.25.72")
        result = make_result(rows, reasons=[GAP])
        token = receive_images(department, root, rows)
        department.read(token, result, draw_page(result, root, rows, folder / "page.html"))
        department.time += 30
        department.add_study(make_result(present=()), "2.25.73")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(department.app, port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def connection(address: str) -> dict[str, Any]:
    """The service, whose first page is the login."""
    return {"base_url": address}


@pytest.fixture
def page(page: Any) -> Any:
    """A page at the login."""
    page.goto("/")
    return page


def log_in(page: Any, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Worklist").wait_for()


def wait_for_slice(page: Any, number: int) -> None:
    page.wait_for_selector(f'#viewer[data-drawn="{number}"]')


def read_pixels(page: Any) -> list[int]:
    """The gray values of the middle row of the canvas."""
    return page.evaluate(
        """() => { const picture = document.getElementById("picture");
        const row = picture.getContext("2d").getImageData(0, picture.height / 2, picture.width, 1).data;
        return [...row].filter((_, n) => n % 4 === 0); }"""
    )


def test_a_person_finds_the_newest_positive_study_and_rejects_it(page: Any) -> None:
    log_in(page, "judge")
    page.locator("#studies tbody tr").first.get_by_role("link", name="POSITIVE").click()
    stage = page.get_by_role("group", name="Slices")
    first = int(page.locator("#viewer").get_attribute("data-first"))
    wait_for_slice(page, first)
    assert "key slice" in page.locator("#where").inner_text()
    assert len(set(read_pixels(page))) > 10  # a head, not a blank canvas
    assert page.locator(".side.left").is_visible()
    assert page.get_by_text("Slices seem to be missing between others").first.is_visible()

    stage.focus()
    page.keyboard.press("Home")
    wait_for_slice(page, 1)
    for _ in range(first - 1):
        page.keyboard.press("ArrowUp")
    wait_for_slice(page, first)
    before = read_pixels(page)
    page.keyboard.press("4")
    assert page.get_by_role("button", name="bone").get_attribute("aria-pressed") == "true"
    assert read_pixels(page) != before

    page.get_by_role("radio", name="Reject").check()
    page.get_by_role("button", name="Save my judgment").click()
    page.get_by_text("rejected").first.wait_for()
    page.goto("/")
    assert "rejected" in page.locator("#studies tbody tr").first.inner_text()
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Log in").wait_for()
    page.goto("/")
    assert page.get_by_role("heading", name="Log in").is_visible()


def test_slices_are_scrolled_by_wheel_strip_and_mouse(page: Any) -> None:
    log_in(page, "view")
    page.locator("#studies tbody tr").first.get_by_role("link").click()
    first = int(page.locator("#viewer").get_attribute("data-first"))
    wait_for_slice(page, first)
    stage = page.locator("#stage")
    stage.hover()
    page.mouse.wheel(0, -80)  # two notches towards the head
    wait_for_slice(page, first + 2)
    strip = page.locator("#strip")
    box = strip.bounding_box()
    strip.click(position={"x": 2, "y": box["height"] / 2})
    wait_for_slice(page, 1)
    width = int(page.locator("#width").input_value())
    stage.hover()
    page.mouse.down()
    box = stage.bounding_box()
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    page.mouse.move(middle["x"] + 60, middle["y"])
    page.mouse.up()
    assert int(page.locator("#width").input_value()) > width
    assert abs(int(page.locator("#center").input_value()) - 40) <= 1  # only its width was changed


def test_a_correction_takes_the_slice_that_is_shown(page: Any) -> None:
    log_in(page, "judge")
    page.locator("#studies tbody tr").first.get_by_role("link").click()
    first = int(page.locator("#viewer").get_attribute("data-first"))
    wait_for_slice(page, first)
    page.get_by_role("radio", name="Correct").check()
    page.get_by_role("button", name="slice to epidural").click()
    assert page.locator('[name="slices_epidural"]').input_value() == str(first)
    page.get_by_role("button", name="Save my judgment").click()
    page.get_by_text("corrected: epidural, any").or_(page.get_by_text("corrected: any")).first.wait_for()


def test_the_worklist_renews_itself_and_keeps_the_focus(page: Any) -> None:
    page.clock.install()
    log_in(page, "view")
    second = page.locator("#studies tbody tr").nth(1).get_by_role("link")
    second.focus()
    focused = page.evaluate("document.activeElement.href")
    page.evaluate("document.querySelectorAll('#studies tbody td').forEach((each) => each.replaceChildren())")
    with page.expect_response(lambda answer: answer.request.headers.get("x-refresh") == "1"):
        page.clock.run_for(16_000)
    page.wait_for_function("document.querySelector('#studies tbody td').textContent.includes('POSITIVE')")
    assert page.evaluate("document.activeElement.href") == focused


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, check: Callable[[Any], None], scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    check(page)
    log_in(page, "administer")
    study = page.locator("#studies tbody tr").first.get_by_role("link").get_attribute("href")
    for path in ("/", study, "/agreement", "/accounts", "/password"):
        page.goto(path)
        check(page)
