"""A study's result as JSON, and back: one versioned schema, ``docs/study_result.schema.json``.

The file names the patient and the instances, because its users must know whose result it is. It is read as
untrusted: every field must be known, of its type and in its range, and fields must not contradict each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ich.files import for_owner_only, replacing
from ich.schema import UserError
from ich.schema.formats import adapt, read_fields, read_plain, show, to_plain
from ich.schema.results import Outcome, SliceResult, StudyResult, decide_labels, decide_outcome

__all__ = ["make_schema", "read_json", "write_json"]

_EARLIER: dict[str, dict[str, Any]] = {
    "ich study result 2": {"decides": "any"},
    "ich study result 3": {},
    "ich study result 4": {},
    "ich study result 5": {},
}
"""Schemas of earlier versions, with the fields that these lack."""

_LARGEST = 64 << 20  # bytes of a file: a thousand slices take half of one million


def from_dict(found: Any, source: str) -> StudyResult:
    """Reads a result from the values that ``to_plain`` returned.

    In version 2 the label ``any`` always decided. Before version 4 no slices were averaged, before version 5
    no series had probabilities, and before version 6 no times were kept. A reason in version 1 may now be a
    note, so such a file is refused by name.

    Args:
        found: Content of a file.
        source: Name of the file, for messages.

    Raises:
        UserError: Naming the first field that is not as the schema wants it, or contradicts another.
    """
    if isinstance(found, dict) and (schema := str(found.get("schema"))) in _EARLIER:
        found = {**_EARLIER[schema], **found, "schema": StudyResult.schema}
    if not isinstance(found, dict) or found.get("schema") != StudyResult.schema:
        stated = show(found.get("schema")) if isinstance(found, dict) else show(found)
        raise UserError(
            f"{source} is not a study result of this version: found {stated}, expected "
            f"{StudyResult.schema!r}; predict the study again, into a new folder"
        )
    result = read_plain(StudyResult, found, source)
    if fault := _find_contradiction(result):
        raise UserError(f"{source} contradicts itself: {fault}")
    return result


def write_json(result: StudyResult, path: str | Path) -> None:
    """Writes a result as JSON, completely or not at all, readable by the owner only."""
    text = json.dumps(to_plain(result), indent=1, allow_nan=False) + "\n"
    with for_owner_only(), replacing(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> StudyResult:
    """Reads a result that ``write_json`` wrote.

    Raises:
        UserError: If it cannot be read, or is not a result of this version.
    """
    return from_dict(read_fields(Path(path), "study result", _LARGEST), str(path))


def read_glance(path: str | Path) -> StudyResult:
    """Reads a result without its slices beyond the first, for lists of many studies.

    It takes a fraction of the time of ``read_json``, because most of a file is about slices.

    Raises:
        UserError: As ``read_json``, except for what slices hold.
    """
    found = read_fields(Path(path), "study result", _LARGEST)
    if isinstance(slices := found.get("slices"), list):
        found = {**found, "slices": slices[:1], "key_slices": []}
    return from_dict(found, str(path))


def make_schema() -> dict[str, Any]:
    """Returns the JSON schema of a result, which ``docs/study_result.schema.json`` holds.

    A schema cannot say that the outcome follows from the label that decides and the reasons, positive from
    prob, threshold and outcome, and that slices and series have the study's labels. ``read_json`` checks
    that too.
    """
    schema = _tidy(adapt(StudyResult).json_schema())
    for part in (schema, *schema["$defs"].values()):
        if "properties" in part:
            part["required"] = list(part["properties"])
    schema["properties"]["key_slices"]["uniqueItems"] = True
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": StudyResult.schema,
        **schema,
        "oneOf": [_READ, _REFUSED],
        "if": {"properties": {"outcome": {"enum": [Outcome.NEGATIVE, Outcome.INDETERMINATE]}}},
        "then": {"properties": {"key_slices": _EMPTY}},
    }


_EMPTY = {"maxItems": 0}

_READ = {
    "title": "read",
    "properties": {
        "outcome": {"enum": list(Outcome)},
        "refusal": {"type": "null"},
        "labels": {"minProperties": 1},
        "slices": {"minItems": 1},
        "series": {
            "contains": {"properties": {"set_aside": {"type": "null"}}},
            "minContains": 1,
            "maxContains": 1,
        },
    },
}

_REFUSED = {
    "title": "refused",
    "properties": {
        "outcome": {"type": "null"},
        "refusal": {"type": "object"},
        "labels": {"maxProperties": 0},
        "series_probs": {"type": "null"},
        **dict.fromkeys(("reasons", "notes", "slices", "key_slices"), _EMPTY),
        "series": {"items": {"properties": {"set_aside": {"type": "object"}}}},
    },
}


def _tidy(schema: Any) -> Any:
    """Leaves out the titles that pydantic makes of the names of fields, and the line breaks of docstrings.

    Keys that are not names of labels are refused, as pydantic does.
    """
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema = {**schema, "additionalProperties": False}
        return {name: _tidy(each) for name, each in schema.items() if name != "title"}
    if isinstance(schema, list):
        return [_tidy(each) for each in schema]
    return " ".join(schema.split()) if isinstance(schema, str) else schema


def _find_contradiction(result: StudyResult) -> str:
    """Says which field contradicts another; empty if none does."""
    read = [series for series in result.series if series.set_aside is None]
    if result.outcome is None:
        if result.refusal is None:
            return "it has neither outcome nor refusal"
        said = (
            *(result.labels, result.slices, result.series_probs),
            *(result.key_slices, result.reasons, result.notes, read),
        )
        return "it was refused, but has results" if any(said) else ""
    if result.refusal is not None:
        return "it has an outcome and a refusal"
    if not result.labels or not result.slices or len(read) != 1:
        return "it has an outcome, but no labels, no slices or no series that was read"
    names = result.labels.keys()
    if result.decides is not None and result.decides not in names:
        return f"labels lacks {result.decides}, which decides"
    if any(
        each.keys() != names
        for piece in result.slices
        for each in (piece.probs, piece.calibrated or piece.probs)
    ):
        return "a slice has other labels than the study"
    if result.series_probs is not None and result.series_probs.keys() != names:
        return "series_probs has other labels than the study"
    if fault := _find_slab_contradiction(result.slices):
        return fault
    deciding = None if result.decides is None else result.labels[result.decides]
    if result.outcome is not (due := decide_outcome(deciding, result.reasons)):
        return f"outcome is {result.outcome}, but its labels and reasons give {due}"
    keys = result.key_slices
    if len(set(keys)) < len(keys) or any(key >= len(result.slices) for key in keys):
        return "key_slices holds a slice twice, or one that does not exist"
    if keys and result.outcome is not Outcome.POSITIVE:
        return f"it is {result.outcome} and has key slices"
    decided = decide_labels(result.labels, result.decides, result.outcome, result.reasons)
    wrong = [name for name in names if decided[name] != result.labels[name]]
    return f"labels.{wrong[0]}: positive contradicts prob, threshold and outcome" if wrong else ""


def _find_slab_contradiction(slices: Sequence[SliceResult]) -> str:
    probs: dict[int, tuple[object, object]] = {}
    for each in slices:
        if (each.slab is None) != (slices[0].slab is None):
            return "some slices belong to a slab and others do not"
        found = each.probs, each.calibrated
        if each.slab is not None and probs.setdefault(each.slab, found) != found:
            return f"slices of slab {each.slab} have different probabilities"
    return ""
