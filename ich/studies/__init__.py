"""Groups files, folders, archives and media into studies, and finds problems with their files.

``listing`` lists the files of all inputs. For it, ``archives`` unpacks archives, ``fetching`` fetches files
from addresses, and ``media`` reads a DICOMDIR. ``reading`` identifies each file, and ``keeping`` keeps what
it read. ``grouping`` groups files by study, and ``study`` holds a study.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ich.remote import AnyPath
from ich.studies.grouping import group_files
from ich.studies.listing import list_inputs
from ich.studies.reading import read_files
from ich.studies.study import Studies, StudyFiles
from ich.tables import REFUSED_COLUMNS

__all__ = ["Found", "StudyFiles", "find_studies"]


class Found(NamedTuple):
    """Content of the inputs.

    Attributes:
        studies: Studies in order of StudyInstanceUID, a sequence. Each is made when it is asked for.
        refused: Files that belong to no study: ``path``, ``code`` (of ``Refusal`` or ``InputRefusal``) and
            ``detail``, ordered by path. The name of a file within an archive is the archive's path and its
            own.
    """

    studies: Studies
    refused: pd.DataFrame


def find_studies(
    inputs: Sequence[AnyPath],
    *,
    scratch: Path,
    kept: Path | None = None,
    progress: bool = True,
    skipped: Collection[str] = (),
) -> Found:
    """Finds the studies in files, folders of any depth, zip archives and media with a DICOMDIR.

    In a folder, every file that may be DICOM is read, including archives. If a DICOMDIR is an input itself,
    the files that it names are read. If it lies in a folder or archive, all files are read. Files that it
    names but that do not exist are missing from their study.

    A file without a study may have been a slice before it was emptied, cut off or overwritten. It counts as a
    problem of the studies with files in the same folder. The result does not depend on the order and the
    names of the files.

    Args:
        inputs: Files, folders, archives, or files called DICOMDIR. A file or folder may be at an address of
            fsspec, as ``ich.remote.RemotePath``.
        scratch: An existing folder to unpack archives in, and to fetch addresses to. These files must stay
            until the studies are read. The caller removes them.
        kept: File with headers that an earlier call read; made if it is missing. Files that have not changed
            since are not read again. It names patients, so only its owner can read it. None keeps nothing.
        progress: Whether to show bars on a terminal if it takes longer than a moment.
        skipped: Files of folders that are left out, as ``ich.files.escape_path`` shows their absolute paths.

    Raises:
        UserError: If an input does not exist, there is no space to unpack an archive, or ``kept`` cannot be
            written.
    """
    listing = list_inputs(inputs, scratch, progress, skipped)
    files = read_files(listing.files, progress, kept)
    studies, refused = group_files(files, listing)
    table = pd.DataFrame(sorted([*listing.refused, *refused]), columns=REFUSED_COLUMNS, dtype="str")
    return Found(studies, table)
