"""Why no DICOM object is written for a study."""

from __future__ import annotations

from ich.schema import UserError
from ich.schema.codes import OutputRefusal


class OutputRefused(UserError):  # noqa: N818 - the other outputs are still written
    """Raised if a DICOM object is not written, because its source lacks required attributes.

    Neither the message nor the detail names a patient, a file or a value of the source.

    Attributes:
        code: The reason.
        detail: The attribute, and what was expected.
    """

    def __init__(self, code: OutputRefusal, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
