"""Why no DICOM object is written of a study."""

from __future__ import annotations

from ich.schema import UserError
from ich.schema.codes import OutputRefusal


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
