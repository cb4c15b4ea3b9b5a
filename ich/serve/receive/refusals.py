"""Why an object is not taken: what the sender is told, and what the audit log says."""

from __future__ import annotations

import re
from enum import IntEnum

MOST_UID = 64  # characters
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # leading zeros are not allowed, and some scanners write them


class Status(IntEnum):
    """Answers to C-STORE (PS3.4 B.2.3); STOW-RS uses the same numbers as failure reasons."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700  # it may be sent again later
    MISMATCH = 0xA900  # the data set is not what the command says
    NOT_UNDERSTOOD = 0xC000  # it is not a valid object
    TOO_LARGE = 0xC001
    TOO_MANY = 0xC002  # the study has as many objects as are allowed


class RefusedError(Exception):
    """An object is not taken.

    Args:
        status: What the sender is told.
        reason: What the audit log says; it holds no UID and no attribute of a patient.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"0x{self.status:04X} {self.reason}"


def is_uid(text: str) -> bool:
    """Returns whether a text is made as a UID is: of numbers and dots, and not too long (PS3.5 9.1)."""
    return len(text) <= MOST_UID and _UID.fullmatch(text) is not None


def check_uid(text: str, what: str) -> None:
    """Refuses what is not a UID.

    Args:
        text: The value.
        what: Its DICOM keyword, for the reason.

    Raises:
        RefusedError: If it is not made of numbers and dots, or is too long.
    """
    if not text:
        raise RefusedError(Status.NOT_UNDERSTOOD, f"{what} is missing")
    if not is_uid(text):
        raise RefusedError(Status.NOT_UNDERSTOOD, f"{what} is not a UID")
