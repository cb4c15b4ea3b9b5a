"""The result of a prediction for a study: plain values that need no model, file or screen.

The types and docstrings of the fields are those of a result's JSON too: see ``ich.outputs.records``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import MinLen

from ich.schema import DISCLAIMER
from ich.schema.codes import NO_RESULT, Code, Note, Reason
from ich.schema.formats import (
    STRICT,
    Count,
    Digest,
    Expected,
    FromOne,
    Instant,
    NotNegative,
    Number,
    Ordinal,
    Share,
    show,
)

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

__all__ = [
    "Algorithm",
    "LabelResult",
    "Outcome",
    "Remark",
    "SeriesResult",
    "SliceResult",
    "StudyResult",
    "Timing",
]

KEY_SLICES = 3
"""Number of key slices of a positive study for the label that decides; each other one called adds its own.

``ich explain`` takes the same number from each study for each label.
"""


class Outcome(StrEnum):
    """Outcome of a study that was read."""

    POSITIVE = "POSITIVE"  # the label that decides, over the believable slices, reaches its operating point
    NEGATIVE = "NEGATIVE"  # below it, and there is no reason against a negative result
    INDETERMINATE = "INDETERMINATE"  # neither can be said


@dataclass(frozen=True)
class Remark:
    """A code and what was found."""

    code: str
    """Stable between versions."""
    detail: str
    """What was found, with its value, in a sentence. It names no patient and no file."""


class _Coded:
    """Goes into an ``Annotated`` after a remark: the allowed kinds of its code."""

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
    """Result for one label of the study. Those that do not decide are decided only in a POSITIVE study."""

    prob: Share
    """Probability of the label for the study, pooled over the slices that are not left out, and calibrated.
    Without a calibration in the model it is not calibrated."""
    threshold: Share | None
    """The operating point, on prob; null without one."""
    positive: bool | None
    """The decision: true for present, false for absent, null for undecided. For the label that decides it
    follows from the outcome. Another label is decided only in a POSITIVE study. It is present if prob is at
    or above threshold, and absent if prob is below it and there are no reasons."""

    @property
    def reached(self) -> bool | None:
        """Whether the probability reaches the operating point; None without one. See ``decide_labels``."""
        return None if self.threshold is None else self.prob >= self.threshold


Label = Annotated[str, Expected("the name of a label", pattern=r"^[a-z][a-z0-9_-]{0,39}$")]

Probs = Annotated[Mapping[Label, Share], MinLen(1)]


@dataclass(frozen=True)
class SliceResult:
    """Result for one slice."""

    SOPInstanceUID: str
    """(0008,0018), as stored."""
    InstanceNumber: int | None
    """(0020,0013), as stored; null if missing."""
    position: Number | None
    """ImagePositionPatient (0020,0032) along the slice normal, from the feet to the head, in mm; null if
    unknown."""
    probs: Probs
    """Probabilities of the network, not calibrated."""
    calibrated: Probs | None
    """The same after calibration of slices; null if the model has no such calibration."""
    left_out: Annotated[Remark, _Coded(Reason, Note)] | None
    """Why the slice does not count for the study: implausible_slice, implausible_hu or the note
    repeated_slice. Null if it counts."""
    slab: Ordinal | None = None
    """Number of the slab that the slice belongs to, from 1 in order of position. The network saw the mean of
    the slices of a slab, so they share their probabilities. Null if no slices were averaged."""


@dataclass(frozen=True)
class SeriesResult:
    """How one series was used."""

    SeriesInstanceUID: str
    """(0020,000E), as stored."""
    Modality: str
    """(0008,0060), as stored; empty if unknown."""
    files: Count
    """Number of files, including those that were refused."""
    set_aside: Remark | None
    """Why it was not read; null for the series that was read."""


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that read the study, described so that it can be repeated."""

    name: str
    """The backbone; those of an ensemble are joined by +, equal ones as 5 x NAME."""
    version: str
    """The version of ich."""
    weights: tuple[Digest, ...]
    """SHA-256 of each model's file, in hexadecimal."""
    tta: tuple[str, ...]
    """Names of the test-time augmentations."""
    pooling: str
    """Method that pools probabilities of slices to one of the study; several, joined by +, if members of an
    ensemble differ."""
    rule: str
    """Rule that chose the operating point of the label that decides, such as a sensitivity; empty without
    one."""


@dataclass(frozen=True)
class Timing:
    """When a study was read, and how long each step took, by the clock of the machine.

    Several studies are read at a time, so the steps of one overlap with those of others.
    """

    begun_at: Instant
    """When the reading of the pixels began, in UTC (ISO 8601)."""
    done_at: Instant
    """When the result and the outputs beside it were done, in UTC."""
    reading: NotNegative
    """Seconds to choose the series, and to read and check its pixels."""
    network: NotNegative
    """Seconds of the networks, and of what follows from their outputs."""
    writing: NotNegative
    """Seconds to write the page and the DICOM objects; 0 without them."""


@dataclass(frozen=True)
class StudyResult:
    """Result of ich for a study of head CT. Research use only; not a medical device.

    The file names the patient and the instances. A field is null if its value is unknown or does not apply. A
    study that could not be read at all has a refusal, and no outcome, labels or slices.
    """

    __pydantic_config__ = STRICT

    schema: Literal["ich study result 6"] = field(default="ich study result 6", kw_only=True)
    """Name and version of this schema. The version grows with any change of the fields and their meaning."""
    note: Literal["Research use only; not a medical device"] = field(default=DISCLAIMER, kw_only=True)
    """Shown beside all results."""
    number: Ordinal
    """Number of the study among those that were read together; it names the study's other outputs."""
    StudyInstanceUID: str
    """(0020,000D), as stored."""
    PatientID: str
    """(0010,0020), as stored; empty if missing."""
    AccessionNumber: str | None = field(default=None, kw_only=True)
    """(0008,0050), as stored; empty if missing. Null unless it was asked for."""
    StudyDate: str | None = field(default=None, kw_only=True)
    """(0008,0020), as stored; empty if missing. Null unless it was asked for."""
    outcome: Outcome | None
    """POSITIVE: the label that decides, pooled over the slices that are not left out, is at or above its
    operating point; there may be reasons too, and only implausible_hu and no_decision prevent it. NEGATIVE:
    it is below, and there are no reasons. INDETERMINATE: all other studies. Null: the study could not be
    read, see refusal."""
    refusal: Remark | None
    """Why the study could not be read; null if it was read."""
    reasons: tuple[Annotated[Remark, _Coded(Reason)], ...]
    """Reasons against NEGATIVE; a POSITIVE study may have some too."""
    notes: tuple[Annotated[Remark, _Coded(Note)], ...]
    """Notes on the study, which prevent no outcome."""
    decides: Label | None = field(default="any", kw_only=True)
    """The label that the outcome follows from; null if no label of the model decides."""
    labels: Mapping[Label, LabelResult]
    """Result for each label; empty if the study could not be read."""
    slices: tuple[SliceResult, ...]
    """Slices of the series that was read, in order of position; empty if the study could not be read."""
    series_probs: Probs | None = field(default=None, kw_only=True)
    """Probabilities of the series that was read, as a whole, by a network over its slices. They are not
    calibrated and decide nothing. Null without such a network, or if no slice has a position."""
    key_slices: tuple[Annotated[Ordinal, FromOne()], ...]
    """Numbers of slices, counted from 1 from below as on pages and key images, the most probable first; empty
    unless POSITIVE."""
    distance: NotNegative | None
    """Distance of the study from the model's training data in its feature space, without a unit: 1 is
    typical. Null without a reference in the model."""
    distance_limit: NotNegative | None
    """The distance above which a study is out of distribution (reason unlike_training). Null without a
    reference."""
    series: tuple[SeriesResult, ...]
    """All series of the study."""
    algorithm: Algorithm
    """The algorithm that read the study."""
    timing: Timing | None = field(default=None, kw_only=True, compare=False)
    """When the study was read. It does not count when results are compared. Null in results of earlier
    versions."""

    @property
    def knows_sides(self) -> bool:
        """Whether the patient's left is known where files give it, because no pixels contradict the files."""
        return all(reason.code != Reason.TURNED for reason in self.reasons)

    @property
    def read_series(self) -> str | None:
        """SeriesInstanceUID of the series that was read."""
        return next((s.SeriesInstanceUID for s in self.series if s.set_aside is None), None)

    @property
    def subtypes(self) -> tuple[str, ...]:
        """The other labels called present; only a POSITIVE study has any."""
        return tuple(label for label in self.others if self.labels[label].positive)

    @property
    def others(self) -> tuple[str, ...]:
        """The labels beside the one that decides."""
        return tuple(label for label in self.labels if label != self.decides)

    @property
    def headline(self) -> str:
        """The label to show if only one fits: the one that decides, or else the first."""
        return self.decides or next(iter(self.labels))

    def list_slab(self, place: int) -> list[int]:
        """Lists the places of the slices whose mean the network saw for a slice: only itself, or its slab.

        Args:
            place: Place in ``slices``, from 0.
        """
        slab = self.slices[place].slab
        if slab is None:
            return [place]
        return [other for other, each in enumerate(self.slices) if each.slab == slab]

    def name_slice(self, place: int) -> str:
        """Names a slice for a reader in the same way everywhere: counted from 1, from below if that is known.

        Args:
            place: Place in ``slices``, from 0.
        """
        each, count = self.slices[place], len(self.list_slab(place))
        below = "" if each.position is None else " from below"
        number = "" if each.InstanceNumber is None else f" (InstanceNumber {each.InstanceNumber})"
        mean = "" if count == 1 else f", in the mean of {count} slices"
        return f"slice {place + 1} of {len(self.slices)}{below}{number}{mean}"


def list_middles(slices: Sequence[SliceResult]) -> list[int]:
    """Lists the place of one slice for each image that the network saw: the middle slice of each slab.

    Of an even number of slices it is the upper one of the two in the middle.
    """
    slabs: dict[int, list[int]] = {}
    for place, each in enumerate(slices):
        slabs.setdefault(-1 - place if each.slab is None else each.slab, []).append(place)
    return [places[len(places) // 2] for places in slabs.values()]


def decide_outcome(label: LabelResult | None, reasons: tuple[Remark, ...]) -> Outcome:
    """Decides the outcome of a study that was read.

    Args:
        label: Result for the label that decides; None without such a label.
        reasons: Reasons against ``NEGATIVE``.
    """
    if label is None or label.reached is None or any(reason.code in NO_RESULT for reason in reasons):
        return Outcome.INDETERMINATE
    if label.reached:
        return Outcome.POSITIVE
    return Outcome.INDETERMINATE if reasons else Outcome.NEGATIVE


def decide_labels(
    labels: Mapping[str, LabelResult], decides: str | None, outcome: Outcome, reasons: tuple[Remark, ...]
) -> dict[str, LabelResult]:
    """Decides each label of a study that was read. All outputs use these decisions.

    The outcome decides the label that it follows from. Other labels are decided only in a POSITIVE study,
    each by its own operating point. A label is called absent only if there are no reasons against it.

    Returns:
        The same labels, each with the ``positive`` that follows.
    """

    def decide(name: str, label: LabelResult) -> bool | None:
        if name == decides:
            return {Outcome.POSITIVE: True, Outcome.NEGATIVE: False}.get(outcome)
        if outcome is not Outcome.POSITIVE or (label.reached is False and reasons):
            return None
        return label.reached

    return {name: replace(label, positive=decide(name, label)) for name, label in labels.items()}
