"""The jobs of a multirun as one page: which is best, which settings matter, and which jobs have no result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ich.report.document import Block, Document, Missing, Picture, Section, Table, Text
from ich.report.html import write_html
from ich.sweeps.pictures import draw_importance, draw_parallel
from ich.sweeps.ranking import (
    ERROR,
    JOB,
    MINUTES,
    UNENDED,
    VALUE,
    list_settings,
    make_table,
    measure_importance,
)
from ich.sweeps.record import Job, read_jobs

PAGE = "sweep.html"
"""The page, in the folder of the multirun."""


def write_sweep(sweep: Path, out: Path | None = None) -> tuple[Path, Document]:
    """Writes the page of a multirun.

    Args:
        sweep: Its folder.
        out: The page; by default ``sweep.html`` in the folder.

    Returns:
        The page, and its content.

    Raises:
        UserError: If no job has begun there.
    """
    document = make_document(read_jobs(sweep))
    path = sweep / PAGE if out is None else out
    write_html(document, path)
    return path, document


def make_document(jobs: Sequence[Job]) -> Document:
    """Makes the page of jobs, the best first. It names no folder and no file of the data."""
    table = make_table(jobs)
    without, unended = table[ERROR] != "", table[ERROR] == UNENDED
    subtitle = f"{(~without).sum()} jobs are done, {(without & ~unended).sum()} failed"
    if unended.any():
        subtitle += f", {unended.sum()} have not ended"
    monitor = jobs[0].record.monitor
    sections = [
        Section("Jobs", _describe_jobs(table, monitor)),
        Section("Settings", _describe_settings(table, monitor)),
    ]
    if without.any():
        sections.insert(1, Section("Jobs without a result", [_list_failed(table)]))
    return Document("Multirun", subtitle, sections)


def _describe_jobs(table: pd.DataFrame, monitor: str) -> list[Block]:
    done = table[table[ERROR] == ""]
    if done.empty:
        return [Missing("a ranking", "no job is done")]
    settings = list_settings(table)
    rows = [
        [row[JOB], f"{row[VALUE]:.4f}", *(row[name] for name in settings), f"{row[MINUTES]:.1f}"]
        for row in done.to_dict("records")
    ]
    return [
        Text(
            f"The best first, by {monitor}: the validation set chooses. With many jobs the best value is "
            "better than that of new patients, so the test set alone says how good the model is."
        ),
        Table(["job", monitor, *settings, "minutes"], rows),
    ]


def _list_failed(table: pd.DataFrame) -> Table:
    settings = list_settings(table)
    rows = [
        [row[JOB], *(row[name] for name in settings), row[ERROR]]
        for row in table[table[ERROR] != ""].to_dict("records")
    ]
    return Table(["job", *settings, "why"], rows)


def _describe_settings(table: pd.DataFrame, monitor: str) -> list[Block]:
    blocks: list[Block] = []
    if importance := measure_importance(table):
        ranked = ", ".join(f"{name} {share:.2f}" for name, share in importance.items())
        blocks.append(
            Picture(
                "importance",
                draw_importance(importance),
                "Share of the variance of the metric that each setting explains by itself. Chance explains "
                "something too where a value has few jobs.",
                f"Bars: {ranked}",
            )
        )
    else:
        blocks.append(Missing("the importance of settings", "it needs several jobs for a value"))
    if table[VALUE].notna().sum() > 1 and list_settings(table):
        blocks.append(
            Picture(
                "parallel",
                draw_parallel(table, monitor),
                f"Each job is a line through its settings to its {monitor}. Dark lines have the lowest.",
                f"{int(table[VALUE].notna().sum())} lines through {len(list_settings(table))} settings",
            )
        )
    return blocks
