"""Why a part of an input that is not a DICOM file is refused."""

from __future__ import annotations

from ich.schema.codes import InputRefusal, Refusal

REFUSED_COLUMNS = ("path", "code", "detail")

Refused = tuple[str, str, str]
"""Path, code and detail."""


LOST = frozenset([*InputRefusal, Refusal.ARCHIVE, Refusal.VOLUME, Refusal.UNREADABLE])
"""Codes of files that may hold whole studies that were not read."""
