"""A folder of results for many studies, so that none is read twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from ich.files import open_locked
from ich.folders import prepare_folder, refusing_unwritable
from ich.outputs.records import read_json, write_json
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.studies import StudyFiles
from ich.studies.study import Identity

RESULTS = "results"
"""Folder with one JSON file per study, named by its number."""

PAGES, OBJECTS = "pages", "dicom"
"""Folders of outputs on request: ``pages/0001.html`` and ``dicom/0001/`` for a study."""

SCRATCH = ".unpacked-"
"""Prefix of the folder that archives are unpacked to."""

HEADERS = "headers.parquet"
"""File with the headers of the inputs' files, so that a restart reads only those that are new or changed."""

DONE = "done.jsonl"
"""File with one line per finished study: its number, UID, fingerprint and outputs."""


class ResultFolder:
    """The results of studies, as a context in which no other process can write to the folder.

    A study is finished when its line is in ``DONE``, which is written last. It is recognized by its UID and
    its content, not by the place of its files. With other content it is read again, under the same number.

    Args:
        path: A new folder, or the folder of an earlier call.
        settings: Settings that determine the results, as plain values.

    Raises:
        UserError: If the folder holds other files or results of other settings, if another process writes
            there, or if it cannot be written to.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        with refusing_unwritable(path):
            prepare_folder(path, settings)
            (path / RESULTS).mkdir(exist_ok=True)
            self._file = open_locked(path / DONE)
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

    def has(self, study: StudyFiles | Identity, outputs: Collection[str]) -> bool:
        """Whether a study is finished, with these outputs."""
        line = self._done.get(study.StudyInstanceUID)
        return (
            line is not None and line["files"] == study.fingerprint and set(outputs) <= set(line["outputs"])
        )

    def begin(self, study: StudyFiles) -> int:
        """Returns the number of a study: its earlier one, or the next.

        Older outputs under this number are removed, unless the content is the same. They may belong to an
        unfinished study, or to this study with other files.
        """
        line = self._done.get(study.StudyInstanceUID)
        if line is None:
            self._last += 1
        number = self._last if line is None else int(line["number"])
        if line is None or line["files"] != study.fingerprint:
            self._done.pop(study.StudyInstanceUID, None)
            self.clear(number)
        return number

    def clear(self, number: int) -> None:
        """Removes the files of a study."""
        self.locate(number).unlink(missing_ok=True)
        self.locate_page(number).unlink(missing_ok=True)
        shutil.rmtree(self.locate_objects(number), ignore_errors=True)

    def add(self, result: StudyResult, fingerprint: str, outputs: Mapping[str, str]) -> None:
        """Saves a result, and marks its study as finished.

        Args:
            result: The study's result.
            fingerprint: Fingerprint of the study's files.
            outputs: State of each kind of output: ``written``, or why not.
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
        """Returns the JSON file of a study."""
        return self.path / RESULTS / f"{number:04d}.json"

    def locate_page(self, number: int) -> Path:
        """Returns the page of a study."""
        return self.path / PAGES / f"{number:04d}.html"

    def locate_objects(self, number: int) -> Path:
        """Returns the folder of a study's DICOM objects."""
        return self.path / OBJECTS / f"{number:04d}"

    def list_outputs(self) -> dict[int, dict[str, str]]:
        """Returns the outputs of all finished studies by number, in the order of the numbers."""
        return {
            int(line["number"]): line["outputs"]
            for line in sorted(self._done.values(), key=lambda line: int(line["number"]))
        }

    def list_results(self) -> SavedResults:
        """Returns the results of all finished studies, in the order of their numbers."""
        return SavedResults([self.locate(number) for number in self.list_outputs()])

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
                    f"{self.path / DONE}: line {number} is damaged; remove it, and its study is read again"
                ) from error


class SavedResults(Sequence[StudyResult]):
    """Results on the disk. Each is read when it is asked for, so many of them need no memory.

    Args:
        paths: Their files.

    Raises:
        UserError: When a result is asked for, if its file is missing or damaged.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, place: int) -> StudyResult: ...
    @overload
    def __getitem__(self, place: slice) -> SavedResults: ...
    def __getitem__(self, place: int | slice) -> StudyResult | SavedResults:
        if isinstance(place, slice):
            return SavedResults(self._paths[place])
        return read_json(self._paths[place])


def is_result_folder(path: Path) -> bool:
    """Whether ``ich predict`` wrote results to a folder."""
    return (path / DONE).is_file() and (path / RESULTS).is_dir()


def read_results(path: Path) -> list[StudyResult]:
    """Reads the results in a folder of ``ich predict``, in the order of their numbers.

    Raises:
        UserError: If a file is damaged.
    """
    return [
        read_json(file) for file in sorted((path / RESULTS).glob("*.json"), key=lambda file: int(file.stem))
    ]
