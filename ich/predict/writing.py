"""Writes the outputs of one study that was read: its page, structured report and key images."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread

from ich.files import find_on_disk
from ich.models import SliceNet
from ich.outputs.refusal import OutputRefused
from ich.schema.formats import write_instant
from ich.schema.results import StudyResult
from ich.studies import StudyFiles

if TYPE_CHECKING:
    from ich.outputs.pages.study import Attributes

_OF_HEADER = ("AccessionNumber", "StudyDate")
"""Those of ``ich.outputs.SHOWN`` that the tables of files lack."""

WRITTEN = "written"
"""State of an output that was written."""

Done = tuple[StudyResult, dict[str, str]]
"""A result, and the state of each of its outputs: ``WRITTEN``, or a code and a reason."""

REPORT = "report.dcm"
"""Name of the structured report in the folder of a study's DICOM objects."""


def write_outputs(
    result: StudyResult,
    study: StudyFiles,
    net: SliceNet | None,
    outputs: Collection[str],
    *,
    page: Path,
    objects: Path,
    predecessor: Path | None = None,
    shown: Collection[str] = (),
    whole: bool = True,
) -> Done:
    """Writes the requested outputs of a study, and adds attributes and the time that it took to its result.

    Args:
        result: The study's result.
        study: Its files.
        net: The network that draws heat maps; None for none.
        outputs: Some of ``ich.outputs.OUTPUTS``.
        page: File of the page.
        objects: Folder of the DICOM objects. It goes again if it stays empty.
        predecessor: The structured report that the new one replaces; None for none.
        shown: Attributes that the page and the result name, some of ``ich.outputs.SHOWN``.
        whole: Whether the page shows all slices of the series, or only the key slices.

    Returns:
        The result for ``write_json``, and the states of the outputs.

    Raises:
        OSError: If an output cannot be written.
    """
    begun = time.perf_counter()
    result = _add_attributes(result, study, shown)
    done: dict[str, str] = {}
    if outputs:
        done = _write(result, study, net, outputs, page, objects, predecessor, shown, whole)
    for made in (objects, objects.parent):
        with suppress(OSError):  # where something lies in it
            made.rmdir()
    return _add_writing(result, time.perf_counter() - begun), done


def _write(
    result: StudyResult,
    study: StudyFiles,
    net: SliceNet | None,
    outputs: Collection[str],
    page: Path,
    objects: Path,
    predecessor: Path | None,
    shown: Collection[str],
    whole: bool,
) -> dict[str, str]:
    """Writes the outputs, and returns the state of each."""
    # These import matplotlib and highdicom, which takes longer than reading a study.
    from ich.outputs.captures import write_key_images
    from ich.outputs.pages import write_study_page
    from ich.outputs.pages.strip import draw_strip
    from ich.outputs.pages.views import make_views
    from ich.outputs.sr import write_sr

    rows = study.files[study.files["SeriesInstanceUID"] == (result.read_series or "")]
    rows = rows[rows["code"] == ""]
    paths = [Path(find_on_disk(str(study.root / path))) for path in rows["path"]]
    files = dict(zip(rows["SOPInstanceUID"], paths, strict=True))
    draws = "page" in outputs or ("sc" in outputs and result.key_slices)
    views = make_views(result, study.root, rows, net) if draws else []
    done = {}
    for output in outputs:
        try:
            if output == "page":
                page.parent.mkdir(exist_ok=True)
                pictures = draw_strip(result, study.root, rows) if whole and result.slices else {}
                write_study_page(result, views, page, pictures, _find_attributes(result, study, shown))
            else:
                objects.mkdir(parents=True, exist_ok=True)
                if output == "sr":
                    write_sr(result, files, objects / REPORT, predecessor)
                else:
                    heats = {view.number: view.heat for view in views if not isinstance(view.heat, str)}
                    write_key_images(result, files, objects, heats)
            done[output] = WRITTEN
        except OutputRefused as refused:
            done[output] = str(refused)
    return done


def _add_writing(result: StudyResult, seconds: float) -> StudyResult:
    if result.timing is None:
        return result
    timing = replace(result.timing, writing=seconds, done_at=write_instant(time.time()))
    return replace(result, timing=timing)


def _add_attributes(result: StudyResult, study: StudyFiles, shown: Collection[str]) -> StudyResult:
    """Adds those attributes that were asked for and that only the header has."""
    names = [name for name in _OF_HEADER if name in shown]
    if not names or study.files.empty:
        return result
    read = study.files["SeriesInstanceUID"] == (result.read_series or "")
    rows = study.files[read] if read.any() else study.files
    header = _read_header(Path(find_on_disk(str(study.root / rows["path"].iloc[0]))), names)
    return replace(result, AccessionNumber=header.get("AccessionNumber"), StudyDate=header.get("StudyDate"))


def _find_attributes(result: StudyResult, study: StudyFiles, shown: Collection[str]) -> Attributes:
    """Finds the attributes that a page shows: of the study, and of each of its series."""
    from ich.outputs.pages.study import Attributes

    names = [name for name in ("PatientID", *_OF_HEADER) if name in shown]
    of_study = {name: getattr(result, name) or "" for name in names}
    descriptions = None
    if "SeriesDescription" in shown:
        first = study.files.drop_duplicates("SeriesInstanceUID")
        descriptions = dict(zip(first["SeriesInstanceUID"], first["SeriesDescription"], strict=True))
    return Attributes(of_study, descriptions)


def _read_header(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Reads attributes; empty where the file has none, or cannot be read again."""
    try:
        header = dcmread(path, specific_tags=list(names), stop_before_pixels=True)
        return {name: str(header.get(name) or "") for name in names}
    except Exception:  # pydicom raises any exception
        return dict.fromkeys(names, "")
