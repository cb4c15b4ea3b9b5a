"""Files with decisions, which ``ich evaluate`` writes and ``ich bundle`` puts into a model.

JSON: ``{"format": "ich calibration 1", "note": ..., "decisions": {level: ...}}``, with a
``Decision`` for a level. It names no patient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ich.calibration import DECIDED_LEVELS, Decision, Level
from ich.files import replacing
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import STRICT, Text, read_fields, read_plain, to_plain

_LARGEST = 256 * 1024  # bytes


@dataclass(frozen=True)
class CalibrationFile:
    """Content of such a file."""

    __pydantic_config__ = STRICT

    format: Literal["ich calibration 1"]
    note: Text
    decisions: Mapping[Level, Decision]


def write_calibration(decisions: Mapping[str, Decision], path: str | Path) -> None:
    """Writes decisions to a new file.

    Args:
        decisions: Decisions by level; only those of ``DECIDED_LEVELS`` are written.
        path: The file.

    Raises:
        UserError: If there is no decision to write, or ``path`` exists or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; name a new file, or remove it")
    levels = {level: decisions[level] for level in DECIDED_LEVELS if level in decisions}
    if not levels:
        raise UserError(f"{path}: it has no decisions for the levels {' and '.join(DECIDED_LEVELS)}")
    text = json.dumps(to_plain(CalibrationFile("ich calibration 1", DISCLAIMER, levels)), indent=2) + "\n"
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the calibration {path} cannot be written: {error.strerror or error}") from error


def read_calibration(path: str | Path) -> dict[str, Decision]:
    """Reads decisions by level, and checks everything in the file.

    ``order_decisions`` checks their labels.

    Raises:
        UserError: If the file is missing, or is not a file of ``write_calibration``.
    """
    fields = read_fields(Path(path), "calibration", _LARGEST)
    found = read_plain(CalibrationFile, fields, str(path))
    return dict(found.decisions)
