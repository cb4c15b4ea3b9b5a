"""The site: its navigation, its links, and the pages that are made from the code."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ich import __version__
from ich.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
}


@pytest.fixture(scope="module")
def reference() -> Any:
    """The script that makes the pages of the reference."""
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_page_is_in_the_navigation(page: str) -> None:
    assert re.search(rf": {re.escape(page)}$", NAVIGATION, re.MULTILINE), f"add {page} to nav in mkdocs.yml"


def list_anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MkDocs make them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_a_file_and_a_heading(page: str) -> None:
    for target, anchor in re.findall(r"\]\(((?!http)[^)#\s]*)(?:#([^)\s]*))?\)", TEXTS[page]):
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in list_anchors(TEXTS[path.relative_to(ROOT).as_posix()]), f"{target}#{anchor}"


def test_project_files_can_be_read_and_have_the_version() -> None:
    for pattern in ("*.yml", "ISSUE_TEMPLATE/*.yml", "workflows/*.yml"):
        for path in (ROOT / ".github").glob(pattern):
            assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert cited["authors"] == [{"name": "The ich contributors"}]


def test_pictures_of_the_readme_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXTS["README.md"])
    assert len(pictures) >= 6
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < 100_000, picture


def test_the_page_of_the_command_line_has_every_command_and_option(reference: Any) -> None:
    page = reference.make_command_line_page()
    assert re.findall(r"^## ich (\S+)$", page, re.MULTILINE) == list(COMMANDS)
    for option in ("--tta", "--write", "--labels", "--hash", "--audit"):
        assert re.search(rf"^\| `{option}\b", page, re.MULTILINE), option
    assert "%(default)s" not in page


def test_the_page_of_the_configuration_has_every_setting_with_its_meaning(reference: Any) -> None:
    page = reference.make_configuration_page()
    for path in (ROOT / "conf").glob("*/*.yaml"):
        assert re.search(rf"^## {path.parent.name}$", page, re.MULTILINE), path
        assert f"| `{path.stem}` | " in page, path
    for row in re.findall(r"^\| `[a-z_]+\.[a-z_]+` \|.*$", page, re.MULTILINE):
        assert not row.endswith("|  |"), f"its docstring does not say what it is: {row}"


def test_the_page_of_the_formats_has_every_format(reference: Any) -> None:
    page = reference.make_formats_page()
    named = {
        found
        for path in (ROOT / "ich").rglob("*.py")
        for found in re.findall(r"Literal\[\"(ich [a-z]+ \d+)\"\]", path.read_text(encoding="utf-8"))
    }
    missing = {name for name in named if f"`{name}`" not in page}
    assert missing <= {"ich network 4", "ich int8 1"}, missing  # their modules need extras
    for column in ("position", "prob_LABEL", "ContentTime", "left_out"):
        assert f"| `{column}` |" in page


@pytest.fixture(scope="module")
def pages() -> Any:
    """The hook that sets links."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci" / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_a_notebook_fit_its_place_on_the_site(pages: Any) -> None:
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File, Files

    here, *others = (File(path, "", "", False) for path in ("t/a.md", "t/b.md", "c.md"))
    files = Files([here, *others])
    html = '<a href="../c.md#d"> <a href="b.md"> <a href="https://e/f.md"> <a href="#g">'
    assert pages.set_notebook_links(html, "t/a.ipynb", here, files) == (
        '<a href="../c.html#d"> <a href="b.html"> <a href="https://e/f.md"> <a href="#g">'
    )
    with pytest.raises(PluginError, match=r"t/gone\.ipynb"):
        pages.set_notebook_links('<a href="gone.ipynb">', "t/a.ipynb", here, files)


def test_links_of_a_page_fit_its_place_on_the_site(pages: Any) -> None:
    text = "![a](docs/x.png) [b](docs/y.md#z) [c](LICENSE) [d](https://e) [f](#g) [h](benchmarks/README.md)"
    assert pages.set_links(text, "README.md", "index.md") == (
        "![a](x.png) [b](y.md#z) c (`LICENSE`) [d](https://e) [f](#g) [h](benchmarks.md)"
    )
    assert pages.set_links("[a](../CHANGELOG.md) [b](y.md)", "docs/x.md", "x.md") == (
        "[a](changelog.md) [b](y.md)"
    )
