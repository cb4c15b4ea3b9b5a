"""A study's result as a page: what was found, where, how sure the model is, and reasons for caution.

A page names no patient, instance, file or folder, except attributes that its user asks for. A study, its
series and its slices have the same numbers as in the tables beside it. Because the page shows the patient's
head, only its owner can read it. ``study`` says what stands on a page, ``views`` finds its slices,
``drawing`` draws them, and ``strip`` holds all slices of a series. ``rendering`` fills the templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ich.outputs.pages.rendering import render, write_page
from ich.outputs.pages.strip import StripPicture
from ich.outputs.pages.study import Attributes, describe_study
from ich.outputs.pages.views import SliceView
from ich.schema.results import StudyResult

__all__ = ["render_study_page", "write_study_page"]

_NO_PICTURES: Mapping[int, StripPicture] = {}
_NO_ATTRIBUTES = Attributes()


def write_study_page(
    result: StudyResult,
    views: Sequence[SliceView],
    path: str | Path,
    pictures: Mapping[int, StripPicture] = _NO_PICTURES,
    attributes: Attributes = _NO_ATTRIBUTES,
) -> None:
    """Writes a study's page, completely or not at all; for the arguments see ``render_study_page``."""
    write_page(render_study_page(result, views, pictures, attributes), Path(path))


def render_study_page(
    result: StudyResult,
    views: Sequence[SliceView],
    pictures: Mapping[int, StripPicture] = _NO_PICTURES,
    attributes: Attributes = _NO_ATTRIBUTES,
) -> str:
    """Returns a study's page.

    Args:
        result: The study's result.
        views: Pictures of the slices that ``choose_slices`` names, from ``make_views``; a missing one is
            marked as missing.
        pictures: Pictures of the series by place in the result's ``slices``, from ``draw_strip``. Without
            them the strip of probabilities shows no slices.
        attributes: Attributes of the headers that the page may show.
    """
    return render("study.html", describe_study(result, views, pictures, attributes))
