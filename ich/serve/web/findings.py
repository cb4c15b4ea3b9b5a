"""What readings found, in few words."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ich.outputs.records import read_glance, read_json
from ich.outputs.sentences import describe_glance, show_label
from ich.schema import UserError
from ich.schema.codes import Reason, find_sentence
from ich.schema.labels import say_label
from ich.schema.results import Outcome, StudyResult
from ich.serve.results import ResultFiles

_MOST = 20_000  # findings in memory; each takes less than one KB


@dataclass(frozen=True)
class Finding:
    """A reading in few words.

    Attributes:
        label: What the probability is of.
        prob: The probability; empty for a study that was not analyzed.
        threshold: The decision threshold.
        subtypes: Subtypes called present.
        why: Why the study is indeterminate or was not analyzed, in sentences.
    """

    label: str
    prob: str
    threshold: str
    subtypes: tuple[str, ...]
    why: tuple[str, ...]


class Findings:
    """The findings of all readings, from their files. A reading never changes, so each is read once.

    Args:
        folder: Folder of the results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: OrderedDict[str, Finding] = OrderedDict()
        self._lock = threading.Lock()

    def locate(self, folder: str) -> ResultFiles:
        """Returns the files of a reading."""
        return ResultFiles(self._folder / folder)

    def read_result(self, folder: str) -> StudyResult | None:
        """Reads the result of a reading; None if its file can no longer be read."""
        try:
            return read_json(self.locate(folder).result)
        except UserError:
            return None

    def find(self, folder: str) -> Finding | None:
        """Finds the finding of a reading; None if its file can no longer be read."""
        with self._lock:
            if (known := self._known.get(folder)) is not None:
                return known
        try:
            finding = summarize(read_glance(self.locate(folder).result))
        except UserError:
            return None
        with self._lock:
            self._known[folder] = finding
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return finding


def summarize(result: StudyResult) -> Finding:
    """Says in few words what a reading found."""
    if result.refusal is not None:
        return Finding("", "", "", (), (describe_glance(result),))
    label = result.headline
    prob, threshold = show_label(result.labels[label])
    is_open = result.outcome is Outcome.INDETERMINATE
    why = tuple(find_sentence(reason.code, Reason) for reason in result.reasons) if is_open else ()
    return Finding(say_label(label, result.labels), prob, threshold, result.subtypes, why)
