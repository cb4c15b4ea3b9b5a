"""A study's result as JSON: what comes back is what was written, and the schema in ``docs/`` says it all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from results import GAP, ODD, TWICE, make_refused, make_result, make_slices

from ich.outputs.records import from_dict, make_schema, read_glance, read_json, write_json
from ich.schema import DISCLAIMER, LABELS, UserError
from ich.schema.codes import Note, Reason
from ich.schema.formats import to_plain
from ich.schema.results import Remark, StudyResult

PUBLISHED = Path(__file__).resolve().parents[1] / "docs/study_result.schema.json"

RESULTS = {
    "positive": make_result(present=("subdural", "epidural"), number=3),
    "positive_with_reasons": make_result(reasons=[GAP]),
    "negative": make_result(present=()),
    "indeterminate": make_result(present=(), reasons=[GAP, Remark(Reason.UNREAD_SLICE, "row 3: truncated")]),
    "undecided": make_result(decided=False, known=False),
    "no_positions": make_result(make_slices().assign(position=float("nan"))),
    "odd_names": make_result(make_slices().assign(PatientID='=1+"ü"\n')),
    "refused": make_refused(),
    "noted": make_result(notes=[TWICE], left_out={4: TWICE}),
    "left_out": make_result(reasons=[ODD], left_out={2: ODD}),
    "unnumbered": replace(
        RESULT := make_result(), slices=tuple(replace(each, InstanceNumber=None) for each in RESULT.slices)
    ),
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back(name: str, tmp_path: Path, validator) -> None:
    path = tmp_path / "study.json"
    write_json(RESULTS[name], path)
    assert read_json(path) == RESULTS[name]
    assert read_json(path).timing == RESULTS[name].timing
    assert path.stat().st_mode & 0o077 == 0
    found = json.loads(path.read_text(encoding="ascii"))
    assert found["schema"] == StudyResult.schema
    assert found["note"] == DISCLAIMER
    validator.validate(found)
    again = tmp_path / "again.json"
    write_json(RESULTS[name], again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", RESULTS)
def test_a_glance_at_a_result_has_all_but_its_slices(name: str, tmp_path: Path) -> None:
    path, result = tmp_path / "study.json", RESULTS[name]
    write_json(result, path)
    assert read_glance(path) == replace(result, slices=result.slices[:1], key_slices=())
    path.write_text(path.read_text(encoding="utf-8").replace(DISCLAIMER, "For diagnosis"), encoding="utf-8")
    with pytest.raises(UserError, match="For diagnosis"):
        read_glance(path)


def test_the_published_schema_is_that_of_the_code() -> None:
    """After a change of the code, write this text to the file."""
    assert PUBLISHED.read_text(encoding="utf-8") == json.dumps(make_schema(), indent=2) + "\n"


def test_the_schema_describes_every_field_and_every_code(validator) -> None:
    schema = validator.schema
    parts = [schema, *(part for part in schema["$defs"].values() if "properties" in part)]
    assert {field.name for field in fields(StudyResult)} == schema["properties"].keys()
    assert len(parts) == 7
    for part in parts:
        assert part["required"] == list(part["properties"])
        assert part["additionalProperties"] is False
        described = {name for name, each in part["properties"].items() if each.get("description")}
        assert described | set(LABELS) >= part["properties"].keys(), part
    for name, kind in (("reasons", Reason), ("notes", Note)):
        listed = schema["properties"][name]["items"]["allOf"][1]["properties"]["code"]["oneOf"]
        assert {each["const"]: each["description"] for each in listed} == {c: c.sentence for c in kind}


Change = Callable[[dict[str, Any]], Any]

BY_BOTH: dict[str, tuple[str, Change, str]] = {
    "version": (
        "positive",
        lambda r: r.update(schema="ich study result 1"),
        "not a study result of this version: found 'ich study result 1'.*; predict the study again",
    ),
    "lacks": ("positive", lambda r: r.pop("distance"), "lacks distance"),
    "unknown": ("positive", lambda r: r.update(more=1), "unknown field 'more'"),
    "note": ("positive", lambda r: r.update(note="a medical device"), "note is 'a medical device'"),
    "number": ("positive", lambda r: r.update(number=0), "number is 0"),
    "flag": ("positive", lambda r: r.update(number=True), "number is True"),
    "outcome": (
        "positive",
        lambda r: r.update(outcome="MAYBE"),
        "outcome is 'MAYBE'; expected 'POSITIVE'",
    ),
    "list": ("positive", lambda r: r.update(outcome=[]), "outcome is \\[\\]"),
    "prob": ("positive", lambda r: r["labels"]["any"].update(prob=1.5), "labels.any.prob is 1.5"),
    "label": ("positive", lambda r: r["labels"].update({"A B": None}), "labels has the unknown field 'A B'"),
    "position": ("positive", lambda r: r["slices"][0].update(position="5"), r"slices\[0\].position is '5'"),
    "keys": ("positive", lambda r: r.update(key_slices=[0]), r"key_slices\[0\] is 0"),
    "twice": ("positive", lambda r: r.update(key_slices=[1, 1]), "holds a slice twice"),
    "reason": (
        "indeterminate",
        lambda r: r["reasons"][0].update(code="mood"),
        r"reasons\[0\]: code is 'mood'; expected one of unread_slice",
    ),
    "note_code": ("noted", lambda r: r["notes"][0].update(code="gap"), r"notes\[0\]: code is 'gap'"),
    "left_out": (
        "noted",
        lambda r: r["slices"][4].update(left_out={"code": "mood", "detail": ""}),
        r"slices\[4\].left_out: code is 'mood'",
    ),
    "instance": (
        "positive",
        lambda r: r["slices"][0].update(InstanceNumber=1.5),
        r"slices\[0\].InstanceNumber is 1.5",
    ),
    "digest": ("positive", lambda r: r["algorithm"].update(weights=["x"]), r"algorithm.weights\[0\] is 'x'"),
    "files": ("positive", lambda r: r["series"][1].update(files=-1), r"series\[1\].files is -1"),
    "neither": ("refused", lambda r: r.update(refusal=None), "neither outcome nor refusal"),
    "both": ("positive", lambda r: r.update(refusal={"code": "x", "detail": ""}), "an outcome and a refusal"),
    "refused_probs": (
        "refused",
        lambda r: r.update(series_probs={"any": 0.5}),
        "it was refused, but has results",
    ),
    "series_prob": ("positive", lambda r: r.update(series_probs={"any": 2}), "series_probs.any is 2"),
    "no_slices": ("positive", lambda r: r.update(slices=[], key_slices=[]), "but no labels, no slices"),
    "two_read": ("positive", lambda r: r["series"][1].update(set_aside=None), "no series that was read"),
    "refused_read": (
        "refused",
        lambda r: r["series"][0].update(set_aside=None),
        "it was refused, but has results",
    ),
    "negative_keys": ("negative", lambda r: r.update(key_slices=[3]), "is NEGATIVE and has key slices"),
}
BY_READING: dict[str, tuple[str, Change, str]] = {
    "no_label": ("positive", lambda r: r["labels"].pop("any"), "labels lacks any, which decides"),
    "probs": ("positive", lambda r: r["slices"][2]["probs"].pop("any"), "other labels than the study"),
    "series_probs": (
        "positive",
        lambda r: r.update(series_probs={"any": 0.5}),
        "series_probs has other labels than the study",
    ),
    "positive": (
        "positive",
        lambda r: r["labels"]["any"].update(positive=False),
        "positive contradicts prob",
    ),
    "outcome": (
        "positive",
        lambda r: r.update(outcome="INDETERMINATE", key_slices=[]),
        "outcome is INDETERMINATE, but its .* POSITIVE",
    ),
    "quiet": (
        "indeterminate",
        lambda r: r.update(outcome="NEGATIVE"),
        "outcome is NEGATIVE, but .* INDETERMINATE",
    ),
    "keys": ("positive", lambda r: r.update(key_slices=[99]), "one that does not exist"),
    "subtype": (
        "negative",
        lambda r: r["labels"]["epidural"].update(positive=False),
        "labels.epidural: positive contradicts prob",
    ),
}


@pytest.mark.parametrize("name", ["positive", "refused"])
def test_a_result_of_version_2_is_read(name: str, tmp_path: Path) -> None:
    found = to_plain(RESULTS[name])
    del found["decides"]
    (tmp_path / "study.json").write_text(json.dumps(found | {"schema": "ich study result 2"}))
    assert read_json(tmp_path / "study.json") == RESULTS[name]


def test_a_result_of_version_4_is_read(tmp_path: Path) -> None:
    found = to_plain(RESULTS["positive"])
    del found["series_probs"]
    (tmp_path / "study.json").write_text(json.dumps(found | {"schema": "ich study result 4"}))
    assert read_json(tmp_path / "study.json") == RESULTS["positive"]


def test_a_result_of_version_5_is_read(tmp_path: Path) -> None:
    found = to_plain(RESULTS["positive"])
    for name in ("timing", "AccessionNumber", "StudyDate"):
        del found[name]
    (tmp_path / "study.json").write_text(json.dumps(found | {"schema": "ich study result 5"}))
    read = read_json(tmp_path / "study.json")
    assert read == RESULTS["positive"]
    assert (read.timing, read.AccessionNumber, read.StudyDate) == (None, None, None)


@pytest.mark.parametrize("name", [*BY_BOTH, *(f"{name} by reading alone" for name in BY_READING)])
def test_a_file_that_is_not_a_result_is_refused(name: str, tmp_path: Path, validator) -> None:
    alone = name.removesuffix(" by reading alone")
    start, change, message = BY_BOTH[name] if name in BY_BOTH else BY_READING[alone]
    found = copy.deepcopy(to_plain(RESULTS[start]))
    change(found)
    path = tmp_path / "study.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert validator.is_valid(found) is (name not in BY_BOTH)


@pytest.mark.parametrize(
    "text", ["", "[]", "nul", '{"schema": "ich study result 1"', '{"a": NaN}', "[" * 10**5]
)
def test_a_file_that_is_not_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"is not valid JSON|is not a JSON object"):
        read_json(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_a_list_is_not_a_result() -> None:
    with pytest.raises(UserError, match=r"here is not a study result of this version: found \[\]"):
        from_dict([], "here")
