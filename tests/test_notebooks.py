"""The tutorials: whole, small, without outputs, and with code and commands that could run.

`.ci/notebooks` runs them.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from test_site import NAVIGATION, TEXTS, list_anchors
from test_wording import BRITISH, PHRASES, list_sentences

import ich.cli
from ich.schema import DISCLAIMER
from ich.train.command import VERSION_BASE
from ich.train.signatures import register_signatures

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
NOTEBOOKS = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.ipynb"))
}


def list_cells(notebook: dict[str, Any], kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def list_commands(notebook: dict[str, Any]) -> list[list[str]]:
    cells = [cell for cell in list_cells(notebook, "code") if cell.startswith("%%sh\n")]
    return [shlex.split(line) for cell in cells for line in cell.splitlines()[1:]]


def test_each_kind_of_user_has_one() -> None:
    assert len(NOTEBOOKS) >= 6


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_whole_and_has_no_outputs(name: str) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.from_dict(NOTEBOOKS[name]))
    assert f": tutorials/{name}\n" in NAVIGATION, f"add tutorials/{name} to nav in mkdocs.yml"
    assert (FOLDER / name).stat().st_size < 20_000


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_has_nothing_of_the_machine_that_ran_it(name: str) -> None:
    for cell in NOTEBOOKS[name]["cells"]:
        assert not cell.get("outputs"), "jupyter nbconvert --clear-output --inplace docs/tutorials/*.ipynb"
        assert cell.get("execution_count") is None
        assert "execution" not in cell["metadata"]
        assert not re.search(r"(?<![\w/.:])/(?:home|root|tmp|work|Users|mnt|opt)/", "".join(cell["source"]))
    assert set(NOTEBOOKS[name]["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_code_compiles_and_its_commands_are_known(name: str) -> None:
    for cell in list_cells(NOTEBOOKS[name], "code"):
        if not cell.startswith("%%sh\n"):
            compile(cell.removeprefix("%%writefile mine.py\n"), name, "exec")
    register_signatures()
    for program, command, *words in list_commands(NOTEBOOKS[name]):
        assert program == "ich"
        if command != "train":
            ich.cli._make_parser([command]).parse_args([command, *words])
            continue
        with initialize_config_dir(str(ROOT / "conf"), **VERSION_BASE):
            compose("config", overrides=words)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_links_lead_to_a_page(name: str) -> None:
    for text in list_cells(NOTEBOOKS[name], "markdown"):
        for target, anchor in re.findall(r"\]\(((?!http)[^)#\s]+)(?:#([^)\s]*))?\)", text):
            path = (FOLDER / target).resolve()
            assert path.is_file(), target
            if anchor:
                assert anchor in list_anchors(TEXTS[path.relative_to(ROOT).as_posix()]), f"{target}#{anchor}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_its_text_is_plain(name: str) -> None:
    text = "\n\n".join(list_cells(NOTEBOOKS[name], "markdown"))
    assert text.startswith("# ")
    assert DISCLAIMER in text
    assert max(len(sentence.split()) for sentence in list_sentences(text)) <= 30
    assert not BRITISH.search(text)
    for phrase in PHRASES:
        assert not re.search(phrase, text), phrase
