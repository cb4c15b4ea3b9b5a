"""Errors that the user can fix, and the texts of others."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """An error that the user can fix. It is shown as one message, without a traceback, and gives exit code 2.

    The terminal shows the message. A run's files keep ``kept``. Give ``kept`` without names if the message
    names a patient, or a file or folder of the data set.

    Args:
        *args: The message.
        kept: What a log file may keep of the message; by default all of it.
    """

    def __init__(self, *args: str, kept: str | None = None) -> None:
        super().__init__(*args)
        self._kept = kept

    @property
    def kept(self) -> str:
        """The message without names of patients and files."""
        return str(self) if self._kept is None else self._kept


class ReadError(UserError):
    """A file that was refused.

    Attributes:
        code: Short and stable, one of ``ich.schema.codes.Refusal``.
        path: The file.
        detail: What was found, with its value, and what was expected; may quote the file.
        row: The slice's row in the data module's table, where known.
    """

    row: int | None = None

    def __init__(self, code: str, path: str | Path, detail: str) -> None:
        super().__init__(code, str(path), detail)
        self.code = code
        self.path = str(path)
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.path}: {self.code}: {self.detail}"

    @property
    def kept(self) -> str:
        """The row and the code, because the path names folders and the detail may quote the header."""
        return f"{'a slice' if self.row is None else f'row {self.row}'}: {self.code}"


def describe_error(error: BaseException) -> str:
    """Returns the text of an error on one line, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
