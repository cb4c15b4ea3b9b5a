"""What a result says of each label, for messages of HL7 and FHIR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ich.outputs.concepts import FINDINGS, SCHEME, Concept, list_coded, state_presence
from ich.outputs.source import MANUFACTURER
from ich.schema import DISCLAIMER
from ich.schema.codes import Note, Reason, describe_code
from ich.schema.results import StudyResult
from ich.serve.sending.delivery import NotTaken


@dataclass(frozen=True)
class Statement:
    """What a result says of a label.

    Attributes:
        label: The label.
        finding: Its code, as in the DICOM report; one of the private scheme if no standard has one.
        presence: The decision; None if there is none.
        prob: Its probability.
        threshold: The operating point; None without one.
    """

    label: str
    finding: Concept
    presence: Concept | None
    prob: float
    threshold: float | None


def list_statements(result: StudyResult) -> Iterator[Statement]:
    """Lists what a result says of its labels, the one to show first."""
    coded = list_coded(result)
    for label in dict.fromkeys((result.headline, *result.others)):
        said = result.labels[label]
        finding = FINDINGS[label] if label in coded else Concept(label, SCHEME, label.replace("_", " "))
        yield Statement(label, finding, state_presence(result, label), said.prob, said.threshold)


def list_comments(result: StudyResult) -> list[str]:
    """Lists what a reader of the message should know; no comment names a patient."""
    return [
        DISCLAIMER,
        *(describe_code(Reason, reason.code, reason.detail) for reason in result.reasons),
        *(describe_code(Note, note.code, note.detail) for note in result.notes),
    ]


def name_algorithm(result: StudyResult) -> str:
    """Names the algorithm on one line."""
    return f"{MANUFACTURER} {result.algorithm.version}, {result.algorithm.name}"


def read_text(header: Dataset, keyword: str) -> str:
    """Reads an attribute as text; pydicom takes a stray backslash for a separator of values."""
    value = header.get(keyword)
    parts = value if isinstance(value, MultiValue) else [value or ""]
    return "\\".join(map(str, parts)).strip()


def read_patient_id(header: Dataset) -> str:
    """Reads the PatientID.

    Raises:
        NotTaken: If there is none, for good. A system of records cannot place such a message.
    """
    found = read_text(header, "PatientID")
    if not found:
        raise NotTaken("the study has no PatientID", for_good=True)
    return found


def read_study_time(header: Dataset) -> datetime | None:
    """Reads when the study was made, in local time; None if it does not say so."""
    date, time = read_text(header, "StudyDate"), read_text(header, "StudyTime")[:6]
    try:
        return datetime.strptime(date + (time or "000000"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
