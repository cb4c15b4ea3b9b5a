"""The pages of `ich predict --write page` in headless Chromium: first screen, strip, list, axe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from results import GAP, ODD, TWICE, make_refused, make_result
from served import draw_heat

from ich.index import build_index
from ich.outputs.pages import write_study_page
from ich.outputs.pages.index import write_index
from ich.outputs.pages.strip import draw_strip
from ich.outputs.pages.study import Attributes
from ich.outputs.pages.views import make_views
from ich.phantom import write_phantom

NAMES = ("positive", "negative", "indeterminate", "undecided", "refused", "index")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of each kind, and a list of 250 studies."""
    root, folder = tmp_path_factory.mktemp("phantom"), tmp_path_factory.mktemp("pages")
    write_phantom(root, patients=1, size=256, conformant=True)
    table = build_index(root, index_dir=tmp_path_factory.mktemp("index"), progress=False).table
    rows = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    rows = rows.sort_values("position", ignore_index=True)
    every = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
    results = {
        "positive": make_result(rows, present=every, reasons=[GAP], notes=[TWICE], left_out={2: ODD}),
        "negative": make_result(rows, present=()),
        "indeterminate": make_result(rows, present=(), reasons=[GAP, ODD]),
        "undecided": make_result(rows, decided=False, known=False),
        "refused": make_refused(),
    }
    names = {}
    for name, result in results.items():
        read = result.outcome is not None
        views = (
            [replace(v, heat=draw_heat(v.hu)) for v in make_views(result, root, rows, None)] if read else []
        )
        pictures = draw_strip(result, root, rows) if read else {}
        asked = Attributes(
            {"StudyDate": "20240102"}, {each.SeriesInstanceUID: "HEAD 5 mm" for each in result.series}
        )
        write_study_page(result, views, folder / f"{name}.html", pictures, asked)
    kinds = list(results.items())
    many = [replace(kinds[n % 5][1], number=n + 1) for n in range(250)]
    names = {n + 1: f"{kinds[n % 5][0]}.html" for n in range(250)}
    write_index(many, folder, names)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, pages: Path, check: Callable[[Any], None], scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for name in NAMES:
        page.goto((pages / f"{name}.html").as_uri())
        check(page)


def test_the_first_screen_shows_outcome_subtypes_and_key_image(page: Any, pages: Path) -> None:
    page.goto((pages / "positive.html").as_uri())
    height = page.viewport_size["height"]
    for part in (".outcome", ".glance", ".subtypes", ".key-image img"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= height, part


def test_a_click_on_the_strip_shows_that_slice(page: Any, pages: Path) -> None:
    page.goto((pages / "positive.html").as_uri())
    shown = page.locator(".strip figure:visible")
    assert shown.count() == 1
    bars = page.locator(".strip label")
    bars.nth(4).click(position={"x": 2, "y": 10})
    assert shown.locator("figcaption").inner_text().startswith("Slice 5 of ")
    page.keyboard.press("ArrowRight")
    assert shown.locator("figcaption").inner_text().startswith("Slice 6 of ")
    assert shown.count() == 1


def test_folded_parts_are_printed(page: Any, pages: Path) -> None:
    page.goto((pages / "positive.html").as_uri())
    rows = page.get_by_role("region", name="Algorithm")
    assert not rows.is_visible()
    page.emulate_media(media="print")
    assert rows.bounding_box()["height"] > 20


def test_the_list_is_sorted_filtered_and_paged(page: Any, pages: Path) -> None:
    page.goto((pages / "index.html").as_uri())
    rows, said = page.locator("tbody tr"), page.get_by_role("status")
    assert rows.count() == 100
    assert rows.first.get_attribute("data-outcome") == "POSITIVE"
    page.get_by_role("button", name="Next").click()
    assert "Page 2 of 3" in page.locator("#place").inner_text()
    page.get_by_role("combobox", name="Outcome").select_option("NEGATIVE")
    assert said.inner_text() == "50 of 250 studies"
    page.get_by_label("Text in a row").fill("Study 12")
    assert {row.get_attribute("data-number") for row in rows.all()} == {"12", "122", "127"}
    page.get_by_label("Text in a row").fill("")
    page.get_by_role("combobox", name="Outcome").select_option("")
    page.get_by_label("Sort by").select_option("last study")
    assert rows.first.get_attribute("data-number") == "250"
    rows.first.get_by_role("link").click()
    assert page.title() == "Study 1: NOT ANALYZED"
