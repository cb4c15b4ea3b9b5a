"""What prediction says of a study: plain values, that no model, file or screen is needed for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ich.schema import SUBTYPES
from ich.schema.codes import NO_RESULT, Reason

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
    """A code and what was found, with its value; the detail names no patient and no file."""

    code: str
    detail: str


@dataclass(frozen=True)
class LabelResult:
    """What is said of a label of a study.

    Attributes:
        prob: Pooled over the slices and calibrated; as the network gave it where there is no calibration.
        threshold: The operating point; None if there is none.
    """

    prob: float
    threshold: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the operating point is reached; None without one. See ``StudyResult.decide``."""
        return None if self.threshold is None else self.prob >= self.threshold


@dataclass(frozen=True)
class SliceResult:
    """What is said of a slice.

    Attributes:
        SOPInstanceUID: UID of the slice.
        InstanceNumber: As stored; None where not given.
        position: Along the slice normal from the feet to the head, mm; None where not known.
        probs: For each of ``LABELS`` as the network gave it.
        calibrated: The same by the calibration of slices; None without one.
        left_out: Why it does not count for the study, with a code of ``Reason`` or ``Note``; None where it
            counts.
    """

    SOPInstanceUID: str
    InstanceNumber: int | None
    position: float | None
    probs: tuple[float, ...]
    calibrated: tuple[float, ...] | None
    left_out: Remark | None


@dataclass(frozen=True)
class SeriesResult:
    """What became of a series.

    Attributes:
        SeriesInstanceUID: UID of the series.
        Modality: As stored; empty where not known.
        files: Number of files in the series, refused ones included.
        set_aside: Why it was not read; None for the one that was.
    """

    SeriesInstanceUID: str
    Modality: str
    files: int
    set_aside: Remark | None


@dataclass(frozen=True)
class Algorithm:
    """What read a study, for a reader who wants to know or repeat it.

    Attributes:
        name: The backbone; several, joined by +, of an ensemble.
        version: Version of this library.
        weights: SHA-256 of each model's file.
        tta: Test-time augmentations, by name.
        pooling: How slices became a study; several, joined by +, where members differ.
        rule: What the operating point of ``any`` was chosen by; empty without one.
    """

    name: str
    version: str
    weights: tuple[str, ...]
    tta: tuple[str, ...]
    pooling: str
    rule: str


@dataclass(frozen=True)
class StudyResult:
    """What is said of a study.

    A study that could not be read at all has a ``refusal`` and neither outcome nor labels nor slices.

    Attributes:
        number: The study's number within an output folder, from 1.
        StudyInstanceUID: UID of the study.
        PatientID: As stored; empty where not given.
        outcome: None where the study was refused.
        refusal: Why it was; None where it was read.
        reasons: What speaks against ``NEGATIVE``; with codes of ``Reason``.
        notes: What is worth knowing and bars nothing; with codes of ``Note``.
        labels: By each of ``LABELS``; empty where the study was refused.
        slices: Slices of the series that was read, in order of position.
        key_slices: Places in ``slices``, from 0, the most telling first; empty unless POSITIVE.
        distance: From the training data, in feature space; None without a reference.
        distance_limit: Above which a study is unlike them.
        series: All of the study's series.
        algorithm: What read it.
    """

    number: int
    StudyInstanceUID: str
    PatientID: str
    outcome: Outcome | None
    refusal: Remark | None
    reasons: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    labels: Mapping[str, LabelResult]
    slices: tuple[SliceResult, ...]
    key_slices: tuple[int, ...]
    distance: float | None
    distance_limit: float | None
    series: tuple[SeriesResult, ...]
    algorithm: Algorithm

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
        return tuple(label for label in SUBTYPES if self.labels and self.decide(label))

    def name_slice(self, place: int) -> str:
        """Names a slice for a reader, the same everywhere: counted from 1, from below where that is known.

        Args:
            place: In ``slices``, from 0.
        """
        each = self.slices[place]
        below = "" if each.position is None else " from below"
        number = "" if each.InstanceNumber is None else f" (InstanceNumber {each.InstanceNumber})"
        return f"slice {place + 1} of {len(self.slices)}{below}{number}"

    def decide(self, label: str) -> bool | None:
        """Decides on a label of a study that was read: the one home of that, for every output.

        ``any`` is what the outcome says. Subtypes are decided in a POSITIVE study only, each by its own
        operating point; absent is said only where nothing speaks against it.

        Returns:
            True for present, False for absent, None where nothing is said.
        """
        if label == "any":
            return {Outcome.POSITIVE: True, Outcome.NEGATIVE: False}.get(self.outcome)  # type: ignore[arg-type]
        reached = self.labels[label].reached
        if self.outcome is not Outcome.POSITIVE or (reached is False and self.reasons):
            return None
        return reached


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
