"""The outputs of an evaluation: report, figures, model card, checklist and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ich.evaluate.figures import to_plain
from ich.evaluation_report.captions import plan_pictures
from ich.evaluation_report.claim import make_claim
from ich.evaluation_report.deck import make_deck
from ich.evaluation_report.document import make_document
from ich.evaluation_report.model_card import make_model_card
from ich.evaluation_report.report_data import ReportData
from ich.files import replacing
from ich.progress import make_bar
from ich.report.document import Document
from ich.report.html import write_html
from ich.report.markdown import write_markdown
from ich.schema import UserError
from ich.tables import write_table

GALLERIES = "galleries.csv"
"""File that names the slices of the galleries and their patients; no other output does."""


@contextmanager
def show_steps() -> Iterator[Steps]:
    """Shows the steps of an evaluation on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with make_bar(columns, shown=True) as bar:
        yield Steps(bar)


class Steps:
    """The current step of an evaluation, in a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("", total=None)

    def begin(self, what: str, number: int = 0, total: int | None = None) -> None:
        """Shows the next step, with its number if there are several of a kind."""
        self._bar.update(self._task, description=what, completed=number, total=total)


def make_folder(out: Path) -> None:
    """Makes the folder of an evaluation, unless it exists.

    Raises:
        UserError: If it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {error.strerror or error}") from error


def write_outputs(
    data: ReportData, slices: pd.DataFrame | None, out: Path, steps: Steps, *, pdf: bool, slides: bool
) -> None:
    """Writes all files of an evaluation to a folder.

    Args:
        data: The data of the report.
        slices: The slices in the galleries, or None.
        out: The folder; files of the same names are replaced.
        steps: Shows the current step.
        pdf: Also write the report for print.
        slides: Also write a deck.

    Raises:
        UserError: If the folder cannot be made.
    """
    make_folder(out)
    plans = plan_pictures(data)
    pictures = {}
    for number, (name, draw) in enumerate(plans.items()):
        steps.begin("pictures", number, len(plans))
        pictures[name] = draw()
    steps.begin("writing")
    report = make_document(data, pictures)
    write_html(report, out / "report.html")
    _write_json(data, out / "metrics.json")
    write_markdown(make_model_card(data), out / "model_card.md")
    write_markdown(make_claim(data), out / "claim.md")
    _write_pictures(report, out)
    if slices is not None:
        write_table(slices, out / GALLERIES)
    if pdf:
        from ich.report.pdf import write_pdf

        write_pdf(report, out / "report.pdf")
    if slides:
        from ich.report.slides import write_slides

        write_slides(make_deck(data, pictures), out / "slides.pptx")


def _write_json(data: ReportData, path: Path) -> None:
    figures: dict[str, Any] = data.evaluation.to_dict()
    if data.groups is not None:
        figures["subgroups"] = to_plain(data.groups.to_dict("records"))
    if data.comparison is not None:
        figures["comparison"] = data.comparison.to_dict()
    with replacing(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _write_pictures(report: Document, out: Path) -> None:
    for picture in report.pictures:
        with replacing(out / f"{picture.name}.png") as partial:
            partial.write_bytes(picture.png)
