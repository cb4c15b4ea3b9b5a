"""The pages of `ich evaluate` and `ich explore` in headless Chromium: the first screen, links, print, axe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from predictions import make_table

from ich.evaluation_report import write_evaluation
from ich.explore import explore, write_exploration
from ich.phantom import write_phantom
from ich.tables import write_table


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report and an exploration."""
    folder = tmp_path_factory.mktemp("pages")
    for part, seed in (("test", 0), ("val", 1)):
        write_table(make_table(patients=40, seed=seed, part=part), folder / f"predictions_{part}.csv")
    write_evaluation(folder, replicates=30, tell=lambda line: None)
    write_phantom(folder / "phantom", patients=4, size=64)
    document = explore(folder / "phantom", index_dir=folder / "index", progress=False)
    page = write_exploration(document, folder / "explored")
    return {"report": folder / "evaluation" / "report.html", "exploration": page}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "exploration"])
def test_axe_finds_nothing(
    page: Any, pages: dict[str, Path], check: Callable[[Any], None], name: str, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(pages[name].as_uri())
    check(page)


def ends_on_the_first_screen(page: Any, part: Any) -> bool:
    box = part.bounding_box()
    return bool(box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"])


def test_the_first_screen_shows_the_verdict(page: Any, pages: dict[str, Path]) -> None:
    page.goto(pages["report"].as_uri())
    parts = [page.get_by_text("Research use only").first, page.locator(".first > p").first]
    parts.append(page.locator(".first > ul"))
    if page.viewport_size["width"] > 1000:
        parts.append(page.locator(".first table"))
    assert all(ends_on_the_first_screen(page, part) for part in parts)


def test_the_first_screen_shows_what_stands_out(page: Any, pages: dict[str, Path]) -> None:
    page.goto(pages["exploration"].as_uri())
    cards = page.locator("article")
    assert cards.count() == 3
    if page.viewport_size["width"] > 1000:
        assert all(ends_on_the_first_screen(page, card.locator("h3")) for card in cards.all())
        assert all(ends_on_the_first_screen(page, card.locator("img")) for card in cards.all())
    link = cards.first.get_by_role("link")
    title = link.inner_text().removeprefix("More: ")
    link.click()
    assert page.get_by_role("heading", name=title, exact=True).bounding_box()["y"] < 100


def test_folded_parts_are_printed(page: Any, pages: dict[str, Path]) -> None:
    page.goto(pages["report"].as_uri())
    table = page.get_by_role("region", name="Discrimination by slice")
    assert not table.is_visible()
    page.emulate_media(media="print")
    assert table.bounding_box()["height"] > 20
