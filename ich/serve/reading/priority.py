"""How urgent a study is, by the header of one of its objects.

A scanner copies the priority of the order from its worklist, where it does so at all. Three attributes are
looked at, in the data set or in an item of RequestAttributesSequence (0040,0275):

- RequestedProcedurePriority (0040,1003): STAT, HIGH, ROUTINE, MEDIUM or LOW (PS3.3 C.4.11);
- ScheduledProcedureStepPriority (0074,1200): STAT, HIGH, MEDIUM or LOW (PS3.3 C.30.1);
- StudyPriorityID (0032,000C), retired: HIGH, MED or LOW.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

ATTRIBUTES = ("RequestedProcedurePriority", "ScheduledProcedureStepPriority", "StudyPriorityID")

PRIORITIES = {"STAT": 2, "HIGH": 1, "LOW": -1}
"""Priority of a study by the word; any other word is 0."""

_REQUEST = "RequestAttributesSequence"


def read_priority(path: Path) -> int:
    """Reads the priority of a study from one of its files; 0 if the file does not say or cannot be read."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*ATTRIBUTES, _REQUEST])
        return max(_list_priorities(header), key=abs, default=0)
    except Exception:  # pydicom raises any exception; what is wrong with the file is found when it is read
        return 0


def _list_priorities(header: Dataset) -> Iterator[int]:
    for part in (header, *header.get(_REQUEST, [])):
        for name in ATTRIBUTES:
            yield PRIORITIES.get(str(part.get(name, "")).strip().upper(), 0)
