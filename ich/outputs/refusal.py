"""Why no DICOM object is written of a study."""

from __future__ import annotations

from enum import StrEnum

from ich.schema import UserError


class OutputRefusal(StrEnum):
    """Codes of ``OutputRefused``, stable between versions."""

    NO_RESULT = "no_result"  # the study could not be read, so there is nothing to say
    UNREADABLE_SOURCE = "unreadable_source"  # a file of the series cannot be read any more
    MISSING_ATTRIBUTE = "missing_attribute"  # the source lacks what every object of a study carries
    INVALID_UID = "invalid_uid"  # a UID of the source is none
    INVALID_VALUE = "invalid_value"  # a value of the source cannot be written as it is
    CONFLICTING_SOURCES = "conflicting_sources"  # slices name different patients, studies or series


class OutputRefused(UserError):  # noqa: N818 - as a result it is no error: the other outputs go on
    """A DICOM object that is not written, as its source lacks what it must carry.

    Neither the message nor the detail names a patient, a file or a value of the source.

    Attributes:
        code: What is the matter.
        detail: Which attribute, and what was expected.
    """

    def __init__(self, code: OutputRefusal, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
