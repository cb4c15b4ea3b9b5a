"""The source slices of a DICOM object: the values that it copies, and the values that it requires."""

from __future__ import annotations

import json
import unicodedata
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from ich.outputs.refusal import OutputRefused
from ich.outputs.values import READERS, UIDS, mend_values
from ich.schema.codes import OutputRefusal, Reason
from ich.schema.results import Algorithm, StudyResult

MANUFACTURER = "ich"
"""Manufacturer of the objects; the algorithm gives their other device attributes."""

SHARED = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID")
"""Slices of a series must agree in these attributes; otherwise their owner is unknown."""

REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): present, but may be empty."""

_SIGNS = str.maketrans(
    {
        "\N{GREATER-THAN OR EQUAL TO}": ">=",
        "\N{LESS-THAN OR EQUAL TO}": "<=",
        "\N{PLUS-MINUS SIGN}": "+/-",
        "\N{DEGREE SIGN}": "deg",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
    }
)

_NAMESPACE = uuid.UUID("5a4ad3f3-9f35-4c63-9d1b-6a1cb0c3e0d4")  # drawn once, for this library's UIDs


def read_sources(result: StudyResult, files: Mapping[str, Path]) -> list[Dataset]:
    """Reads the headers of the slices behind a result.

    Args:
        result: The study's result.
        files: Files by SOPInstanceUID, at least those of ``result.slices``.

    Returns:
        Data sets without pixels, in the order of ``result.slices``.

    Raises:
        OutputRefused: If the study has no result, or the slices lack values to copy, or do not agree on their
            patient, study or series.
    """
    if result.outcome is None or not result.slices:
        raise OutputRefused(OutputRefusal.NO_RESULT, "the study could not be read")
    if any(reason.code == Reason.MIXED_PATIENTS for reason in result.reasons):
        raise OutputRefused(
            OutputRefusal.CONFLICTING_SOURCES, "slices of the study belong to several patients"
        )
    paths = [files[piece.SOPInstanceUID] for piece in result.slices]
    with building():
        by_path = {path: read_header(path) for path in dict.fromkeys(paths)}  # of several frames once
        sources = [by_path[path] for path in paths]
        for source in by_path.values():
            _name_charset(source)
            mend_values(source)
            _check(source)
        _check_shared(sources, result)
    return sources


def derive_uid(result: StudyResult, *names: str) -> str:
    """Makes the UID of an output: the same for the same result, and another for another result.

    A second run therefore overwrites the first one. An archive that never replaces objects still accepts the
    report of a study that has become complete.

    Args:
        result: The study's result.
        names: Names of the object that gets the UID.

    Returns:
        A UUID by name (RFC 9562, version 5) as a UID under the root 2.25 (PS3.5 B.2).
    """
    return _hash(
        result.StudyInstanceUID,
        result.read_series,
        [piece.SOPInstanceUID for piece in result.slices],
        result.outcome,
        [reason.code for reason in result.reasons],
        asdict(result.algorithm),
        names,
    )


def derive_device_uid(algorithm: Algorithm) -> str:
    """Makes the UID of the observer: the same for all studies read by the same models and settings."""
    return _hash(asdict(algorithm))


def describe_device(algorithm: Algorithm) -> dict[str, Any]:
    """Describes an algorithm for the equipment modules (PS3.3 C.7.5.1, C.7.5.2), as highdicom's arguments.

    The serial number consists of the first digits of the SHA-256 of each model's file, at most 64 characters.
    """
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": to_ascii(algorithm.name)[:64],
        "device_serial_number": "+".join(weights[:12] for weights in algorithm.weights)[:64],
        "software_versions": algorithm.version,
    }


def to_ascii(text: str) -> str:
    """Converts a text to ASCII, which every SpecificCharacterSet of a source contains."""
    parts = unicodedata.normalize("NFKD", text.translate(_SIGNS))
    return "".join(c for c in parts if not unicodedata.combining(c)).encode("ascii", "replace").decode()


@contextmanager
def building() -> Iterator[None]:
    """Copies the values of a source; a value that cannot be written becomes a refusal.

    Raises:
        OutputRefused: Instead of the errors of pydicom and highdicom for values that they cannot take.
    """
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # of the source's values, which the user cannot mend
        try:
            yield
        except (OutputRefused, OSError, MemoryError):
            raise
        except Exception as error:
            # Their messages quote the value, which may be a name.
            raise OutputRefused(
                OutputRefusal.INVALID_VALUE,
                f"a value of the source cannot be copied ({type(error).__name__})",
            ) from error


def read_header(path: Path) -> Dataset:
    """Reads a data set without pixels.

    Raises:
        OutputRefused: If it cannot be read.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises any exception
        raise OutputRefused(
            OutputRefusal.UNREADABLE_SOURCE,
            f"a file that the object refers to can no longer be read ({type(error).__name__})",
        ) from error


def _name_charset(source: Dataset) -> None:
    """Names the default repertoire if it is the first of several (PS3.3 C.12.1.1.2).

    It may be empty there, but highdicom does not know this.
    """
    charsets = source.get("SpecificCharacterSet")
    if isinstance(charsets, MultiValue) and not charsets[0]:
        source.SpecificCharacterSet = ["ISO 2022 IR 6", *charsets[1:]]


def _check(source: Dataset) -> None:
    for keyword in UIDS:
        uid = source.get(keyword)
        if not uid:
            raise OutputRefused(OutputRefusal.MISSING_ATTRIBUTE, f"{keyword} is missing in a slice")
        if not UID(uid).is_valid:
            raise OutputRefused(OutputRefusal.INVALID_UID, f"{keyword} of a slice is not a valid UID")
    for keyword in REQUIRED:
        if keyword not in source:
            raise OutputRefused(OutputRefusal.MISSING_ATTRIBUTE, f"{keyword} is missing in a slice")
    for keyword, read in READERS.items():
        value = source.get(keyword)
        try:
            for one in value if isinstance(value, MultiValue) else filter(None, [value]):
                read(one)
        except ValueError:
            raise OutputRefused(
                OutputRefusal.INVALID_VALUE, f"{keyword} of a slice has no valid value"
            ) from None


def _check_shared(sources: Sequence[Dataset], result: StudyResult) -> None:
    expected = {"StudyInstanceUID": result.StudyInstanceUID, "SeriesInstanceUID": result.read_series}
    for keyword in SHARED:
        first, *others = {str(source[keyword].value) for source in sources}
        if others or first != expected.get(keyword, first):
            raise OutputRefused(
                OutputRefusal.CONFLICTING_SOURCES, f"{keyword} is not the same in all slices of the series"
            )


def _hash(*values: object) -> str:
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(values)).int}"
