"""A folder of results: what was done of many studies, so that none is done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ich.files import replacing
from ich.outputs.records import read_json, write_json
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.studies import StudyFiles

RESULTS = "results"
"""Folder of a JSON file a study, by its number."""

SETTINGS = "settings.json"
"""File that says what the results were made by; a folder holds those of one way only."""

DONE = "done.jsonl"
"""File of a line a study that is done: its number, UID and fingerprint, and what was written of it."""


class ResultFolder:
    """Where the results of studies lie.

    A study is done when its line stands in ``DONE``, which is written last. It is known again by its UID and
    by its content, not by where its files lie; with other content it is done again, under its number.

    Args:
        path: New, or a folder that an earlier call began.
        settings: What the results follow from, beside the studies: plain values.

    Raises:
        UserError: If there is something else in the folder, results that were made otherwise, or it cannot
            be written to.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        try:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                _require_same(path, settings)
            (path / RESULTS).mkdir(parents=True, exist_ok=True)
            with replacing(path / SETTINGS) as partial:
                partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--out {path} cannot be written to: {error.strerror or error}") from error
        self._done = {line["study"]: line for line in self._read_done()}
        self._last = max((line["number"] for line in self._done.values()), default=0)

    def has(self, study: StudyFiles, outputs: Collection[str]) -> bool:
        """Whether a study is done, with these outputs."""
        line = self._done.get(study.StudyInstanceUID)
        return (
            line is not None and line["files"] == study.fingerprint and set(outputs) <= set(line["outputs"])
        )

    def number(self, study: StudyFiles) -> int:
        """The number of a study: the one that it had, or the next."""
        if (line := self._done.get(study.StudyInstanceUID)) is not None:
            return int(line["number"])
        self._last += 1
        return self._last

    def add(self, result: StudyResult, fingerprint: str, outputs: Mapping[str, str]) -> None:
        """Keeps a result, and that its study is done.

        Args:
            result: Of the study.
            fingerprint: Of its files.
            outputs: What was written of it beside: ``written``, or why not, by kind of output.
        """
        write_json(result, self.locate(result.number))
        line = {
            "number": result.number,
            "study": result.StudyInstanceUID,
            "files": fingerprint,
            "outputs": dict(outputs),
        }
        with (self.path / DONE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._done[result.StudyInstanceUID] = line

    def locate(self, number: int) -> Path:
        """The JSON file of a study."""
        return self.path / RESULTS / f"{number:04d}.json"

    def read(self) -> Iterator[tuple[StudyResult, dict[str, str]]]:
        """Yields every result, in the order of numbers, with what was written of it."""
        for line in sorted(self._done.values(), key=lambda line: int(line["number"])):
            yield read_json(self.locate(line["number"])), line["outputs"]

    def _read_done(self) -> Iterator[dict[str, Any]]:
        path = self.path / DONE
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # of a process that was killed: what comes next begins a line
            text = text[: text.rfind("\n") + 1]
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")
        for row in text.splitlines():
            line = json.loads(row)
            if self.locate(line["number"]).is_file():
                yield line


def _require_same(path: Path, settings: Mapping[str, Any]) -> None:
    try:
        found = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"--out {path} is not empty and holds no results: name a new folder") from None
    if found != settings:
        differing = sorted(name for name in settings if found.get(name) != settings[name])
        raise UserError(
            f"--out {path} holds results that were made otherwise (they differ in {', '.join(differing)}): "
            "name a new folder"
        )
