"""The files of one study, and a sequence of many studies that share one table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.schema.results import Remark


@dataclass(frozen=True, eq=False)
class StudyFiles:
    """The files of a study, from any input.

    Attributes:
        StudyInstanceUID: UID of the study.
        PatientID: As stored; if a study has several, that of most files.
        root: The folder that holds all of the files.
        files: One row per file, including files that are not slices or cannot be read:
            ``reading.FILE_DTYPES``. Ordered by series and SOPInstanceUID. Only one of several copies is kept.
        remarks: Problems with the files, by codes of ``Reason``: MISSING_FILE, STRAY_FILE,
            CONFLICTING_COPIES, MIXED_PATIENTS; and of ``Note``: STUDY_EACH.
        fingerprint: SHA-256 of the identity of the files and of the remarks. It is the same for the same
            study, whatever the place, names and dates of its files. It covers all of a short file, and the
            first and some further blocks of a longer one.
    """

    StudyInstanceUID: str
    PatientID: str
    root: Path
    files: pd.DataFrame
    remarks: tuple[Remark, ...]
    fingerprint: str


class Identity(NamedTuple):
    """What names a study and its content; for the fields see ``StudyFiles``."""

    StudyInstanceUID: str
    PatientID: str
    remarks: tuple[Remark, ...]
    fingerprint: str


class Studies(Sequence[StudyFiles]):
    """Studies whose files stand in one table. The table of a study is made when it is asked for.

    A table of its own takes longer to make than all else about a study, and several times the memory.

    Args:
        table: One row per file, ordered by study: ``reading.FILE_DTYPES`` with absolute paths.
        starts: (S + 1,) the first row of each of S studies, and the number of rows.
        identities: The identity of each study.

    Attributes:
        identities: As given.
    """

    def __init__(self, table: pd.DataFrame, starts: NDArray[np.intp], identities: Sequence[Identity]) -> None:
        self._table, self._starts, self.identities = table, starts, identities

    def __len__(self) -> int:
        return len(self.identities)

    @overload
    def __getitem__(self, place: int) -> StudyFiles: ...
    @overload
    def __getitem__(self, place: slice) -> Studies: ...
    def __getitem__(self, place: int | slice) -> StudyFiles | Studies:
        if isinstance(place, slice):
            return self.take(range(len(self))[place])
        place = range(len(self))[place]  # which refuses a place beyond the end
        uid, patient, remarks, fingerprint = self.identities[place]
        files = self._table.iloc[self._starts[place] : self._starts[place + 1]].reset_index(drop=True)
        root = os.path.commonpath({os.path.dirname(path) for path in files["path"]})  # noqa: PTH120 - a text
        files["path"] = [os.path.relpath(path, root) for path in files["path"]]
        return StudyFiles(uid, patient, Path(root), files, remarks, fingerprint)

    def take(self, places: Sequence[int]) -> Studies:
        """Returns some of the studies, in the order of their places."""
        pieces = [np.arange(self._starts[place], self._starts[place + 1]) for place in places]
        rows = np.concatenate([np.empty(0, np.intp), *pieces])
        starts = np.cumsum([0, *map(len, pieces)])
        return Studies(self._table.iloc[rows], starts, [self.identities[place] for place in places])
