"""Why a part of an input is refused that no DICOM file could be made of."""

from __future__ import annotations

from enum import StrEnum

from ich.dicom.refusal import Refusal

REFUSED_COLUMNS = ("path", "code", "detail")

Refused = tuple[str, str, str]
"""Path, code and detail."""


class InputRefusal(StrEnum):
    """Codes beside those of ``ich.dicom.refusal.Refusal``, stable between versions."""

    BAD_ARCHIVE = "bad_archive"  # an archive that cannot be read, or not to its end
    ARCHIVE_TOO_LARGE = "archive_too_large"  # it would unpack to more than there is room for, or is a bomb
    ENCRYPTED = "encrypted"  # a member that takes a password
    NESTED_ARCHIVE = "nested_archive"  # an archive in an archive
    LINK = "link"  # a member that stands for a file elsewhere
    BAD_MEMBER = "bad_member"  # a member that cannot be unpacked whole
    MEMBER_TOO_LARGE = "member_too_large"  # a member larger than any slice
    UNSUPPORTED_COMPRESSION = "unsupported_compression"  # neither stored nor deflated
    BAD_DICOMDIR = "bad_dicomdir"  # a DICOMDIR that cannot be read
    OUTSIDE_MEDIUM = "outside_medium"  # a DICOMDIR names a file that is not in its folder
    MISSING_FILE = "missing_file"  # a DICOMDIR names a file that is not there, of a study that is not either


LOST = frozenset([*InputRefusal, Refusal.ARCHIVE, Refusal.VOLUME, Refusal.UNREADABLE])
"""Codes of what may hold whole studies that were not read."""
