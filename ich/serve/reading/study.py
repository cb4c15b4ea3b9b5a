"""Reads the files of a study with one predictor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ich.predict import Predictor
from ich.predict.reading import Reading
from ich.schema.codes import SetAside, describe_code
from ich.schema.results import StudyResult
from ich.serve.inbox import Inbox
from ich.serve.rules import find_rule
from ich.serve.store.studies import Content
from ich.studies import StudyFiles, find_studies
from ich.tables import say


class NotReadError(Exception):
    """Raised if a study is not read; the message is the reason, without a patient attribute."""


@dataclass(frozen=True)
class Made:
    """A result and the files that it was made from."""

    result: StudyResult
    study: StudyFiles


def prepare_study(content: Content, inbox: Inbox, predictor: Predictor, words: Sequence[str]) -> Reading:
    """Reads and checks the pixels of a study.

    Args:
        content: The study.
        inbox: Where its files lie.
        predictor: The models.
        words: Words that keep a study out; see ``ich.serve.rules``.

    Raises:
        NotReadError: If a rule keeps the study out, or none of its files can be read.
    """
    paths = [inbox.locate(path) for path in content.paths]
    gone = sum(not path.is_file() for path in paths)
    if gone:
        raise NotReadError(f"{gone} of its {say(len(paths), 'file')} are no longer there")
    with TemporaryDirectory(prefix="ich-") as scratch:
        study = _find_study(content.StudyInstanceUID, paths, Path(scratch))
        if rule := find_rule(study.files, words):
            raise NotReadError(rule)
        return next(predictor.read_ahead([study]))


def make_result(reading: Reading, predictor: Predictor, number: int) -> Made:
    """Makes the result of a study whose pixels were read.

    Args:
        reading: The study.
        predictor: The models.
        number: Number of the attempt, which becomes that of the result.

    Raises:
        NotReadError: If no series of the study can be read.
    """
    result = predictor.make_result(reading, number)
    if result.refusal is not None:
        raise NotReadError(describe_code(SetAside, result.refusal.code, result.refusal.detail))
    return Made(result, reading.study)


def _find_study(uid: str, paths: Sequence[Path], scratch: Path) -> StudyFiles:
    found = find_studies(paths, scratch=scratch, progress=False)
    for study in found.studies:
        if study.StudyInstanceUID == uid:
            return study
    codes = Counter(found.refused["code"])
    counts = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
    raise NotReadError(f"none of its files can be read: {counts}")
