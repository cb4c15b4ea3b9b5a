"""How the reader of a file says that it refuses it."""

from __future__ import annotations

from ich.schema.codes import Refusal


class RefusedError(Exception):
    """A refusal before the name of the file is put to it."""

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.code = code
