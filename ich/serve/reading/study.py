"""Reads the files of a study that was claimed, with one predictor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ich.predict import Predictor
from ich.schema.codes import SetAside, describe_code
from ich.schema.results import StudyResult
from ich.serve.inbox import Inbox
from ich.serve.rules import find_rule
from ich.serve.store.studies import Claim
from ich.studies import StudyFiles, find_studies
from ich.tables import say


class NotReadError(Exception):
    """Raised if a study is not read; the message is the reason, without a patient attribute."""


@dataclass(frozen=True)
class Made:
    """A result and the files that it was made from."""

    result: StudyResult
    study: StudyFiles


def read_claim(claim: Claim, inbox: Inbox, predictor: Predictor, words: Sequence[str]) -> Made:
    """Reads a study.

    Args:
        claim: The study; the number of the attempt becomes that of the result.
        inbox: Where its files lie.
        predictor: The models.
        words: Words that keep a study out; see ``ich.serve.rules``.

    Raises:
        NotReadError: If a rule keeps the study out, or it cannot be read at all.
    """
    paths = [inbox.locate(path) for path in claim.paths]
    gone = sum(not path.is_file() for path in paths)
    if gone:
        raise NotReadError(f"{gone} of its {say(len(paths), 'file')} are no longer there")
    with TemporaryDirectory(prefix="ich-") as scratch:
        study = _find_study(claim, paths, Path(scratch))
        if rule := find_rule(study.files, words):
            raise NotReadError(rule)
        result = predictor.make_result(next(predictor.read_ahead([study])), claim.number)
    if result.refusal is not None:
        raise NotReadError(describe_code(SetAside, result.refusal.code, result.refusal.detail))
    return Made(result, study)


def _find_study(claim: Claim, paths: Sequence[Path], scratch: Path) -> StudyFiles:
    found = find_studies(paths, scratch=scratch, progress=False)
    for study in found.studies:
        if study.StudyInstanceUID == claim.StudyInstanceUID:
            return study
    codes = Counter(found.refused["code"])
    counts = ", ".join(f"{code} {count}" for code, count in sorted(codes.items()))
    raise NotReadError(f"none of its files can be read: {counts}")
