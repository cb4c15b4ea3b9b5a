"""What a judgment says of the labels of a study and of its slices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ich.schema import LABELS, UserError
from ich.schema.results import Outcome, StudyResult
from ich.serve.states import Verdict

Truth = dict[str, int]
"""Label -> 0 or 1; labels that are not known are missing."""

_RANGE = re.compile(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?")


@dataclass
class Said:
    """What a judgment says.

    Attributes:
        labels: Labels of the study.
        slices: Labels of slices, by SOPInstanceUID.
    """

    labels: Truth = field(default_factory=dict)
    slices: dict[str, Truth] = field(default_factory=dict)


def find_union(result: StudyResult) -> str | None:
    """Returns the label that is present exactly if another one is; None without such a label."""
    return "any" if result.decides == "any" and set(result.labels) <= set(LABELS) else None


def interpret(result: StudyResult, verdict: Verdict, fields: Mapping[str, str]) -> Said:
    """Finds out what a judgment says.

    Who accepts says that the outcome and the subtypes called are right. Who rejects says that the outcome is
    wrong. Who corrects says which labels are present, and may list all slices that show them. A study that is
    neither positive nor negative says nothing of its labels unless it is corrected.

    Args:
        result: The result that is judged.
        verdict: The verdict.
        fields: Fields of the form: ``label_NAME`` is 1, 0 or empty, and ``slices_NAME`` lists slices.

    Raises:
        UserError: If a correction contradicts itself, or names slices that do not exist.
    """
    union = find_union(result)
    said = Said()
    if verdict is Verdict.CORRECT:
        _read_correction(result, fields, said)
        if not said.labels:
            raise UserError("A correction says of at least one label whether it is present.")
    elif result.decides is not None and result.outcome in (Outcome.POSITIVE, Outcome.NEGATIVE):
        if verdict is Verdict.ACCEPT:
            decided = {name: label.positive for name, label in result.labels.items()}
            said.labels = {name: int(found) for name, found in decided.items() if found is not None}
        else:
            said.labels = {result.decides: int(result.outcome is Outcome.NEGATIVE)}
    complete(said.labels, result.labels, union, "The study")
    for name, present in said.labels.items():
        if not present:
            for each in result.slices:
                said.slices.setdefault(each.SOPInstanceUID, {})[name] = 0
    for place, each in enumerate(result.slices):
        if each.SOPInstanceUID in said.slices:
            complete(said.slices[each.SOPInstanceUID], result.labels, union, f"Slice {place + 1}")
    return said


def complete(known: Truth, names: Mapping[str, object], union: str | None, what: str) -> None:
    """Adds the labels that follow from those that are known.

    Args:
        known: The labels that are known; it is changed.
        names: All labels.
        union: The label that is present exactly if another one is; None without such a label.
        what: Names the study or slice in messages.

    Raises:
        UserError: If the labels contradict each other.
    """
    if union is None:
        return
    others = [known.get(name) for name in names if name != union]
    if 1 in others:
        follows: int | None = 1
    else:
        follows = None if None in others else 0
    if follows is not None and known.setdefault(union, follows) != follows:
        found, stated = ("a subtype", "none") if follows else ("no subtype", "one")
        raise UserError(f"{what} has {found}, but {union} says that there is {stated}.")
    if known.get(union) == 0:
        known |= dict.fromkeys(names, 0)


def _read_correction(result: StudyResult, fields: Mapping[str, str], said: Said) -> None:
    for name in result.labels:
        state, listed = fields.get(f"label_{name}", ""), fields.get(f"slices_{name}", "").strip()
        if state not in ("", "0", "1"):
            raise UserError(f"{name} is {state[:10]}; expected present, absent or nothing.")
        if listed and state == "0":
            raise UserError(f"{name} is absent, but slices are listed that show it.")
        if listed:
            state = "1"
            shown = read_numbers(listed, len(result.slices), name)
            for place, each in enumerate(result.slices):
                said.slices.setdefault(each.SOPInstanceUID, {})[name] = int(place + 1 in shown)
        if state:
            said.labels[name] = int(state)


def read_numbers(text: str, most: int, name: str) -> set[int]:
    """Reads numbers of slices, such as ``12-15, 18``.

    Args:
        text: The numbers.
        most: Number of slices.
        name: Names the label in messages.

    Raises:
        UserError: If it holds something else, or a number that no slice has.
    """
    found: set[int] = set()
    for part in filter(None, (part.strip() for part in re.split(r"[,;]", text))):
        if (match := _RANGE.fullmatch(part)) is None:
            raise UserError(f"{name}: {part[:20]} names no slices; expected numbers such as 12-15, 18.")
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high <= most:
            raise UserError(f"{name}: {part[:20]}; expected slices from 1 to {most}, the lower number first.")
        found.update(range(low, high + 1))
    return found
