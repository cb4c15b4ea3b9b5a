"""A study's result as JSON, and back: one versioned schema, ``docs/study_result.schema.json``.

The file names the patient and the instances, as whoever acts on it must know whose result it is. It is read
as if somebody else had made it: every field known, of its type and in its range, and what one field says of
another true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from ich.files import for_owner_alone, replacing
from ich.schema import DISCLAIMER, LABELS, UserError
from ich.schema.codes import Note, Reason
from ich.schema.fields import Check, check_fields, is_digest, is_number, is_share, parse_fields, show
from ich.schema.results import (
    Algorithm,
    LabelResult,
    Outcome,
    Remark,
    SeriesResult,
    SliceResult,
    StudyResult,
    decide_outcome,
)

SCHEMA = "ich study result 2"
"""Grows by one with any change that a reader of the one before would trip over.

What version 1 called a reason may be a note now, so a file of it is refused by name and not read.
"""

T = TypeVar("T")

_LARGEST = 64 << 20  # bytes of a file: a thousand slices take half of one million


def to_dict(result: StudyResult) -> dict[str, Any]:
    """Returns a result as plain values, in the order of the schema."""
    return {
        "schema": SCHEMA,
        "note": DISCLAIMER,
        "number": result.number,
        "StudyInstanceUID": result.StudyInstanceUID,
        "PatientID": result.PatientID,
        "outcome": None if result.outcome is None else result.outcome.value,
        "refusal": None if result.refusal is None else _list_remark(result.refusal),
        "reasons": [_list_remark(reason) for reason in result.reasons],
        "notes": [_list_remark(note) for note in result.notes],
        "labels": {
            name: {"prob": label.prob, "threshold": label.threshold, "positive": result.decide(name)}
            for name, label in result.labels.items()
        },
        "slices": [
            {
                "SOPInstanceUID": each.SOPInstanceUID,
                "InstanceNumber": each.InstanceNumber,
                "position": each.position,
                "probs": _name_labels(each.probs),
                "calibrated": None if each.calibrated is None else _name_labels(each.calibrated),
                "left_out": None if each.left_out is None else _list_remark(each.left_out),
            }
            for each in result.slices
        ],
        "key_slices": [place + 1 for place in result.key_slices],
        "distance": result.distance,
        "distance_limit": result.distance_limit,
        "series": [
            {
                "SeriesInstanceUID": each.SeriesInstanceUID,
                "Modality": each.Modality,
                "files": each.files,
                "set_aside": None if each.set_aside is None else _list_remark(each.set_aside),
            }
            for each in result.series
        ],
        "algorithm": asdict(result.algorithm)
        | {"weights": list(result.algorithm.weights), "tta": list(result.algorithm.tta)},
    }


def from_dict(found: Any, source: str) -> StudyResult:
    """Returns the result that ``to_dict`` made plain values of.

    Args:
        found: Whatever a file holds.
        source: Names the file in the message.

    Raises:
        UserError: Naming the first field that is not as the schema wants it, or belies another.
    """
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        stated = show(found.get("schema")) if isinstance(found, dict) else show(found)
        raise UserError(
            f"{source} is no study result of this version: found {stated}, expected {SCHEMA!r}; "
            "predict the study again, into a new folder"
        )
    check_fields(found, _STUDY, source)
    result = StudyResult(
        number=found["number"],
        StudyInstanceUID=found["StudyInstanceUID"],
        PatientID=found["PatientID"],
        outcome=None if found["outcome"] is None else Outcome(found["outcome"]),
        refusal=_make_optional(_make_remark, found["refusal"], f"{source}: refusal"),
        reasons=_make_all(_make_reason, found["reasons"], f"{source}: reasons"),
        notes=_make_all(_make_note, found["notes"], f"{source}: notes"),
        labels=_make_labels(found["labels"], f"{source}: labels"),
        slices=_make_all(_make_slice, found["slices"], f"{source}: slices"),
        key_slices=tuple(number - 1 for number in found["key_slices"]),
        distance=found["distance"],
        distance_limit=found["distance_limit"],
        series=_make_all(_make_series, found["series"], f"{source}: series"),
        algorithm=_make_algorithm(found["algorithm"], f"{source}: algorithm"),
    )
    if fault := _find_contradiction(result) or _find_false_decision(result, found["labels"]):
        raise UserError(f"{source} contradicts itself: {fault}")
    return result


def write_json(result: StudyResult, path: str | Path) -> None:
    """Writes a result as JSON, whole or not at all, for its owner alone."""
    text = json.dumps(to_dict(result), indent=1, allow_nan=False) + "\n"
    with for_owner_alone(), replacing(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> StudyResult:
    """Reads a result that ``write_json`` wrote.

    Raises:
        UserError: If it cannot be read, or is no result of this version.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"the study result {path} cannot be read: {error.strerror or error}") from error
    if len(text) > _LARGEST:
        raise UserError(f"{path} is no study result: it is larger than {_LARGEST} bytes")
    return from_dict(parse_fields(text, str(path)), str(path))


def _list_remark(remark: Remark) -> dict[str, str]:
    return {"code": str(remark.code), "detail": remark.detail}


def _name_labels(values: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(LABELS, values, strict=True))


def _make_all(make: Callable[[Any, str], T], found: list[Any], source: str) -> tuple[T, ...]:
    return tuple(make(each, f"{source}[{number}]") for number, each in enumerate(found))


def _make_optional(make: Callable[[Any, str], T], found: Any, source: str) -> T | None:
    return None if found is None else make(found, source)


def _make_remark(found: Any, source: str) -> Remark:
    check_fields(found, _REMARK, source)
    return Remark(**found)


def _make_reason(found: Any, source: str) -> Remark:
    return _make_coded(found, source, tuple(Reason))


def _make_note(found: Any, source: str) -> Remark:
    return _make_coded(found, source, tuple(Note))


def _make_left_out(found: Any, source: str) -> Remark:
    return _make_coded(found, source, (*Reason, *Note))


def _make_coded(found: Any, source: str, codes: Sequence[StrEnum]) -> Remark:
    remark = _make_remark(found, source)
    code = next((code for code in codes if code == remark.code), None)
    if code is None:
        raise UserError(f"{source}: code is {show(remark.code)}; expected one of {', '.join(codes)}")
    return Remark(code, remark.detail)


def _make_labels(found: Mapping[str, Any], source: str) -> dict[str, LabelResult]:
    if not found:  # of a study that was refused
        return {}
    check_fields(found, dict.fromkeys(LABELS, _FIELDS), source)
    labels = {}
    for name in LABELS:
        check_fields(found[name], _LABEL, f"{source}.{name}")
        labels[name] = LabelResult(found[name]["prob"], found[name]["threshold"])
    return labels


def _make_slice(found: Any, source: str) -> SliceResult:
    check_fields(found, _SLICE, source)
    return SliceResult(
        SOPInstanceUID=found["SOPInstanceUID"],
        InstanceNumber=found["InstanceNumber"],
        position=found["position"],
        probs=_make_probs(found["probs"], f"{source}: probs"),
        calibrated=_make_optional(_make_probs, found["calibrated"], f"{source}: calibrated"),
        left_out=_make_optional(_make_left_out, found["left_out"], f"{source}: left_out"),
    )


def _make_probs(found: Any, source: str) -> tuple[float, ...]:
    check_fields(found, dict.fromkeys(LABELS, _SHARE), source)
    return tuple(found[label] for label in LABELS)


def _make_series(found: Any, source: str) -> SeriesResult:
    check_fields(found, _SERIES, source)
    set_aside = _make_optional(_make_remark, found["set_aside"], f"{source}: set_aside")
    return SeriesResult(**(found | {"set_aside": set_aside}))


def _make_algorithm(found: Any, source: str) -> Algorithm:
    check_fields(found, _ALGORITHM, source)
    return Algorithm(**(found | {"weights": tuple(found["weights"]), "tta": tuple(found["tta"])}))


def _find_contradiction(result: StudyResult) -> str:
    """What a field says that another belies; empty where none does."""
    read = [series for series in result.series if series.set_aside is None]
    if result.outcome is None:
        if result.refusal is None:
            return "it has neither outcome nor refusal"
        said = (result.labels, result.slices, result.key_slices, result.reasons, result.notes, read)
        return "it was refused, and yet something is said of what was read" if any(said) else ""
    if result.refusal is not None:
        return "it has an outcome and a refusal"
    if not result.labels or not result.slices or len(read) != 1:
        return "it has an outcome without labels, slices or one series that was read"
    if result.outcome is not (due := decide_outcome(result.labels["any"], result.reasons)):
        return f"outcome is {result.outcome}; its labels and reasons make it {due}"
    keys = result.key_slices
    if len(set(keys)) < len(keys) or any(key >= len(result.slices) for key in keys):
        return "key_slices holds a slice twice, or one that is not there"
    if keys and result.outcome is not Outcome.POSITIVE:
        return f"it is {result.outcome} and has key slices"
    return ""


def _find_false_decision(result: StudyResult, labels: Mapping[str, Any]) -> str:
    """The first label of which another decision is stated than follows; empty where none is."""
    wrong = (name for name in result.labels if labels[name]["positive"] is not result.decide(name))
    return next(
        (f"labels.{name}: positive is not what prob, threshold and outcome make it" for name in wrong), ""
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_ordinal(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_string(value: Any) -> bool:  # of any length: it is what a header holds
    return isinstance(value, str)


_TEXT: tuple[Check, str] = (_is_string, "a text")
_COUNT: tuple[Check, str] = (_is_count, "a whole number from 0")
_FIELDS: tuple[Check, str] = (lambda value: isinstance(value, dict), "fields")
_LIST: tuple[Check, str] = (lambda value: isinstance(value, list), "a list")
_SHARE: tuple[Check, str] = (is_share, "a number from 0 to 1")
_DISTANCE: tuple[Check, str] = (
    _or_none(lambda value: is_number(value) and value >= 0),
    "a number from 0, or null",
)

_STUDY: dict[str, tuple[Check, str]] = {
    "schema": _TEXT,
    "note": (lambda value: value == DISCLAIMER, repr(DISCLAIMER)),
    "number": (_is_ordinal, "a whole number from 1"),
    "StudyInstanceUID": _TEXT,
    "PatientID": _TEXT,
    "outcome": (
        _or_none(lambda value: isinstance(value, str) and value in set(Outcome)),
        f"one of {', '.join(Outcome)}, or null",
    ),
    "refusal": (_or_none(_FIELDS[0]), "fields or null"),
    "reasons": _LIST,
    "notes": _LIST,
    "labels": _FIELDS,
    "slices": _LIST,
    "key_slices": (_is_list_of(_is_ordinal), "a list of whole numbers from 1"),
    "distance": _DISTANCE,
    "distance_limit": _DISTANCE,
    "series": _LIST,
    "algorithm": _FIELDS,
}
_REMARK = {"code": _TEXT, "detail": _TEXT}
_LABEL: dict[str, tuple[Check, str]] = {
    "prob": _SHARE,
    "threshold": (_or_none(is_share), "a number from 0 to 1, or null"),
    "positive": (_or_none(lambda value: isinstance(value, bool)), "true, false or null"),
}
_SLICE: dict[str, tuple[Check, str]] = {
    "SOPInstanceUID": _TEXT,
    "InstanceNumber": (_or_none(_is_whole), "a whole number, or null"),
    "position": (_or_none(is_number), "a number of mm, or null"),
    "probs": _FIELDS,
    "calibrated": (_or_none(_FIELDS[0]), "fields or null"),
    "left_out": (_or_none(_FIELDS[0]), "fields or null"),
}
_SERIES: dict[str, tuple[Check, str]] = {
    "SeriesInstanceUID": _TEXT,
    "Modality": _TEXT,
    "files": _COUNT,
    "set_aside": (_or_none(_FIELDS[0]), "fields or null"),
}
_ALGORITHM: dict[str, tuple[Check, str]] = {
    "name": _TEXT,
    "version": _TEXT,
    "weights": (_is_list_of(is_digest), "a list of SHA-256"),
    "tta": (_is_list_of(_is_string), "a list of texts"),
    "pooling": _TEXT,
    "rule": _TEXT,
}
