"""Writes the files of a reading, and removes those of attempts that came to nothing."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

# `write_outputs` imports these when it writes, which a spare process should have done before.
import ich.outputs.captures
import ich.outputs.pages
import ich.outputs.sr  # noqa: F401
from ich.files import flush_to_disk, for_owner_only, replacing
from ich.models import SliceNet
from ich.outputs import OUTPUTS
from ich.outputs.records import read_json, write_json
from ich.outputs.source import derive_uid
from ich.predict.writing import write_outputs
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.serve.reading.study import Made
from ich.serve.results import ResultFiles

_OBJECTS = ("sr", "sc")


def write_files(made: Made, net: SliceNet | None, files: ResultFiles, earlier: ResultFiles | None) -> None:
    """Writes the files of a reading; all are on the disk when it returns.

    The report of another result than before names the earlier one as its predecessor. The same result keeps
    the DICOM objects of the earlier one, so that an archive does not get two objects that say the same. This
    also ends the circle where an archive sends back what it got.

    Args:
        made: The result and its study.
        net: The network that draws heat maps.
        files: The new files.
        earlier: The files of the reading before this one; None without one.

    Raises:
        OSError: If they cannot be written.
    """
    result = made.result
    with for_owner_only():
        files.folder.mkdir(parents=True)
    known = None if earlier is None else _read(earlier)
    same = known is not None and derive_uid(known) == derive_uid(result)
    result, _ = write_outputs(
        result,
        made.study,
        net,
        [each for each in OUTPUTS if not same or each not in _OBJECTS],
        page=files.page,
        objects=files.folder,
        predecessor=earlier.report if earlier is not None and earlier.report.is_file() else None,
        whole=False,  # old pixels are deleted, and pages are kept
    )
    write_json(result, files.result)
    if same and earlier is not None:
        for path in (earlier.report, *earlier.list_images()):
            if path.is_file():
                with for_owner_only(), replacing(files.folder / path.name) as partial:
                    shutil.copyfile(path, partial)
    for folder in (files.folder.parent, files.folder.parent.parent):
        flush_to_disk(folder)


def remove_left(results: Path, token: str, kept: Collection[str]) -> None:
    """Removes the folders of attempts to read a study that were not saved.

    Args:
        results: Folder of the results.
        token: The study's token.
        kept: Folders of its readings, below the folder of the results.
    """
    for folder in (results / token).glob("*"):
        if f"{token}/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _read(earlier: ResultFiles) -> StudyResult | None:
    """Reads the earlier result; None if it is gone or of another version."""
    try:
        return read_json(earlier.result)
    except UserError:
        return None
