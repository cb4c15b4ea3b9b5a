"""Writes docs/api.md: the public API, by module, with the first sentence of each docstring.

python .ci/api.py > docs/api.md

Public are the names of ``ich.__all__`` and of ``__all__`` in the modules below. Everything else is internal.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from itertools import pairwise
from types import ModuleType
from typing import Any

MODULES = (
    "ich.schema",
    "ich.schema.labels",
    "ich.schema.results",
    "ich.dicom",
    "ich.phantom",
    "ich.image",
    "ich.image.window",
    "ich.image.augment",
    "ich.image.lesions",
    "ich.tables",
    "ich.calibration",
    "ich.index",
    "ich.index.split",
    "ich.model_files.bundle",
    "ich.model_files.ensemble",
    "ich.model_files.metadata",
    "ich.data",
    "ich.models",
    "ich.models.losses",
    "ich.models.metrics",
    "ich.models.optim",
    "ich.models.series",
    "ich.evaluate",
    "ich.evaluate.comparison",
    "ich.evaluate.folds",
    "ich.evaluate.submission",
    "ich.explore",
    "ich.generate",
    "ich.studies",
    "ich.networks",
    "ich.networks.bundling",
    "ich.networks.export",
    "ich.explain",
    "ich.outputs.records",
    "ich.outputs.tables",
    "ich.outputs.sr",
    "ich.outputs.captures",
    "ich.outputs.pages",
    "ich.evaluation_report",
    "ich.predict",
    "ich.predict.run",
    "ich.recalibrate",
    "ich.quantize",
    "ich.train",
    "ich.train.run",
    "ich.train.trainer",
)
"""The public modules, in the order of the map in ``ich/__init__.py``."""


def list_public(module: str) -> list[str]:
    """The public names of a module."""
    return sorted(importlib.import_module(module).__all__)


def describe(module: str, name: str) -> str:
    """The first paragraph of a name's docstring; a constant has its own below it."""
    found = importlib.import_module(module)
    value: Any = getattr(found, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        text = inspect.getdoc(value) or ""
    else:
        text = _read_constants(found).get(name, "")
    return " ".join(text.partition("\n\n")[0].split())


def _read_constants(module: ModuleType) -> dict[str, str]:
    """The text below each constant of a module."""
    body = ast.parse(inspect.getsource(module)).body
    return {
        ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0]): below.value.value
        for node, below in pairwise(body)
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def make_page() -> str:
    """Returns the page as Markdown."""
    import ich

    lines = [
        "<!-- Made by .ci/api.py. After a change, renew it: python .ci/api.py > docs/api.md -->",
        "",
        "# Public API",
        "",
        "These names stay the same within a minor version. All others are internal and may change.",
        "",
        "`import ich` is quick: each of these names is imported when it is first used. "
        "[Examples](api_examples.md) show them all.",
        "",
        "| name | module |",
        "|---|---|",
    ]
    lines += [f"| `ich.{name}` | `{home}` |" for name, home in sorted(ich.HOMES.items())]
    for module in MODULES:
        summary = (inspect.getdoc(importlib.import_module(module)) or "").partition("\n\n")[0]
        lines += [
            "",
            f"## `{module}`",
            "",
            " ".join(summary.split()),
            "",
            "| name | what it is |",
            "|---|---|",
        ]
        lines += [f"| `{name}` | {describe(module, name)} |" for name in list_public(module)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(make_page(), end="")
