"""The error for a refused file."""

from __future__ import annotations

from ich.schema.codes import Refusal


class RefusedError(Exception):
    """A refusal without the name of the file."""

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.code = code
