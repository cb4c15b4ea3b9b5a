"""A folder of results: what was done of many studies, so that none is done twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ich.files import open_alone
from ich.outputs.folders import refusing_unwritable, settle
from ich.outputs.records import read_json, write_json
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.studies import StudyFiles

RESULTS = "results"
"""Folder of a JSON file a study, by its number."""

PAGES, OBJECTS = "pages", "dicom"
"""Folders of what is written on request: of a study ``pages/0001.html`` and ``dicom/0001/``."""

SCRATCH = ".unpacked-"
"""Begins the name of the folder that archives are unpacked to."""

DONE = "done.jsonl"
"""File of a line a study that is done: its number, UID and fingerprint, and what was written of it."""


class ResultFolder:
    """Where the results of studies lie; a context, in which no other process can write there.

    A study is done when its line stands in ``DONE``, which is written last. It is known again by its UID and
    by its content, not by where its files lie; with other content it is done again, under its number.

    Args:
        path: New, or a folder that an earlier call began.
        settings: What the results follow from, beside the studies: plain values.

    Raises:
        UserError: If there is something else in the folder, results that were made otherwise, another process
            writes there, or it cannot be written to.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        with refusing_unwritable(path):
            settle(path, settings)
            (path / RESULTS).mkdir(exist_ok=True)
            self._file = open_alone(path / DONE)
            for left in path.glob(f"{SCRATCH}*"):  # of a process that was killed
                shutil.rmtree(left)
        try:
            self._done = {line["study"]: line for line in self._read_done()}
        except UserError:
            self._file.close()
            raise
        self._last = max((line["number"] for line in self._done.values()), default=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, study: StudyFiles, outputs: Collection[str]) -> bool:
        """Whether a study is done, with these outputs."""
        line = self._done.get(study.StudyInstanceUID)
        return (
            line is not None and line["files"] == study.fingerprint and set(outputs) <= set(line["outputs"])
        )

    def begin(self, study: StudyFiles) -> int:
        """The number of a study: the one that it had, or the next.

        What was written under it is removed, unless it is of the same content: it may be of a study that was
        not finished, or of this one when it had other files.
        """
        line = self._done.get(study.StudyInstanceUID)
        if line is None:
            self._last += 1
        number = self._last if line is None else int(line["number"])
        if line is None or line["files"] != study.fingerprint:
            self._done.pop(study.StudyInstanceUID, None)
            self.locate(number).unlink(missing_ok=True)
            self.locate_page(number).unlink(missing_ok=True)
            shutil.rmtree(self.locate_objects(number), ignore_errors=True)
        return number

    def add(self, result: StudyResult, fingerprint: str, outputs: Mapping[str, str]) -> None:
        """Keeps a result, and that its study is done.

        Args:
            result: The study's result.
            fingerprint: Fingerprint of the study's files.
            outputs: What was written of it beside: ``written``, or why not, by kind of output.
        """
        write_json(result, self.locate(result.number))
        before = self._done.get(result.StudyInstanceUID, {"outputs": {}})
        line = {
            "number": result.number,
            "study": result.StudyInstanceUID,
            "files": fingerprint,
            "outputs": before["outputs"] | dict(outputs),
        }
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._done[result.StudyInstanceUID] = line

    def locate(self, number: int) -> Path:
        """The JSON file of a study."""
        return self.path / RESULTS / f"{number:04d}.json"

    def locate_page(self, number: int) -> Path:
        """The page of a study."""
        return self.path / PAGES / f"{number:04d}.html"

    def locate_objects(self, number: int) -> Path:
        """The folder of a study's DICOM objects."""
        return self.path / OBJECTS / f"{number:04d}"

    def read(self) -> Iterator[tuple[StudyResult, dict[str, str]]]:
        """Yields every result, in the order of numbers, with what was written of it."""
        for line in sorted(self._done.values(), key=lambda line: int(line["number"])):
            yield read_json(self.locate(line["number"])), line["outputs"]

    def _read_done(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        text = self._file.read()
        # What a process that was killed left of a line goes, so that what comes next begins one.
        self._file.truncate(text.rfind(b"\n") + 1)
        for number, row in enumerate(text.splitlines(keepends=True), 1):
            if not row.endswith(b"\n"):
                break
            try:
                line = json.loads(row)
                if self.locate(line["number"]).is_file():
                    yield {name: line[name] for name in ("number", "study", "files", "outputs")}
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"{self.path / DONE}: line {number} is damaged; remove it, and its study is done again"
                ) from error
