"""The house rule: a module imports only from a strictly lower floor of the map in ``ich/__init__.py``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = {"hydra", "omegaconf"}
LAZY = {"__future__", "importlib", "typing", "ich"}  # of ich itself only types: see test_api


def read_floors(package: Path) -> dict[str, int]:
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))) or ""
    return {
        name: int(floor) for name, floor in re.findall(r"^ *([a-z_]+) +(\d+) {2}\S", docstring, re.MULTILINE)
    }


def list_sources(package: Path) -> Iterator[tuple[str, Path]]:
    """Yields the files of a package, each with the module on the map that it belongs to."""
    for path in sorted(package.rglob("*.py")):
        top = path.relative_to(package).parts[0]
        yield ("" if top == "__init__.py" else top.removesuffix(".py")), path


def list_imports(path: Path, package: Path) -> Iterator[str]:
    """Yields the dotted names that a file imports, wherever in it; relative ones made absolute."""
    here = ("ich", *path.relative_to(package).parent.parts) if path.is_relative_to(package) else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # In "from ich import window" the module is the name.
            yield from (f"ich.{alias.name}" for alias in node.names) if module == "ich" else [module]


def find_faults(root: Path) -> list[str]:
    package = root / "ich"
    floors = read_floors(package)
    sources = list(list_sources(package))
    present = {module for module, _ in sources} - {""}
    faults = [f"{module} is on the map and has no file" for module in floors.keys() - present]
    faults += [f"{module} is not on the map" for module in present - floors.keys()]
    for module, path in [*sources, ("train", root / "train.py")]:
        where = path.relative_to(root).as_posix()
        for name in list_imports(path, package):
            first, _, rest = name.partition(".")
            if first in CONFIGURATION and module != "train":
                faults.append(f"{where} imports {first}")
            if module == "" and first not in LAZY:
                faults.append(f"{where} imports {name}")
            target = rest.partition(".")[0]
            inside = path != root / "train.py" and first == "ich" and target != module
            if inside and {module, target} <= floors.keys() and floors[target] >= floors[module]:
                faults.append(f"{where} imports {name}, which is not below it")
            if first == "ich" and target and target not in {*floors, "__version__"}:
                faults.append(f"{where} imports {name}, which is not on the map")
    return sorted(faults)


def test_every_import_goes_down() -> None:
    assert len(read_floors(ROOT / "ich")) >= 10
    assert find_faults(ROOT) == []


def test_the_page_of_the_design_has_the_same_map() -> None:
    rows = re.findall(
        r"^\| (\d+) \| ([^|]+) \|", (ROOT / "docs/design.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    mapped = {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert mapped == read_floors(ROOT / "ich"), "docs/design.md has another map than ich/__init__.py"


MAP = '"""Map.\n\n    low        0  a\n    high       1  b\n    train      2  c\n"""\n'
HOUSE = {
    "train.py": "import hydra\nfrom ich.train import main\n",
    "ich/__init__.py": MAP + '__version__ = "1"\n',
    "ich/low.py": "import math\n",
    "ich/high/__init__.py": "from .inner import x\nfrom ich.low import y\n",
    "ich/high/inner.py": "import ich.low\nfrom .. import low, __version__\n",
    "ich/train.py": "import omegaconf\nfrom ich import high\n",
}


@pytest.mark.parametrize(
    ("path", "text", "fault"),
    [
        ("ich/low.py", "import math\n", None),
        (
            "ich/low.py",
            "def f():\n    from ich.high import x\n",
            "ich/low.py imports ich.high, which is not below it",
        ),
        ("ich/low.py", "import ich.high.inner\n", "ich/low.py imports ich.high.inner, which is not below it"),
        ("ich/low.py", "from ich import train\n", "ich/low.py imports ich.train, which is not below it"),
        (
            "ich/high/inner.py",
            "from ..train import x\n",
            "ich/high/inner.py imports ich.train, which is not below it",
        ),
        ("ich/low.py", "from hydra import compose\n", "ich/low.py imports hydra"),
        (
            "ich/low.py",
            "from ich.cellar import x\n",
            "ich/low.py imports ich.cellar, which is not on the map",
        ),
        ("ich/__init__.py", MAP + "import math\n", "ich/__init__.py imports math"),
        ("ich/attic.py", "", "attic is not on the map"),
        (
            "ich/__init__.py",
            MAP.replace("train ", "gone 1  d\n    train "),
            "gone is on the map and has no file",
        ),
    ],
)
def test_a_fault_is_found(tmp_path: Path, path: str, text: str, fault: str | None) -> None:
    for name, content in (HOUSE | {path: text}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert find_faults(tmp_path) == ([] if fault is None else [fault])
