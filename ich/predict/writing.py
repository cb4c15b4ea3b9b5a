"""Writes the outputs of one study that was read: its page, structured report and key images."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pydicom import dcmread

from ich.files import find_on_disk
from ich.models import SliceNet
from ich.outputs.captures import write_key_images
from ich.outputs.pages import write_study_page
from ich.outputs.pages.strip import draw_strip
from ich.outputs.pages.study import Attributes
from ich.outputs.pages.views import make_views
from ich.outputs.refusal import OutputRefused
from ich.outputs.sr import write_sr
from ich.schema.results import StudyResult
from ich.studies import StudyFiles

WRITTEN = "written"
"""State of an output that was written."""

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
) -> dict[str, str]:
    """Writes the requested outputs of a study.

    Args:
        result: The study's result.
        study: Its files.
        net: The network that draws heat maps; None for none.
        outputs: Some of ``ich.outputs.OUTPUTS``.
        page: File of the page.
        objects: Folder of the DICOM objects. It goes again if it stays empty.
        predecessor: The structured report that the new one replaces; None for none.
        shown: Attributes that the page shows, some of ``ich.outputs.SHOWN``.
        whole: Whether the page shows all slices of the series, or only the key slices.

    Returns:
        ``WRITTEN``, or a code and a reason, by output.

    Raises:
        OSError: If an output cannot be written.
    """
    rows = study.files[study.files["SeriesInstanceUID"] == (result.read_series or "")]
    rows = rows[rows["code"] == ""]
    paths = [Path(find_on_disk(str(study.root / path))) for path in rows["path"]]
    files = dict(zip(rows["SOPInstanceUID"], paths, strict=True))
    done = {}
    for output in outputs:
        try:
            if output == "page":
                page.parent.mkdir(exist_ok=True)
                views = make_views(result, study.root, rows, net)
                pictures = draw_strip(result, study.root, rows) if whole and result.slices else {}
                write_study_page(result, views, page, pictures, _find_attributes(result, study, shown))
            else:
                objects.mkdir(parents=True, exist_ok=True)
                if output == "sr":
                    write_sr(result, files, objects / REPORT, predecessor)
                else:
                    write_key_images(result, files, objects)
            done[output] = WRITTEN
        except OutputRefused as refused:
            done[output] = str(refused)
    for made in (objects, objects.parent):
        with suppress(OSError):  # where something lies in it
            made.rmdir()
    return done


def _find_attributes(result: StudyResult, study: StudyFiles, shown: Collection[str]) -> Attributes:
    """Finds the attributes that a page shows: of the study, and of each of its series."""
    of_study = {}
    if "PatientID" in shown:
        of_study["PatientID"] = result.PatientID
    if "StudyDate" in shown and len(study.files):
        read = study.files["SeriesInstanceUID"] == (result.read_series or "")
        rows = study.files[read] if read.any() else study.files
        of_study["StudyDate"] = _read_date(Path(find_on_disk(str(study.root / rows["path"].iloc[0]))))
    descriptions = None
    if "SeriesDescription" in shown:
        first = study.files.drop_duplicates("SeriesInstanceUID")
        descriptions = dict(zip(first["SeriesInstanceUID"], first["SeriesDescription"], strict=True))
    return Attributes(of_study, descriptions)


def _read_date(path: Path) -> str:
    """Reads StudyDate; empty if the file has none, or cannot be read again."""
    try:
        return str(dcmread(path, specific_tags=["StudyDate"], stop_before_pixels=True).get("StudyDate") or "")
    except Exception:  # pydicom raises any exception
        return ""
