"""Model metadata: the description of a model in a checkpoint or a bundle.

Metadata may come from a file of unknown origin. They are data: checked field by field, without names of
files, classes or addresses.

Later versions add fields that may be missing, so older files can be read. A file with an unknown field is
refused, because it has a later version or another origin.
"""

from __future__ import annotations

import re
from typing import Any, NotRequired, TypedDict, cast

from ich import __version__
from ich.calibration import parse_decisions
from ich.schema import LABELS, RENAMED, InputSpec, UserError
from ich.schema.fields import Check, check_fields, is_digest, is_number, is_share, is_text, show

FORMAT = "ich slice classifier 1"

VERSIONS: tuple[Check, str] = (
    lambda value: (
        isinstance(value, dict)
        and value.keys() == {"ich", "torch", "timm"}
        and all(map(is_text, value.values()))
    ),
    "the versions of ich, torch and timm",
)
"""Versions of the libraries that wrote a bundle or an exported network."""


class Training(TypedDict):
    """Summary of a training, without names of patients and folders.

    ``positives`` counts the training set's slices with each of ``LABELS``. ``best_epoch`` is from 0. The
    losses are the weighted log loss by slice; None where it is not a number, or the data have no test set.
    ``phantom`` says whether the data are synthetic. It has no times, so an interrupted run ends with the same
    summary.
    """

    patients: int
    studies: int
    slices: int
    positives: dict[str, int]
    epochs: int
    best_epoch: int
    val_log_loss: float | None
    test_log_loss: float | None
    phantom: bool


class Card(TypedDict):
    """Metadata of a model; plain values only.

    ``model`` holds the arguments that build it. Other fields are missing if a user's own trainer or an older
    version made the file: ``trained_on`` is the ``hash_slices`` of the training set, ``prevalences`` the
    share of its known slices that have each of ``LABELS``, None where none is known, and ``decisions`` has,
    by level, ``Decision.to_dict`` of what was fitted on the validation set. Before the end of a run a
    checkpoint has no decisions yet.
    """

    format: str
    version: str
    labels: list[str]
    model: dict[str, Any]
    trained_on: NotRequired[str]
    prevalences: NotRequired[dict[str, float | None]]
    decisions: NotRequired[dict[str, Any]]
    likeness: NotRequired[dict[str, Any]]
    training: NotRequired[Training]


def make_card(model: dict[str, Any]) -> Card:
    """Returns the metadata of a model, with the arguments that build it."""
    return {"format": FORMAT, "version": __version__, "labels": list(LABELS), "model": model}


def check_card(card: Any, source: str) -> Card:
    """Checks metadata from a file: every field must be known, of its type and in its range.

    Args:
        card: Content of the file.
        source: Name of the file, for messages.

    Returns:
        The metadata, with the current names of their fields.

    Raises:
        UserError: If it is not the metadata of this version.
    """
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = show(card.get("format")) if isinstance(card, dict) else "no card"
        raise UserError(f"{source} is another kind of checkpoint: found {found}, expected {FORMAT!r}")
    absent = _OPTIONAL - card.keys()
    check_fields(card, {name: check for name, check in _CARD.items() if name not in absent}, source)
    if card["labels"] != list(LABELS):
        raise UserError(f"{source} has the labels {show(card['labels'])}; this version has {list(LABELS)}")
    check_fields(card["model"], _MODEL, f"{source}: model")
    given = {RENAMED.get(name, name): value for name, value in card["model"]["input"].items()}
    card = {**card, "model": {**card["model"], "input": given}}
    check_fields(card["model"]["input"], _INPUT, f"{source}: model.input")
    try:
        InputSpec(**card["model"]["input"])
    except UserError as error:
        raise UserError(f"{source}: model.{error}") from error
    if "prevalences" in card:
        check_fields(card["prevalences"], dict.fromkeys(LABELS, _PREVALENCE), f"{source}: prevalences")
    if "decisions" in card:
        parse_decisions(card["decisions"], f"{source}: decisions")
    if "likeness" in card:
        fields = _MISSING if "missing" in card["likeness"] else _LIKENESS
        check_fields(card["likeness"], fields, f"{source}: likeness")
    if "training" in card:
        check_fields(card["training"], _TRAINING, f"{source}: training")
        counts = dict.fromkeys(LABELS, _NUMBER_OF)
        check_fields(card["training"]["positives"], counts, f"{source}: training.positives")
    return cast("Card", card)


def _is_rate(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_window(value: Any) -> bool:
    pair = isinstance(value, list) and len(value) == 2 and all(map(is_number, value))
    return is_text(value) or (pair and all(abs(number) <= 1e5 for number in value))


def _is_name(value: Any) -> bool:
    return is_text(value) and re.fullmatch(r"\w+(\.\w+)?", value, re.ASCII) is not None


_NAME = (_is_name, "the name of a timm model")
_TEXT = (is_text, "a text")
_RATE = (_is_rate, "a number from 0 to below 1")
_FLAG = (lambda value: isinstance(value, bool), "true or false")
_FIELDS = (lambda value: isinstance(value, dict), "fields")
_PREVALENCE: tuple[Check, str] = (lambda value: value is None or is_share(value), "a number from 0 to 1")
_LIST = (lambda value: isinstance(value, list) and len(value) <= 16, "a list of at most 16")

_NUMBER_OF: tuple[Check, str] = (lambda value: _is_count(value) and 0 <= value < 10**12, "a count")
_LOSS: tuple[Check, str] = (
    lambda value: value is None or (is_number(value) and value >= 0),
    "a number from 0",
)

_CARD: dict[str, tuple[Check, str]] = {
    "format": _TEXT,
    "version": _TEXT,
    "labels": _LIST,
    "model": _FIELDS,
    "trained_on": (is_digest, "a SHA-256"),
    "prevalences": _FIELDS,
    "decisions": _FIELDS,
    "likeness": _FIELDS,
    "training": _FIELDS,
}
_OPTIONAL = {"trained_on", "prevalences", "decisions", "likeness", "training"}
_LIKENESS: dict[str, tuple[Check, str]] = {"studies": _NUMBER_OF, "patients": _NUMBER_OF}
_MISSING: dict[str, tuple[Check, str]] = {
    "missing": (lambda value: is_text(value) and value.isprintable(), "a reason")
}
_TRAINING: dict[str, tuple[Check, str]] = {
    "patients": _NUMBER_OF,
    "studies": _NUMBER_OF,
    "slices": _NUMBER_OF,
    "positives": _FIELDS,
    "epochs": _NUMBER_OF,
    "best_epoch": _NUMBER_OF,
    "val_log_loss": _LOSS,
    "test_log_loss": _LOSS,
    "phantom": _FLAG,
}
_MODEL: dict[str, tuple[Check, str]] = {
    "backbone": _NAME,
    "input": _FIELDS,
    "drop_rate": _RATE,
    "drop_path_rate": _RATE,
    "link": _TEXT,
    "channels_last": _FLAG,
}
_INPUT: dict[str, tuple[Check, str]] = {
    "size": (_is_count, "a whole number"),
    "neighbors": (_is_count, "a whole number"),
    "windows": (
        lambda value: _LIST[0](value) and all(map(_is_window, value)),
        "a list of names or [center, width] in HU",
    ),
    "normalization": _TEXT,
    "learnable": _FLAG,
}
