"""Files, folders, archives and media to studies: whose every file is, and what is not sound of that.

``listing`` names the files of every input, ``archives`` unpacks zip archives and ``media`` reads a DICOMDIR
for it; ``reading`` makes out of each file what it is; ``grouping`` puts them together by study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ich.schema.results import Remark
from ich.studies.grouping import group_files
from ich.studies.listing import list_inputs
from ich.studies.reading import read_files
from ich.studies.refusal import REFUSED_COLUMNS


@dataclass(frozen=True, eq=False)
class StudyFiles:
    """The files of a study, from wherever they came.

    Attributes:
        StudyInstanceUID: UID of the study.
        PatientID: As stored; of a study with several the one of most files.
        root: The folder that holds all of the files.
        files: A row a file, those included that are no slice or cannot be read: ``reading.FILE_DTYPES``.
            Ordered by series and SOPInstanceUID. Of several copies there is one.
        remarks: What is not sound of the files, by codes of ``ich.schema.results.Reason``: MISSING_FILE,
            STRAY_FILE, CONFLICTING_COPIES, MIXED_PATIENTS.
        fingerprint: SHA-256 of what identifies the files and of the remarks: the same for the same study,
            wherever its files lie, however they are called and whenever they were written. It covers all of a
            short file, and the first and some further blocks of a longer one.
    """

    StudyInstanceUID: str
    PatientID: str
    root: Path
    files: pd.DataFrame
    remarks: tuple[Remark, ...]
    fingerprint: str


class Found(NamedTuple):
    """What was found in the inputs.

    Attributes:
        studies: In order of StudyInstanceUID.
        refused: What belongs to no study: ``path``, ``code`` (of ``ich.dicom.refusal.Refusal`` or
            ``ich.studies.refusal.InputRefusal``) and ``detail``, ordered by path. A file within an archive is
            named by the archive's path and its own in it.
    """

    studies: list[StudyFiles]
    refused: pd.DataFrame


def find_studies(inputs: Sequence[Path], *, scratch: Path, progress: bool = True) -> Found:
    """Finds the studies in files, folders of any depth, zip archives and media with a DICOMDIR.

    Of a folder every file that may be DICOM is read, zip archives in it too. Of a DICOMDIR that is an input
    itself, the files that it names are read; of one that lies in a folder or archive, all files are. What it
    names and is not there is missing from its study.

    A file that says no study, and may have been a slice before it was emptied, cut off or overwritten, is
    held against the studies that have files in the very folder. The result is the same whatever the order and
    the names of the files.

    Args:
        inputs: Files, folders, zip archives, files called DICOMDIR.
        scratch: An existing folder to unpack archives in. What is unpacked has to stay for as long as the
            studies are read; removing it is the caller's part.
        progress: Show bars on a terminal if it takes longer than a moment.

    Raises:
        UserError: If an input does not exist, or an archive cannot be unpacked for want of space.
    """
    listing = list_inputs(inputs, scratch, progress)
    files = read_files([file.path for file in listing.files], progress)
    studies, refused = group_files(files, listing)
    table = pd.DataFrame(sorted([*listing.refused, *refused]), columns=list(REFUSED_COLUMNS), dtype="str")
    return Found([StudyFiles(*study) for study in studies], table)
