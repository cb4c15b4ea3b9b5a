"""Makes the pages of the reference from the code: the command line, the configuration and the file formats.

`.ci/site_pages.py` adds them to the site. They are not kept in the repository, so they are never out of date.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from runpy import run_path
from typing import Any
from unittest import mock

import griffe
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

JSON_FORMATS = (
    ("A result of a study", "results/0001.json of `ich predict`", "ich.schema.results", "StudyResult"),
    ("A bundle", "`model.json` in it", "ich.model_files.description", "Description"),
    ("A calibration", "`ich evaluate --write-calibration`", "ich.calibration.files", "CalibrationFile"),
    ("A job of a sweep", "`job.json` in its folder", "ich.sweeps.record", "JobRecord"),
    ("An engine", "`engine.json` of `ich doctor --tune`", "ich.networks.engines", "EngineFile"),
    ("A machine", "`ich doctor --json`", "ich.doctor.record", "Machine"),
    ("Lesions", "metadata of the file of `ich generate`", "ich.image.lesions.bank", "BankMetadata"),
    ("Features", "metadata of `series/features.safetensors`", "ich.model_files.features", "Description"),
)
"""Title of each format in JSON, where it is written, and the class that reads it."""

TABLES = (
    ("The index", "a row per slice, as Parquet in `.ich`", "ich.tables", ("HEADER_DTYPES", "INDEX_DTYPES")),
    ("`studies.csv`", "a row per study", "ich.outputs.tables", ("list_study_columns",)),
    (
        "`slices.csv`",
        "a row per slice; also a predictions table",
        "ich.outputs.tables",
        ("list_slice_columns",),
    ),
    ("`series.csv`", "a row per series", "ich.outputs.tables", ("SERIES_DTYPES",)),
)
"""Title of each table, what a row is, and the constants or functions that list its columns."""


def join_lines(lines: Iterable[str]) -> str:
    """Joins the lines of a page."""
    return "\n".join(lines) + "\n"


def to_cell(text: str) -> str:
    """A text as a cell of a table; names such as ``_target_`` would become italic."""
    text = re.sub(r"(?<![`\w])(_\w+_)(?![`\w])", r"`\1`", " ".join(text.split()))
    return text.replace("|", "\\|").replace("<", "&lt;")


def make_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yields the lines of a table."""
    head = list(head)
    yield from (f"| {' | '.join(head)} |", "|" + "---|" * len(head))
    yield from (f"| {' | '.join(map(to_cell, row))} |" for row in rows)
    yield ""


def read_arguments(target: Callable[..., Any]) -> dict[str, str]:
    """What the docstring of a class or function says of each argument."""
    found = {}
    for text in filter(None, [getattr(target, "__init__", None), target]):
        for section in griffe.Docstring(inspect.getdoc(text) or "").parse("google", warnings=False):
            if section.kind in {
                griffe.DocstringSectionKind.parameters,
                griffe.DocstringSectionKind.attributes,
            }:
                found |= {each.name: each.description for each in section.value}
    return found


def make_command_line_page() -> str:
    """The page of ``ich`` and its commands, from their parsers."""
    from ich.cli import COMMANDS, _make_parser

    lines = ["# The command line", "", "`ich COMMAND --help` prints the same.", ""]
    lines += make_table(
        ["command", "what it does"], ((f"[`ich {n}`](#ich-{n})", s) for n, s in COMMANDS.items())
    )
    for name, summary in COMMANDS.items():
        if name == "train":
            lines += [f"## ich {name}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
            lines += ["[The configuration](configuration.md) lists the settings.", ""]
            continue
        with mock.patch.dict(os.environ, {"COLUMNS": "100"}):
            top = _make_parser([name])
            choices = next(a.choices for a in top._actions if isinstance(a, argparse._SubParsersAction))
            lines += _describe_command(name, choices[name])
    return join_lines(lines)


def _describe_command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield from (f"## ich {name}", "", " ".join((parser.description or "").split()), "")
    yield from ("```text", parser.format_usage().strip(), "```", "")
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest != "help"]
        if not actions:
            continue
        formatter = parser._get_formatter()
        title = {"positional arguments": "argument", "options": "option"}.get(group.title or "", group.title)
        rows = [
            (
                f"`{', '.join(a.option_strings) or formatter._format_args(a, a.dest)}`"
                + (
                    f" `{formatter._format_args(a, a.dest.upper())}`"
                    if a.option_strings and a.nargs != 0
                    else ""
                ),
                formatter._expand_help(a),
            )
            for a in actions
        ]
        yield from make_table([str(title), "what it does"], rows)
    if parser.epilog:
        yield from ("```text", parser.epilog.strip(), "```", "")


def make_configuration_page() -> str:
    """The page of all settings: groups, their files, and the signatures behind them."""
    from ich.train.targets import TARGETS, describe_targets

    described = dict(zip((target.__name__ for target in TARGETS), describe_targets().values(), strict=True))
    targets = {target.__name__: target for target in TARGETS}
    lines = ["# The configuration", ""]
    lines += ["`GROUP=FILE` chooses a file of a group, and `key=value` changes a setting. The signature of a"]
    lines += [
        "constructor is the schema, and the only home of each default. `???` marks a setting without one.",
        "",
    ]
    lines += [
        "## Settings of a run",
        "",
        *make_table(["setting", "default", "meaning"], _list_settings()),
        "",
    ]
    for group in _list_groups():
        files = sorted((CONF / group).glob("*.yaml"))
        if not files:
            continue
        lines += [f"## {group}", "", *make_table([f"`{group}=`", "what it is"], map(_describe_file, files))]
        texts = "".join(path.read_text(encoding="utf-8") for path in files)
        for name in dict.fromkeys(re.findall(r"/signature/(\w+)@", texts)):
            meanings = _read_meanings(targets[name])
            rows = [
                (
                    f"`{group}.{key}`",
                    f"`{_show(default)}`",
                    "" if kind == "Any" else kind,
                    meanings.get(key, ""),
                )
                for key, kind, default in described[name]
            ]
            if rows:
                lines += [f"`{targets[name].__module__}.{name}`:", ""]
                lines += make_table(["setting", "default", "type", "meaning"], rows)
    return join_lines(lines)


def _read_meanings(target: Callable[..., Any]) -> dict[str, str]:
    if target.__name__ != "build_trainer":
        return read_arguments(target)
    from pytorch_lightning import Trainer

    # Lightning's texts are long; the first sentence says what the argument is for.
    theirs = {
        name: text.partition(". ")[0].partition("\n")[0] for name, text in read_arguments(Trainer).items()
    }
    return theirs | read_arguments(target)


def _list_groups() -> list[str]:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    names = [name for each in defaults if isinstance(each, Mapping) for name in each]
    return [name for name in names if " " not in name]


def _list_settings() -> Iterator[tuple[str, str, str]]:
    """Yields the settings of ``config.yaml``, each with the comment above it."""
    comment: list[str] = []
    for line in (CONF / "config.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment.append(line[2:])
        elif (found := re.fullmatch(r"(\w+): (.+)", line)) and comment:
            yield f"`{found[1]}`", f"`{found[2]}`", " ".join(comment)
            comment = []
        else:
            comment = []


def _describe_file(path: Path) -> tuple[str, str]:
    lines = path.read_text(encoding="utf-8").removeprefix("# @package _global_\n").splitlines()
    comments = [line[2:] for line in takewhile(lambda line: line.startswith("# "), lines)]
    # A line that is indented further is a command.
    return f"`{path.stem}`", " ".join(line for line in comments if not line.startswith(" "))


def _show(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def make_formats_page() -> str:
    """The page of file formats: JSON from their classes, tables from the lists of their columns."""
    from ich.schema.formats import adapt

    lines = [
        "# File formats",
        "",
        "A file that does not match its format exactly is refused. A format has a number,",
    ]
    lines += ["which grows if an older program cannot read the file.", ""]
    lines += [
        "[Results of studies](../study_result.schema.json) and [machines](../machine.schema.json) have JSON"
    ]
    lines += ["schemas of their own.", ""]
    for title, where, module, name in JSON_FORMATS:
        found = getattr(importlib.import_module(module), name)
        schema = adapt(found).json_schema()
        lines += [f"## {title}", "", f"Written as {where}.", ""]
        parts = {name: schema, **schema.get("$defs", {})}
        for part, each in parts.items():
            if "properties" not in each:
                continue
            if part != name:
                lines += [f"### {title}: {part}", ""]
            lines += _describe_object(each)
    for title, what, module, names in TABLES:
        source = importlib.import_module(module)
        text = "\n".join(_read_source(source, each) for each in names)
        rows = [(f"`{column}`", kind, meaning) for column, kind, meaning in _list_columns(text)]
        lines += [
            f"## {title}",
            "",
            f"This table has {what}.",
            "",
            *make_table(["column", "type", "meaning"], rows),
        ]
    return join_lines(lines)


def _describe_object(schema: Mapping[str, Any]) -> Iterator[str]:
    sections = griffe.Docstring(schema.get("description", "")).parse("google", warnings=False)
    meanings = {}
    for section in sections:
        if section.kind is griffe.DocstringSectionKind.text:
            yield from (section.value, "")
        elif section.kind in {griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters}:
            meanings = {each.name: each.description for each in section.value}
    rows = (
        (f"`{name}`", _show_type(each), each.get("description", meanings.get(name, "")))
        for name, each in schema["properties"].items()
    )
    yield from make_table(["field", "type", "meaning"], rows)


def _show_type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(map(_show_type, schema[key])))
    if schema.get("type") == "array" or "prefixItems" in schema:
        inner = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return f"list of {_show_type(inner)}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_show_type(inner)}" if isinstance(inner, Mapping) else "object"
    kind = str(schema.get("type", "value"))
    return {"string": "text", "integer": "whole number"}.get(kind, kind)


def _read_source(module: Any, name: str) -> str:
    """The source of a function, or of a constant of a module."""
    found = getattr(module, name)
    if inspect.isfunction(found):
        return inspect.getsource(found)
    text = inspect.getsource(module)
    begin = re.search(rf"^{name}\b.*?$", text, re.MULTILINE)
    if begin is None:
        raise LookupError(f"{module.__name__} has no {name}")
    return text[begin.start() : text.index("\n}", begin.start())]


def _list_columns(source: str) -> Iterator[tuple[str, str, str]]:
    """Yields the columns that a dictionary in a source lists, each with its type and its comment."""
    above = ""
    for line in source.splitlines():
        code, _, comment = (part.strip() for part in line.partition("# "))
        if not code:
            above = comment
            continue
        many = re.match(r'\*\*dict\.fromkeys\(name_columns\("(\w+)", .*?\), "(\w+)"\)', code)
        if found := re.fullmatch(r'"?(\w+)"?: "(\w+)",', code):
            yield (
                found[1].replace("SLAB_COLUMN", "slab").replace("WEIGHTS_COLUMN", "weights_sha256"),
                found[2],
                comment,
            )
        elif many:
            yield f"{many[1]}_LABEL", many[2], comment or above
        elif "dict.fromkeys(UIDS" in code:
            for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
                yield name, "str", comment
        above = ""


def list_api_pages() -> dict[str, str]:
    """A page for each public module, whose text mkdocstrings makes from the docstrings of ``__all__``."""
    modules = run_path(str(ROOT / ".ci" / "api.py"))["MODULES"]
    return {
        f"api/{module}.md": f"# {module}\n\n::: {module}\n    options: {{members: {_list_public(module)}}}\n"
        for module in modules
    }


def _list_public(module: str) -> list[str]:
    """What ``__all__`` of a module lists, read without importing it: some modules want an extra."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise LookupError(f"{path} has no __all__")
