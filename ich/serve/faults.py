"""Describes errors for the log. Their messages and tracebacks may quote a header, and so name a patient."""

from __future__ import annotations

import traceback
from pathlib import Path


def describe_fault(error: BaseException) -> str:
    """Returns the kind of an error, and where in this package it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "ich" in Path(frame.filename).parts]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}"
