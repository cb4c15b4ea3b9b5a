"""Values of a source that break the rules of their VR (PS3.5 6.2): corrected by a rule, or refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from highdicom import PatientSexValues, SpecificCharacterSetValues
from pydicom import config
from pydicom.datadict import dictionary_VM
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, validate_value

from ich.outputs.refusal import OutputRefused
from ich.schema.codes import OutputRefusal

OWNER = ("PatientID", "PatientName")
"""Attributes that identify the owner of an object, so they must be valid."""

UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")

READERS: Mapping[str, Callable[[Any], object]] = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
    "PatientSex": PatientSexValues,
    "SpecificCharacterSet": SpecificCharacterSetValues,
}
"""Converts the value of an attribute, and raises on invalid ones."""

_EMPTIED = ("AccessionNumber", "StudyID", "ReferringPhysicianName")  # type 2 (PS3.3 C.7.2.1)
_OLD = {"DA": re.compile(r"\d{4}\.\d\d\.\d\d"), "TM": re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?")}
_PATIENT = 0x0010  # group of attributes whose numbers are copied; no other number is


def mend_values(source: Dataset) -> None:
    """Corrects values that break their value representation, so that they are not copied.

    PS3.5 6.2 asks readers to accept dates and times in the form of ACR-NEMA (``2020.01.15``, ``12:30:15``).
    They get today's form. AccessionNumber, StudyID and ReferringPhysicianName may be empty and become empty.
    ``UIDS`` and the attributes of ``READERS`` stay, because their own check refuses them. Any other attribute
    is left out.

    Args:
        source: Header of a slice; it is changed.

    Raises:
        OutputRefused: If PatientID or PatientName breaks its rule.
    """
    for element in list(source):
        if element.tag.is_private or _is_sound(element):
            continue
        keyword = element.keyword
        if keyword in OWNER:
            raise OutputRefused(
                OutputRefusal.INVALID_VALUE,
                f"{keyword} of a slice breaks the rules of {element.VR} (PS3.5 6.2)",
            )
        if (old := _OLD.get(element.VR)) and old.fullmatch(str(element.value)):
            element.value = str(element.value).replace("." if element.VR == "DA" else ":", "")
        elif keyword in _EMPTIED:
            element.value = ""
        elif keyword not in (*UIDS, *READERS):  # which have a check of their own
            del source[element.tag]


def _is_sound(element: DataElement) -> bool:
    if element.VR == "SQ":
        return all(_is_sound(inner) for item in element.value for inner in item)
    if element.VR in ("DS", "IS") and element.tag.group != _PATIENT:
        return True
    has_several = isinstance(element.value, MultiValue)
    if has_several and element.keyword and dictionary_VM(element.tag) == "1":
        return False
    try:
        for value in _list_values(element.value):
            validate_value(element.VR, value, config.RAISE)
    except (ValueError, TypeError):
        return False
    return True


def _list_values(value: Any) -> Iterator[Any]:
    for one in value if isinstance(value, MultiValue) else [value]:
        if one not in (None, ""):
            yield str(one) if not isinstance(one, bytes | int | float) else one
