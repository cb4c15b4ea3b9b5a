"""Which studies are kept out of the queue: scans of phantoms, calibrations and daily checks.

Whether a study is CT, has more than scouts and dose reports, has enough slices and shows a head is decided
where its series are ranked and read (``ich.schema.codes.SetAside``). This module knows what is left: scans
that look like those of a head, but were not made of a patient.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ich.studies.series.keywords import Words, simplify

_OF_STUDY = ("StudyDescription",)
_OF_SERIES = ("SeriesDescription", "ProtocolName")
_SHORT = 3  # letters: an ID may begin with as many that stand for a site


def find_rule(files: pd.DataFrame, words: Sequence[str]) -> str:
    """Finds the word that keeps a study out of the queue.

    A word counts in the StudyDescription of any file. In SeriesDescription and ProtocolName it counts if each
    series has one of the words, because a patient's study may hold a test slice. In PatientID only longer
    words count.

    Args:
        files: The files of the study, by ``ich.studies``.
        words: Words in any spelling; an asterisk at the end stands for any following letters.

    Returns:
        The reason, which quotes no value of a header; empty if the study is read.
    """
    for word in words:
        known = Words(_spell(word))
        if len(word.rstrip("*")) > _SHORT and _holds(files["PatientID"], known):
            return _say(word, "PatientID")
        for name in _OF_STUDY:
            if _holds(files[name], known):
                return _say(word, name)
    any_word = Words(*map(_spell, words))
    named = files[files["SeriesInstanceUID"] != ""].groupby("SeriesInstanceUID")
    found = [any(_holds(rows[name], any_word) for name in _OF_SERIES) for _, rows in named]
    return _say(", ".join(words), "each series") if found and all(found) else ""


def _spell(word: str) -> str:
    return simplify(word) + "*" * word.endswith("*")


def _holds(values: pd.Series[str], words: Words) -> bool:
    return any(words.find(value) for value in values.unique())


def _say(words: str, where: str) -> str:
    return f"a scan of a phantom or a check of the scanner, by a word in {where} (rules.words: {words})"
