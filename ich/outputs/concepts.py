"""Codes of what a result says, for the DICOM report and for messages of HL7 and FHIR alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ich.schema import LABELS
from ich.schema.results import Outcome, StudyResult


class Concept(NamedTuple):
    """A code with its scheme, named as in PS3.16 8."""

    value: str
    scheme: str
    meaning: str


SCHEME = "99ICH"
"""Scheme of codes that no standard defines; by PS3.16 8.2 private schemes begin with 99."""

FINDINGS: Mapping[str, Concept] = {
    "epidural": Concept("82999001", "SCT", "Epidural intracranial hemorrhage"),
    "intraparenchymal": Concept("274100004", "SCT", "Cerebral hemorrhage"),
    "intraventricular": Concept("1386000", "SCT", "Intracranial hemorrhage"),
    "subarachnoid": Concept("21454007", "SCT", "Subarachnoid intracranial hemorrhage"),
    "subdural": Concept("35486000", "SCT", "Subdural intracranial hemorrhage"),
    "any": Concept("1386000", "SCT", "Intracranial hemorrhage"),
}
"""SNOMED CT code of each label; others than these have none."""

SITES: Mapping[str, Concept] = {"intraventricular": Concept("35764002", "SCT", "Brain ventricle")}
"""Site of a finding that has no code of its own in DICOM's dictionaries."""

PRESENCE = Concept("705057003", "SCT", "Presence")
PRESENT = Concept("52101004", "SCT", "Present")
ABSENT = Concept("2667000", "SCT", "Absent")
INDETERMINATE = Concept("82334004", "SCT", "Indeterminate")

OUTCOME = Concept("OUTCOME", SCHEME, "Outcome of the study")
OUTCOMES: Mapping[Outcome, Concept] = {
    Outcome.POSITIVE: Concept("10828004", "SCT", "Positive"),
    Outcome.NEGATIVE: Concept("260385009", "SCT", "Negative"),
    Outcome.INDETERMINATE: INDETERMINATE,
}
REASON = Concept("REASON", SCHEME, "Reason against a negative result")
DISTANCE = Concept("DISTANCE", SCHEME, "Distance from the training data")
DISTANCE_LIMIT = Concept("DISTANCE_LIMIT", SCHEME, "Limit of the distance from the training data")
PROBABILITY = Concept("122157", "DCM", "Probability")
THRESHOLD = Concept("122411", "DCM", "Threshold Value")
STUDY_UID = Concept("110180", "DCM", "Study Instance UID")
PROCEDURE = Concept("24725-4", "LN", "Head CT")


def list_coded(result: StudyResult) -> list[str]:
    """Lists the labels with a code, the one to show first.

    ``any`` has a code only among the RSNA's labels, where it is any hemorrhage.
    """
    is_rsna = result.labels.keys() == set(LABELS)
    shown = (result.headline, *result.others) if result.labels else ()
    return [label for label in dict.fromkeys(shown) if label in FINDINGS and (label != "any" or is_rsna)]


def state_presence(result: StudyResult, label: str) -> Concept | None:
    """States the decision on a label; an undecided subtype gets no statement of presence."""
    decided = result.labels[label].positive
    if decided is None and label != result.decides:
        return None
    return {True: PRESENT, False: ABSENT, None: INDETERMINATE}[decided]
