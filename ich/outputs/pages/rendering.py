"""Turns the templates of this folder into pages that contain their pictures and need no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import jinja2

from ich.files import for_owner_only, replacing


def render(template: str, content: Mapping[str, object]) -> str:
    """Returns a page; its texts are never read as markup."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ich.outputs.pages", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    return environment.get_template(template).render(content)


def write_page(text: str, path: Path) -> None:
    """Writes a page for its owner, completely or not at all."""
    with for_owner_only(), replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
