"""Files of a reading: the result, its page, the structured report and the key images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResultFiles:
    """The files of one reading.

    Attributes:
        folder: Their folder.
    """

    folder: Path

    @property
    def result(self) -> Path:
        """The result as JSON, of ``ich.outputs.records``."""
        return self.folder / "result.json"

    @property
    def page(self) -> Path:
        """The page; there is none if it could not be written."""
        return self.folder / "page.html"

    @property
    def report(self) -> Path:
        """The DICOM structured report; there is none if it could not be written."""
        return self.folder / "report.dcm"

    def list_images(self) -> list[Path]:
        """Lists the key images, DICOM Secondary Captures, in the order of their names."""
        return sorted(path for path in self.folder.glob("*.dcm") if path != self.report)
