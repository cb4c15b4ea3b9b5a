"""Plain values from a file of unknown origin: read strictly, and checked field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ich.schema import UserError

Check = Callable[[Any], bool]


def check_fields(found: Any, checks: Mapping[str, tuple[Check, str]], source: str) -> None:
    """Checks that a mapping has exactly these fields, and that each passes its check.

    Raises:
        UserError: Naming the first field that fails.
    """
    if not isinstance(found, dict):
        raise UserError(f"{source} is {show(found)}; expected fields")
    missing, unknown = checks.keys() - found.keys(), found.keys() - checks.keys()
    if missing or unknown:
        wrong = f"lacks {min(missing)}" if missing else f"has the unknown field {show(min(unknown, key=str))}"
        raise UserError(f"{source} {wrong}; it is damaged, or another version of ich wrote it")
    for name, (check, expected) in checks.items():
        if not check(found[name]):
            raise UserError(f"{source}: {name} is {show(found[name])}; expected {expected}")


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


def show(value: Any) -> str:
    """Shortens a value from a file for a message, on one line."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_text(value: Any) -> bool:
    """Whether it is a short text."""
    return isinstance(value, str) and len(value) <= 200


def is_digest(value: Any) -> bool:
    """Whether it is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float holds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def is_share(value: Any) -> bool:
    """Whether it is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def _make_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field appears twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a valid JSON number")
