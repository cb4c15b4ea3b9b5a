"""The settings of the service, from one YAML file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ich.files import OWNER_ONLY
from ich.schema import UserError
from ich.schema.formats import STRICT, adapt, show
from ich.serve.settings.parts import Complete, Mode, Node, Read, Receive, Rules, Upkeep, Web


@dataclass(frozen=True)
class Settings:
    """Settings of `ich serve`."""

    __pydantic_config__ = STRICT

    bundle: str
    """The model: a bundle, checkpoint or ONNX file."""
    folder: str
    """Folder for all that the service keeps."""
    queue: str | None = None
    """postgresql://USER@HOST/NAME for readers on several machines; null for a file in the folder."""
    mode: Mode = OWNER_ONLY
    """Permissions of new files, in quotes: "640" lets the group read. The database stays private."""
    log: str | None = None
    """File for the log, a JSON object a line, beside standard error; null for none."""
    receive: Receive = field(default_factory=Receive)
    complete: Complete = field(default_factory=Complete)
    read: Read = field(default_factory=Read)
    rules: Rules = field(default_factory=Rules)
    send: tuple[Node, ...] = ()
    """Where answers go; a list of name, kind, address and what else docs/serve.md says."""
    web: Web = field(default_factory=Web)
    upkeep: Upkeep = field(default_factory=Upkeep)

    @property
    def inbox(self) -> Path:
        """Folder of the received objects."""
        return Path(self.folder) / "inbox"

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return Path(self.folder) / "results"

    @property
    def audit(self) -> Path:
        """Folder of the older part of the audit log."""
        return Path(self.folder) / "audit"

    @property
    def store(self) -> str:
        """Address of the database."""
        return self.queue or str(Path(self.folder) / "queue.sqlite")


def read_settings(path: Path) -> Settings:
    """Reads settings from a YAML file.

    Raises:
        UserError: If the file cannot be read, or a setting is unknown, missing or not allowed.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; `ich serve --init` writes one") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return make_settings(found, str(path))


def make_settings(found: Any, source: str) -> Settings:
    """Makes settings of plain values.

    Args:
        found: The values.
        source: Names them in messages.

    Raises:
        UserError: If a setting is unknown, missing or not allowed.
    """
    from pydantic import ValidationError

    try:
        settings: Settings = adapt(Settings).validate_json(json.dumps(found))
    except TypeError as error:  # such as a date, which YAML has
        raise UserError(f"{source} holds a value that settings cannot have: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"])
        if first["type"] == "unexpected_keyword_argument":
            raise UserError(f"{source}: the setting {place} is unknown{_list_known(first['loc'])}") from error
        if first["type"] == "missing":
            raise UserError(f"{source}: the setting {place} is missing") from error
        expected = first["msg"].removeprefix("Input should be ")
        where = f"{place}={show(first['input'])}" if place else show(first["input"])
        raise UserError(f"{source}: {where}; expected {expected}") from error
    return settings


def _list_known(place: tuple[int | str, ...]) -> str:
    kind: Any = Settings
    for step in place[:-1]:
        if isinstance(step, int):
            kind = Node
        elif (default := getattr(Settings(bundle="", folder=""), str(step), None)) is not None:
            kind = type(default)
    return f"; known are {', '.join(each.name for each in fields(kind))}" if is_dataclass(kind) else ""


def write_settings(path: Path, bundle: str, folder: str) -> None:
    """Writes a new file with all settings, their defaults and a comment for each.

    Raises:
        UserError: If the file exists.
    """
    settings = Settings(bundle=bundle, folder=folder)
    schema = adapt(Settings).json_schema()
    lines = ["# Settings of `ich serve`. Research use only; not a medical device."]
    lines += _write_section(adapt(Settings).dump_python(settings, mode="json"), schema, schema, "")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError as error:
        raise UserError(f"{path} exists; remove it, or give --init another name") from error


def _write_section(
    values: dict[str, Any], section: dict[str, Any], schema: dict[str, Any], indent: str
) -> list[str]:
    lines = []
    for name, value in values.items():
        known = section["properties"][name]
        part = schema["$defs"].get(known.get("$ref", "").removeprefix("#/$defs/"))
        if comment := known.get("description") or (part or {}).get("description"):
            lines += [f"{indent}# {line}" for line in str(comment).splitlines()]
        if isinstance(value, dict) and part is not None:
            lines.append(f"{indent}{name}:")
            lines += _write_section(value, part, schema, indent + "  ")
        else:
            lines.append(f"{indent}{name}: {_write_value(value)}")
    return lines


def _write_value(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n...\n").strip()
