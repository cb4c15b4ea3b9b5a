"""The public API: what it names is there, has a page, and costs nothing before it is used."""

from __future__ import annotations

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest
from processes import run_program
from test_readme import PAGES, RUNNING, list_python

import ich

REPOSITORY = Path(__file__).resolve().parents[1]
API = runpy.run_path(str(REPOSITORY / ".ci" / "api.py"))


def test_the_page_lists_the_public_api() -> None:
    assert (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8") == API["make_page"](), (
        "docs/api.md is out of date: python .ci/api.py > docs/api.md"
    )


def test_every_name_of_the_package_is_public_where_it_is_defined() -> None:
    assert set(ich.HOMES.values()) <= set(API["MODULES"])
    for name, home in ich.HOMES.items():
        assert name in importlib.import_module(home).__all__
        assert getattr(ich, name) is getattr(importlib.import_module(home), name)
        assert name in dir(ich)
    with pytest.raises(AttributeError, match="has no attribute 'Detector'"):
        _ = ich.Detector


@pytest.mark.parametrize("name", ich.HOMES)
def test_every_name_of_the_package_has_an_example_that_runs(name: str) -> None:
    code = "".join(block for page in RUNNING for block in list_python(PAGES[REPOSITORY / "docs" / page]))
    assert re.search(rf"\bich\.{name}\b|import .*\b{name}\b", code), f"add {name} to docs/api_examples.md"


@pytest.mark.parametrize("module", API["MODULES"])
def test_public_modules_say_what_is_public(module: str) -> None:
    found = importlib.import_module(module)
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value)
    others = {m for m, value in vars(importlib.import_module("ich")).items() if inspect.ismodule(value)}
    assert module.split(".")[1] in others


def test_no_other_module_declares_public_names() -> None:
    declaring = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
        for path in (REPOSITORY / "ich").rglob("*.py")
        if "\n__all__ = " in path.read_text(encoding="utf-8")
    }
    assert declaring == set(API["MODULES"])


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    source = f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
for name in [name for name in sys.modules if name.partition(".")[0] == "ich"]:
    del sys.modules[name]
import ich
print([name for name in sys.modules if name.startswith("ich.")])
"""
    done = run_program(source)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
