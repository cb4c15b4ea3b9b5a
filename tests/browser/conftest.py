"""Headless Chromium for the tests of pages; they are skipped where there is no Chromium or no playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"desk": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module", autouse=True)  # before the pages are written, because it may skip their tests
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def connection() -> dict[str, Any]:
    """What a page can reach, as options of Chromium: by default nothing."""
    return {"offline": True}


@pytest.fixture(params=[*SIZES])
def page(browser: Any, connection: dict[str, Any], request: pytest.FixtureRequest) -> Iterator[Any]:
    """An empty page of the size of a desk's screen and of a phone's; it fails on any error in it."""
    width, height = SIZES[request.param]
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=request.param == "phone", **connection
    )
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    yield opened
    context.close()
    assert faults == []


@pytest.fixture(scope="session")
def check() -> Callable[[Any], None]:
    """Checks that a page fits its screen, and that axe finds nothing, in folded parts either."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def check(page: Any) -> None:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), page.url
        found = axe.run(page).response["violations"]
        assert not found, (
            page.url,
            [(each["id"], [node["html"] for node in each["nodes"]]) for each in found],
        )

    return check
