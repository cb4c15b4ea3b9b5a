"""What prediction says of a study: plain values, that no model, file or screen is needed for.

The types and docstrings of the fields are those of a result's JSON too: see ``ich.outputs.records``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ich.schema import DISCLAIMER, LABELS, SUBTYPES
from ich.schema.codes import NO_RESULT, Code, Note, Reason
from ich.schema.formats import (
    STRICT,
    ByLabel,
    Count,
    Digest,
    FromOne,
    NotNegative,
    Number,
    Ordinal,
    Share,
    show,
)

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

KEY_SLICES = 3
"""How many key slices a positive study has for ``any``; each subtype that is called adds its own.

``ich explain`` takes as many of each study for each label that is asked for.
"""


class Outcome(StrEnum):
    """What is said of a study that was read."""

    POSITIVE = "POSITIVE"  # ``any``, pooled over the slices that are believable, reaches its operating point
    NEGATIVE = "NEGATIVE"  # below it, and nothing speaks against believing that
    INDETERMINATE = "INDETERMINATE"  # neither can be said


@dataclass(frozen=True)
class Remark:
    """A code and what was found."""

    code: str
    """It stays the same between versions."""
    detail: str
    """What was found, with its value, in a sentence; it names no patient and no file."""


class _Coded:
    """Stands in an ``Annotated`` after a remark: the kinds of its code."""

    def __init__(self, *kinds: type[Code]) -> None:
        self.codes = {str(code): code for kind in kinds for code in kind}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Adds a check of the code."""
        from pydantic_core import core_schema

        def check(remark: Remark) -> Remark:
            if remark.code not in self.codes:
                raise ValueError(f"code is {show(remark.code)}; expected one of {', '.join(self.codes)}")
            return Remark(self.codes[remark.code], remark.detail)

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Lists the codes with their sentences."""
        codes = [{"const": name, "description": code.sentence} for name, code in self.codes.items()]
        return {"allOf": [handler(schema), {"properties": {"code": {"oneOf": codes}}}]}


@dataclass(frozen=True)
class LabelResult:
    """What is said of a label of the study. Subtypes are decided in a POSITIVE study only."""

    prob: Share
    """Probability that the study holds it: pooled over the slices that are not left out and calibrated;
    without a calibration in the model, pooled as the network gave it."""
    threshold: Share | None
    """The operating point, on prob; null without one."""
    positive: bool | None
    """What is decided: true for present, false for absent, null where nothing is said. For any it is the
    outcome. A subtype is decided in a POSITIVE study only: it is present where prob is at or above
    threshold, and absent where it is below and there are no reasons."""

    @property
    def reached(self) -> bool | None:
        """Whether the operating point is reached; None without one. See ``decide_labels``."""
        return None if self.threshold is None else self.prob >= self.threshold


Probs = Annotated[Mapping[str, Share], ByLabel(LABELS)]


@dataclass(frozen=True)
class SliceResult:
    """What is said of a slice."""

    SOPInstanceUID: str
    """(0008,0018), as stored."""
    InstanceNumber: int | None
    """(0020,0013), as stored; null where not given."""
    position: Number | None
    """ImagePositionPatient (0020,0032) along the slice normal, from the feet to the head, in mm; null
    where not known."""
    probs: Probs
    """Probabilities as the network gave them, not calibrated."""
    calibrated: Probs | None
    """The same by the calibration of slices; null without one in the model."""
    left_out: Annotated[Remark, _Coded(Reason, Note)] | None
    """Why the slice does not count for the study: implausible_slice, implausible_hu or the note
    repeated_slice. Null where it counts."""


@dataclass(frozen=True)
class SeriesResult:
    """What became of a series."""

    SeriesInstanceUID: str
    """(0020,000E), as stored."""
    Modality: str
    """(0008,0060), as stored; empty where not known."""
    files: Count
    """Number of files, including those that were refused."""
    set_aside: Remark | None
    """Why it was not read; null for the series that the result is of."""


@dataclass(frozen=True)
class Algorithm:
    """What read the study, for a reader who wants to know or repeat it."""

    name: str
    """The backbone; those of an ensemble are joined by +."""
    version: str
    """The version of ich."""
    weights: tuple[Digest, ...]
    """SHA-256 of each model's file, in hexadecimal."""
    tta: tuple[str, ...]
    """Test-time augmentations, by name."""
    pooling: str
    """How probabilities of slices became one of the study; joined by + where members of an ensemble
    differ."""
    rule: str
    """What the operating point of any was chosen by, such as a sensitivity; empty without one."""


@dataclass(frozen=True)
class StudyResult:
    """What ich says of a study of head CT. Research use only; not a medical device.

    The file names the patient and the instances. In a field that is null the value is not known or does not
    apply. A study that could not be read at all has a refusal, and neither outcome nor labels nor slices.
    """

    __pydantic_config__ = STRICT

    schema: Literal["ich study result 2"] = field(default="ich study result 2", kw_only=True)
    """Name and version of this schema. The version grows with any change of the fields and their meaning."""
    note: Literal["Research use only; not a medical device"] = field(default=DISCLAIMER, kw_only=True)
    """Stands wherever results stand."""
    number: Ordinal
    """Number of the study among those that were read together; it names the study's other outputs."""
    StudyInstanceUID: str
    """(0020,000D), as stored."""
    PatientID: str
    """(0010,0020), as stored; empty where not given."""
    outcome: Outcome | None
    """POSITIVE: any, pooled over the slices that are not left out, is at or above its operating point;
    reasons may be shown, and only implausible_hu and no_decision bar it. NEGATIVE: it is below, and there
    are no reasons. INDETERMINATE: neither can be said. Null: the study could not be read, see refusal."""
    refusal: Remark | None
    """Why the study could not be read; null where it was."""
    reasons: tuple[Annotated[Remark, _Coded(Reason)], ...]
    """Reasons against NEGATIVE; a POSITIVE study may have some too."""
    notes: tuple[Annotated[Remark, _Coded(Note)], ...]
    """What is worth knowing of the study and bars nothing."""
    labels: Annotated[Mapping[str, LabelResult], ByLabel(LABELS, required=False)]
    """What is said of the study, by label; empty where it could not be read."""
    slices: tuple[SliceResult, ...]
    """The series that was read, in order of position; empty where the study could not be read."""
    key_slices: tuple[Annotated[Ordinal, FromOne()], ...]
    """Numbers of slices, counted from 1 from below as on pages and key images, the most telling first;
    empty unless POSITIVE."""
    distance: NotNegative | None
    """Distance of the study from the model's training data in its feature space, without a unit: 1 is
    typical. Null without a reference in the model."""
    distance_limit: NotNegative | None
    """The distance above which a study is unlike the training data (reason unlike_training). Null without
    a reference."""
    series: tuple[SeriesResult, ...]
    """All series of the study."""
    algorithm: Algorithm
    """What read the study."""

    @property
    def knows_sides(self) -> bool:
        """Whether the patient's left can be told from the right where files say so: no pixels contradict."""
        return all(reason.code != Reason.TURNED for reason in self.reasons)

    @property
    def read_series(self) -> str | None:
        """SeriesInstanceUID of the series that was read."""
        return next((s.SeriesInstanceUID for s in self.series if s.set_aside is None), None)

    @property
    def subtypes(self) -> tuple[str, ...]:
        """The subtypes that are called present; only a POSITIVE study has some."""
        return tuple(label for label in SUBTYPES if self.labels and self.labels[label].positive)

    def name_slice(self, place: int) -> str:
        """Names a slice for a reader, the same everywhere: counted from 1, from below where that is known.

        Args:
            place: In ``slices``, from 0.
        """
        each = self.slices[place]
        below = "" if each.position is None else " from below"
        number = "" if each.InstanceNumber is None else f" (InstanceNumber {each.InstanceNumber})"
        return f"slice {place + 1} of {len(self.slices)}{below}{number}"


def decide_outcome(label: LabelResult, reasons: tuple[Remark, ...]) -> Outcome:
    """Decides on a study that was read.

    Args:
        label: What is said of ``any``.
        reasons: What speaks against ``NEGATIVE``.
    """
    if label.reached is None or any(reason.code in NO_RESULT for reason in reasons):
        return Outcome.INDETERMINATE
    if label.reached:
        return Outcome.POSITIVE
    return Outcome.INDETERMINATE if reasons else Outcome.NEGATIVE


def decide_labels(
    labels: Mapping[str, LabelResult], outcome: Outcome, reasons: tuple[Remark, ...]
) -> dict[str, LabelResult]:
    """Decides on each label of a study that was read: the one home of that, for every output.

    ``any`` is what the outcome says. Subtypes are decided in a POSITIVE study only, each by its own operating
    point. Absent is said only where there are no reasons against it.

    Returns:
        The same labels, each with ``positive`` as it follows from the rest.
    """

    def decide(name: str, label: LabelResult) -> bool | None:
        if name == "any":
            return {Outcome.POSITIVE: True, Outcome.NEGATIVE: False}.get(outcome)
        if outcome is not Outcome.POSITIVE or (label.reached is False and reasons):
            return None
        return label.reached

    return {name: replace(label, positive=decide(name, label)) for name, label in labels.items()}
