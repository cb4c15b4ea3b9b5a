"""The tables that end a run."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table

from ich.evaluate.figures import FEW, Evaluation
from ich.schema import DISCLAIMER
from ich.schema.shares import show_number
from ich.tables import PLURALS


def render_evaluation(evaluation: Evaluation, title: str, level: str | None = None) -> Table:
    """Lays one level of an evaluation, by default the first, out as a table that fits into 80 columns."""
    level = level or next(iter(evaluation.levels))
    figures = evaluation.levels[level]
    few = any(label.auroc.reason for label in figures.labels.values())
    note = f"no interval: positives or negatives from fewer than {FEW} patients\n" if few else ""
    table = Table(
        title=f"{title}: {figures.units:,} {PLURALS[level]} of {evaluation.patients:,} patients",
        caption=f"95 % intervals by bootstrap over patients\n{note}{DISCLAIMER}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("label", no_wrap=True)
    table.add_column("positives\n(patients)", no_wrap=True)
    table.add_column("AUROC\n(95 %)", no_wrap=True)
    table.add_column("average precision\n(95 %)", no_wrap=True)
    for name, label in figures.labels.items():
        table.add_row(
            name,
            f"{label.counts.positives:,} ({label.counts.positive_patients:,})",
            f"{label.auroc:.3f}",
            f"{label.average_precision:.3f}",
            end_section=name == evaluation.labels.names[-1],
        )
    constant = figures.constant_log_loss
    table.add_row("mean of subtypes", "", f"{figures.auroc_mean_subtypes:.3f}", "")
    versus = "n/a" if math.isnan(constant) else f"{constant:.4f}"
    table.add_row("log loss", "", f"{figures.weighted_log_loss:.4f}", f"constant: {versus}")
    return table


def render_operating_points(evaluation: Evaluation, level: str = "study") -> Table:
    """Lays the operating points of out-of-fold predictions out as a table that fits into 80 columns."""
    headline = evaluation.levels[level].labels[evaluation.labels.headline].operating_point
    obstacle = f"\n{evaluation.labels.headline}: {headline.sensitivity.reason}" if not headline.rule else ""
    table = Table(
        title=f"operating points by {level}, fitted on {PLURALS[level]} of all {evaluation.folds} folds",
        caption="held out: each fold at the threshold of the other folds\nfitted: on the data that chose the "
        f"threshold, and so too good{obstacle}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column("label", no_wrap=True)
    table.add_column("threshold", no_wrap=True)
    for name in ("sensitivity", "specificity"):
        table.add_column(f"{name}\nheld out (95 %)", no_wrap=True)
        table.add_column("\nfitted", no_wrap=True)
    for name, label in evaluation.levels[level].labels.items():
        point = label.operating_point
        chosen = (point.threshold, point.chosen_sensitivity, point.chosen_specificity)
        threshold, *fitted = ("n/a" if math.isnan(value) else show_number(value, 2) for value in chosen)
        held_out = (f"{point.sensitivity:.2f}", f"{point.specificity:.2f}")
        table.add_row(name, threshold, held_out[0], fitted[0], held_out[1], fitted[1])
    return table
