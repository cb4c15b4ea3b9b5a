"""The page and the picture of a recalibration. They name no patient and no file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from ich.calibration import NotFitted
from ich.calibration.recalibration import SiteFit
from ich.evaluation_report.pictures.panels import BLUE, RED, draw_panels, set_title, set_unit_axes
from ich.recalibrate.change import FOLDS, Change
from ich.recalibrate.studies import SiteStudies
from ich.report.document import Block, Document, Listing, Picture, Section, Table
from ich.report.figures import encode_png
from ich.report.html import write_html
from ich.schema.codes import Reason, SetAside, find_sentence
from ich.tables import PLURALS, say

REPORT, PICTURE = "report.html", "reliability"
"""Name of the page, and of the picture in it."""

GROUP, GROUPS = 6, 8
"""Units that a point of the picture stands for, at least, and points of a panel, at most."""

Fits = Mapping[str, Mapping[str, SiteFit]]
Changes = Mapping[str, Mapping[str, Change]]

_LIMITS = (
    "The figures after are of studies that took no part in the fit that they are measured with. Intervals "
    "are 95 %, by bootstrap over patients; with so few studies they are wide.",
    "The expected calibration error of few studies is too high before and after, because each bin holds only "
    "a few of them.",
    "A recalibration changes no order of studies, so the AUROC stays as it is.",
    "It holds for studies like these. Another scanner, protocol or mix of patients needs its own.",
)


def write_report(
    site: str, studies: SiteStudies, headline: str, fits: Fits, changes: Changes, out: Path
) -> None:
    """Writes the page and the picture to a folder."""
    change = changes["study"].get(headline)
    picture: list[Block] = []
    if change is not None:
        png = encode_png(draw_change(change))
        (out / f"{PICTURE}.png").write_bytes(png)
        picture = [
            Picture(
                PICTURE,
                png,
                f"Share of studies with {headline} over their probability, before and after. A point stands "
                "for a group of studies, with its exact 95 % interval. Marks at the top are studies with "
                f"{headline}, those at the bottom are without. The dashed line is the operating point.",
                f"Reliability of {headline} by study, before and after the recalibration.",
            )
        ]
    levels = [tabulate_change(changes[level][headline]) for level in changes if headline in changes[level]]
    document = Document(
        title="Recalibration",
        subtitle=f"Site: {site}" if site else "",
        sections=[
            Section("Studies", [Listing(describe_studies(studies))]),
            Section("Before and after", [*levels, *picture]),
            Section("Labels by study", [tabulate_labels(fits["study"], changes["study"])]),
            Section("Limits", [Listing(_LIMITS)]),
        ],
    )
    write_html(document, out / REPORT)


def describe_studies(studies: SiteStudies) -> list[str]:
    """Says in sentences which studies were used."""
    used = studies.slices
    patients = used["PatientID"].nunique()
    said = [f"{say(len(studies.targets), 'study', 'is', 'are')} used, of {say(patients, 'patient')}"]
    if studies.unlike:
        said.append(f"{say(studies.unlike, 'study', 'is', 'are')} used although out of distribution")
    if studies.unlabeled:
        said.append(f"{say(studies.unlabeled, 'study', 'has', 'have')} no known label")
    said += [
        f"{say(count, 'study', 'is', 'are')} left out: {find_sentence(code, Reason, SetAside)} ({code})"
        for code, count in sorted(studies.left_out.items())
    ]
    return said


def tabulate_change(change: Change) -> Table:
    """The figures of one label before and after."""
    column, counts = change.column, change.counts
    pairs = {
        "expected calibration error": (change.before.expected_error, change.after.expected_error),
        "Brier score": (change.before.brier, change.after.brier),
        "log loss": (change.before.log_loss, change.after.log_loss),
        "sensitivity": (change.point_before.sensitivity, change.point_after.sensitivity),
        "specificity": (change.point_before.specificity, change.point_after.specificity),
    }
    cells = [(name, f"{before:.2f}", f"{after:.2f}") for name, (before, after) in pairs.items()]
    points = (change.point_before, change.point_after)
    rows = [*cells, ("operating point", *(_show(point.threshold) for point in points))]
    return Table(
        ("", "before", "after"),
        rows,
        f"{column.label} by {column.level}: {counts.units} {PLURALS[column.level]} of {counts.patients} "
        f"patients, {counts.positives} of them positive. After: each by a fit without its patient"
        + ("." if counts.patients <= FOLDS else f" and others, {FOLDS} fits in all."),
    )


def tabulate_labels(fits: Mapping[str, SiteFit], changes: Mapping[str, Change]) -> Table:
    """The fit of each label."""
    rows = []
    for label, fit in fits.items():
        change = changes.get(label)
        if change is None or fit.site is None:
            rows.append((label, f"kept: {fit.kept}", "", "", ""))
            continue
        counts = change.counts
        point = fit.point
        rows.append(
            (
                label,
                f"{counts.positives} of {counts.units}",
                f"{fit.site.slope:.2f}, {fit.site.intercept:+.2f}",
                ", then ".join(_show(each.log_loss.value) for each in (change.before, change.after)),
                f"none: {point.missing}" if isinstance(point, NotFitted) else _show(point.threshold),
            )
        )
    return Table(
        ("label", "positive", "slope, intercept", "log loss", "operating point"),
        rows,
        "Slope and intercept act on the logit of the model's own probability; 1 and 0 change nothing.",
    )


def draw_change(change: Change) -> Figure:
    """Draws the reliability of one label before and after."""
    column = change.column
    panels = {
        "before": (column.prob, change.point_before.threshold, change.before.expected_error, BLUE, "o"),
        "after": (column.calibrated, change.point_after.threshold, change.after.expected_error, RED, "s"),
    }

    def draw(axes: Axes, name: str) -> None:
        prob, threshold, error, color, marker = panels[name]
        axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1)
        if not math.isnan(threshold):
            axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
        for value, height in ((1, 1.06), (0, -0.06)):
            rug = prob[column.target == value]
            axes.plot(rug, np.full(len(rug), height), "|", color="0.25", markersize=6, alpha=0.7)
        x, share, low, high = _group(column.target, prob)
        axes.errorbar(
            x, share, yerr=[share - low, high - share], color=color, marker=marker, lw=1.2, elinewidth=0.8
        )
        set_unit_axes(axes)
        axes.set_ylim(-0.11, 1.11)
        set_title(axes, name, "" if math.isnan(error.value) else f"error {error.value:.2f}")

    return draw_panels(panels, draw, "probability", f"share with {column.label}")


def _group(target: NDArray[np.float64], prob: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, G): mean probability, share of positives, and its exact interval, of groups of equal size.

    The interval is that of Clopper and Pearson, Biometrika 1934;26:404.
    """
    order = np.argsort(prob, kind="stable")
    count = min(max(1, len(prob) // GROUP), GROUPS)
    groups = []
    for rows in np.array_split(order, count):
        found = binomtest(int(target[rows].sum()), len(rows))
        interval = found.proportion_ci()
        groups.append((prob[rows].mean(), found.statistic, interval.low, interval.high))
    return np.array(groups).T


def _show(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
