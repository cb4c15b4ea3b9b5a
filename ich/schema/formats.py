"""File formats: typed objects from plain values of unknown origin, and back.

A format is a frozen dataclass whose fields say by their types what they may hold. From it come the checks,
the plain values that are written, and the published JSON schema, all by pydantic, which is imported only
when a format is used. A field's docstring is its description in the JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast, get_args

from annotated_types import Interval, MaxLen

from ich.schema.errors import UserError

if TYPE_CHECKING:  # pydantic takes a fifth of a second, which `ich --help` need not wait for
    from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import CoreSchema, ErrorDetails

T = TypeVar("T")

STRICT: ConfigDict = {
    "strict": True,
    "extra": "forbid",
    "allow_inf_nan": False,
    "use_attribute_docstrings": True,
}
"""The ``__pydantic_config__`` of each format: converts nothing, ignores nothing and refuses infinity."""


@dataclass(frozen=True)
class Expected:
    """Goes into an ``Annotated``: what a message says about a value of another type.

    Attributes:
        text: What was expected, such as "a number from 0 to 1".
        check: Further check of a value of the type.
        pattern: Regular expression for a text.
    """

    text: str
    check: Callable[[Any], bool] | None = None
    pattern: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Adds the check to those of the type, and gives all of them one message."""
        from pydantic_core import core_schema

        def check(value: Any) -> Any:
            if self.check is not None and not self.check(value):
                raise ValueError(self.text)
            return value

        schema: Any = {**handler(source), **({"pattern": self.pattern} if self.pattern else {})}
        schema = core_schema.no_info_after_validator_function(check, schema)
        return core_schema.custom_error_schema(
            schema, "expected", custom_error_message="{text}", custom_error_context={"text": self.text}
        )


@dataclass(frozen=True)
class ChosenBy:
    """Goes into an ``Annotated`` after a union of dataclasses: selects the class that a value is read as.

    Attributes:
        choose: Takes the value's fields and returns the name of the class.
        text: What was expected, if there is no such class.
    """

    choose: Callable[[dict[str, Any]], Any]
    text: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Reads a value as one class only, so that a message is about that one."""
        from pydantic_core import core_schema

        def choose(value: Any) -> Any:
            return self.choose(value) if isinstance(value, dict) else type(value).__name__

        choices = {kind.__name__: handler.generate_schema(kind) for kind in get_args(source)}
        return core_schema.tagged_union_schema(
            choices,
            choose,
            custom_error_type="expected",
            custom_error_message="{text}",
            custom_error_context={"text": self.text},
        )


@dataclass(frozen=True)
class FromOne:
    """Stands in an ``Annotated`` after a number: a place that files count from 1, and the program from 0."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Subtracts 1 from what is read, and adds 1 to what is written."""
        from pydantic_core import core_schema

        write = core_schema.plain_serializer_function_ser_schema(lambda place: place + 1)
        return core_schema.no_info_after_validator_function(
            lambda number: number - 1, handler(source), serialization=write
        )


Share = Annotated[float, Interval(ge=0, le=1), Expected("a number from 0 to 1")]
Number = Annotated[float, Interval(ge=-1e300, le=1e300), Expected("a number")]
Positive = Annotated[float, Interval(gt=0, le=1e300), Expected("a number above 0")]
NotNegative = Annotated[float, Interval(ge=0, le=1e300), Expected("a number from 0")]
Ordinal = Annotated[int, Interval(ge=1), Expected("a whole number from 1")]
Count = Annotated[int, Interval(ge=0, lt=10**12), Expected("a count")]
Text = Annotated[str, MaxLen(200), Expected("a text of at most 200 characters")]
Explanation = Annotated[str, MaxLen(200), Expected("a reason, on one line", str.isprintable)]
Instant = Annotated[
    str,
    Expected(
        "a time in UTC, such as 2026-11-30T18:05:06.123+00:00",
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$",
    ),
]
DIGEST = "[0-9a-f]{64}"
"""Regular expression of a SHA-256 in hexadecimal."""

Digest = Annotated[str, Expected("a SHA-256", pattern=f"^{DIGEST}$")]


def write_instant(seconds: float) -> Instant:
    """Writes a time as ISO 8601, in UTC.

    Args:
        seconds: Seconds since 1970.
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@cache
def adapt(kind: Any) -> TypeAdapter[Any]:
    """Returns pydantic's reader and writer of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def to_plain(value: Any) -> Any:
    """Returns a typed object as plain values, fit for JSON and for checkpoints that load safely."""
    return adapt(cast("Any", type(value))).dump_python(value, mode="json")


def read_plain(kind: type[T], found: Any, source: str) -> T:
    """Makes a typed object of plain values.

    Args:
        kind: A format, or a type within one.
        found: Whatever a file holds.
        source: Names the file, and the place in it, in messages.

    Raises:
        UserError: If a field is missing, unknown or not of its type; on one line, with its value.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps(found)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source} holds a value of a type that files cannot hold: {error}") from error
    try:
        read: T = adapt(cast("Any", kind)).validate_json(text)
    except UserError as error:  # of a part that checks itself
        raise UserError(f"{source}: {error}") from error
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=_rank)
        raise UserError(_explain(first, found, source)) from error
    if missing := _find_missing(to_plain(read), found):
        raise UserError(f"{_name(source, missing[0])} lacks {missing[1]}; {_DAMAGED}")
    return read


def parse_fields(text: bytes, source: str) -> dict[str, Any]:
    """Reads a JSON object: no field twice, and only valid JSON numbers.

    Raises:
        UserError: If it is something else.
    """
    try:
        found = json.loads(text, object_pairs_hook=_make_fields, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{source} is not a JSON object")
    return found


def read_fields(path: Path, what: str, largest: int) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Args:
        path: The file.
        what: Kind of the file, for messages.
        largest: Maximum size of the file, bytes.

    Raises:
        UserError: If it cannot be read, is larger, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror or error}") from error
    if len(text) > largest:
        raise UserError(f"{path} is not a {what}: it is larger than {largest} bytes")
    return parse_fields(text, str(path))


def check_keys(found: Collection[str], names: Collection[str], place: str) -> None:
    """Checks that a mapping has just these keys, for the ``__post_init__`` of a format.

    Raises:
        ValueError: Naming the first key that is missing or unknown.
    """
    if missing := set(names) - set(found):
        raise ValueError(f"{place} lacks {min(missing)}; {_DAMAGED}")
    if unknown := set(found) - set(names):
        raise ValueError(f"{place} has the unknown field {show(min(unknown))}; {_DAMAGED}")


def show(value: Any) -> str:
    """Shortens a value from a file for a message, on one line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


_DAMAGED = "it is damaged, or another version of ich wrote it"

_OTHER_FIELDS = {
    "missing": "lacks",
    "missing_argument": "lacks",
    "missing_keyword_only_argument": "lacks",
    "unexpected_keyword_argument": "has the unknown field",
}

_EXPECTED = {
    "dataclass_type": "fields",
    "dict_type": "fields",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "a text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "float_type": "a number",
}


def _rank(error: ErrorDetails) -> tuple[bool, int]:
    """Ranks missing and unknown fields first, those of the whole before those of its parts."""
    is_key = error["loc"][-1:] == ("[key]",)
    return not (is_key or error["type"] in _OTHER_FIELDS), len(error["loc"]) - is_key


def _explain(error: ErrorDetails, found: Any, source: str) -> str:
    """Says on one line what pydantic found first."""
    kind, steps = error["type"], list(error["loc"])
    name = steps.pop() if kind in _OTHER_FIELDS else None
    if steps and steps[-1] == "[key]":  # of a mapping whose keys are not free
        kind, name = "unexpected_keyword_argument", steps[-2]
        del steps[-2:]
    place = ""
    for step in steps:
        if isinstance(step, int):
            place += f"[{step}]"
        elif isinstance(found, dict) and step in found:
            place += f".{step}" if step.isidentifier() and step.isascii() else f"[{show(step)}]"
        else:  # the class that was chosen of a union
            continue
        found = found[step]
    where = _name(source, place)
    if kind in _OTHER_FIELDS:
        shown = show(name) if kind == "unexpected_keyword_argument" else name
        return f"{where} {_OTHER_FIELDS[kind]} {shown}; {_DAMAGED}"
    if kind == "value_error":
        return f"{where}: {error['ctx']['error']}"
    if kind == "json_invalid":
        return f"{source} cannot be read: {error['msg']}"
    expected = _EXPECTED.get(kind) or error["msg"].removeprefix("Input should be ")
    return f"{where} is {show(error['input'])}; expected {expected}"


def _find_missing(read: Any, found: Any, place: str = "") -> tuple[str, str] | None:
    """Finds a field that was taken from its default. That is right only if the default says nothing."""
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(read, list):
        parts = [(each, found[n], f"{place}[{n}]") for n, each in enumerate(read)]
    elif isinstance(read, dict):
        if missing := [name for name, value in read.items() if name not in found and value is not None]:
            return place, missing[0]
        parts = [(value, found[name], f"{place}.{name}") for name, value in read.items() if name in found]
    return next(filter(None, (_find_missing(*part) for part in parts)), None)


def _name(source: str, place: str) -> str:
    return f"{source}: {place.removeprefix('.')}" if place else source


def _make_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field appears twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a valid JSON number")
