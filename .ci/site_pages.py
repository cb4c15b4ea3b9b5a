"""A hook of MkDocs: adds to the site what does not stand in `docs/`, and sets its links.

- The README is the first page. The benchmarks, the changelog and the like are pages too.
- `reference.py` makes pages from the code.
- A link from a page to a file of the repository that is no page becomes its text and the file's path.
- A link from a notebook to a page gets the page's place on the site.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

INCLUDED = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
}
"""Files of the repository that are pages of the site, and their place there."""

PAGE_OF_NOTEBOOK = re.compile(r'href="(?!https?:)([^"#]+\.(?:md|ipynb))(#[^"]*)?"')

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def _load_reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", Path(__file__).with_name("reference.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _load_reference()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds a page for each public module to the navigation, below ``api.md``."""
    modules = [{page.removeprefix("api/").removesuffix(".md"): page} for page in REFERENCE.list_api_pages()]
    for section in config.nav or []:
        for pages in section.values():
            if isinstance(pages, list) and "api.md" in [path for each in pages for path in each.values()]:
                pages.append({"Modules": modules})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not stand in ``docs/``."""
    pages = REFERENCE.list_api_pages() | {
        "reference/command_line.md": REFERENCE.make_command_line_page(),
        "reference/configuration.md": REFERENCE.make_configuration_page(),
        "reference/formats.md": REFERENCE.make_formats_page(),
    }
    pages |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in INCLUDED.items()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Sets the links of a page that lead out of ``docs/``, or come from without."""
    here = page.file.src_uri
    sources = {place: source for source, place in INCLUDED.items()}
    if here.startswith(("reference/", "api/")):
        return markdown
    return set_links(markdown, sources.get(here, f"docs/{here}"), here)


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    """Sets the links of a notebook, which its plugin leaves as they are.

    Raises:
        PluginError: If a link leads nowhere.
    """
    here = page.file.src_uri
    return set_notebook_links(html, here, page.file, files) if here.endswith(".ipynb") else html


def set_notebook_links(html: str, here: str, file: File, files: Files) -> str:
    """Sets the links of a notebook's page to pages and notebooks of the site."""

    def replace(found: re.Match[str]) -> str:
        path = os.path.normpath(PurePosixPath(here).parent / found[1])
        target = files.get_file_from_path(path)
        if target is None:
            raise PluginError(f"{here} has a link to {path}, which is not a page")
        return f'href="{target.url_relative_to(file)}{found[2] or ""}"'

    return PAGE_OF_NOTEBOOK.sub(replace, html)


def set_links(markdown: str, source: str, here: str) -> str:
    """Sets the links of a text from the repository for its place on the site.

    Args:
        markdown: The text.
        source: Its file, relative to the repository.
        here: Its place on the site.
    """

    def replace(found: re.Match[str]) -> str:
        mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return found[0]
        path = os.path.normpath(PurePosixPath(source).parent / target)
        place = INCLUDED.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if place is None:
            return f"{text} (`{path}`)"
        return f"{mark}[{text}]({os.path.relpath(place, PurePosixPath(here).parent)}{anchor})"

    return LINK.sub(replace, markdown)
