"""The page about a data set."""

from __future__ import annotations

from pathlib import Path

from ich import __version__
from ich.explore.facts import Facts
from ich.explore.figures import (
    draw_geometry,
    draw_hu,
    draw_labels,
    draw_series_sizes,
    draw_stored,
    draw_together,
)
from ich.explore.header import read_header_table
from ich.explore.highlights import NAMES as HIGHLIGHTS
from ich.explore.highlights import make_highlights
from ich.explore.remark import CONTENTS, GEOMETRY, HEADERS, HOUNSFIELD, LABELS, QUALITY
from ich.explore.remarks import list_remarks
from ich.explore.sheets import choose_series, draw_series, draw_windows
from ich.explore.tables import (
    tabulate_counts,
    tabulate_encodings,
    tabulate_geometry,
    tabulate_headers,
    tabulate_labels,
    tabulate_materials,
    tabulate_quality,
    tabulate_subtypes,
)
from ich.explore.units import LEVELS
from ich.report.document import Block, Document, Missing, Picture, Section, Text
from ich.schema.hu import GRAY_AND_WHITE, PURE_AIR
from ich.tables import PLURALS, say

NAMES = (
    *HIGHLIGHTS,
    *("series_sizes", "geometry", "labels", *(f"together_{level}" for level in LEVELS)),
    *("stored", "hu", "windows", "series"),
)
"""Names of the pictures, without the ending."""

_NO_LABELS = "No label file was found beside the slices; give one with --labels."


def make_document(root: Path, facts: Facts) -> Document:
    """Makes the page about a data set."""
    counts = ", ".join(say(facts.count(unit), unit) for unit in ("slice", "series", "study", "patient"))
    shown = choose_series(facts.table, facts.units, facts.labels)
    return Document(
        title="A look at the data",
        subtitle=f"{counts}. Made by ich {__version__}. This page names no patient and no file.",
        sections=[
            Section("What stands out", make_highlights(list_remarks(facts))),
            Section(CONTENTS, _show_counts(facts)),
            Section(LABELS, _show_labels(facts)),
            Section("Labels that occur together", _show_together(facts)),
            Section(HEADERS, [tabulate_encodings(facts), *tabulate_headers(facts)]),
            Section(GEOMETRY, _show_geometry(facts)),
            Section(HOUNSFIELD, _show_pixels(facts)),
            Section(
                "Slices through each window", [*draw_windows(root, facts.table, facts.units, facts.labels)]
            ),
            Section("One series from bottom to top", [draw_series(root, facts.table, shown, facts.labels)]),
            Section(
                "The header of one slice",
                [read_header_table(root / facts.table["path"].iloc[shown[len(shown) // 2]])],
            ),
            Section(QUALITY, [Text(_explain_quality(facts)), tabulate_quality(facts)]),
        ],
    )


def _show_counts(facts: Facts) -> list[Block]:
    sizes = facts.series["slices"]
    return [
        tabulate_counts(facts),
        Picture(
            "series_sizes",
            draw_series_sizes(facts.series),
            f"Slices per series: {sizes.min()} to {sizes.max()}, median {sizes.median():g}.",
            "Histogram of the number of slices per series",
        ),
    ]


def _show_labels(facts: Facts) -> list[Block]:
    labeling = facts.labeling
    if labeling is None:
        return [Missing("Labels by slice, study and patient", _NO_LABELS)]
    join = labeling.join
    return [
        Text(
            f"{say(join.slices - join.unlabeled, 'slice', 'has', 'have')} a label and {join.unlabeled:,} "
            f"none. The labels name {say(join.without_file, 'slice')} without a file. A study or patient "
            "has a label if one of its slices has it. Shares count only those whose label is known."
        ),
        tabulate_labels(labeling),
        Picture(
            "labels",
            draw_labels(labeling.counts),
            "Share with each label, among those whose label is known. The numbers are counts.",
            "Bar chart of the share of slices, studies and patients with each label",
        ),
    ]


def _show_together(facts: Facts) -> list[Block]:
    labeling = facts.labeling
    if labeling is None:
        return [Missing("Co-occurrence of labels", _NO_LABELS)]
    pictures = [
        Picture(
            f"together_{level}",
            draw_together(labeling.counts[level]),
            f"{PLURALS[level].capitalize()} with both the label of the row and that of the column. The "
            "diagonal counts all with the label. Darker means a larger share of the row.",
            f"Matrix with the number of {PLURALS[level]} that have two labels at once",
        )
        for level in LEVELS
    ]
    return [tabulate_subtypes(labeling), *pictures]


def _show_geometry(facts: Facts) -> list[Block]:
    return [
        tabulate_geometry(facts),
        Picture(
            "geometry",
            draw_geometry(facts.table, facts.series),
            "Pixel size (between rows), step from slice to slice, and tilt, where the headers give them.",
            "Histograms of pixel size, step between slices and tilt",
        ),
    ]


def _show_pixels(facts: Facts) -> list[Block]:
    sample = facts.sample
    what = "The distribution of stored values and Hounsfield units"
    if not sample.read:
        return [Missing(what, f"None of the {say(len(sample.rows), 'slice')} in the sample can be read.")]
    return [
        Text(_explain_sample(facts)),
        tabulate_materials(sample, facts.encodings),
        Picture(
            "stored",
            draw_stored(sample, facts.encodings),
            "Before rescaling: stored values by encoding, with the ranges of air, water, soft tissue, "
            "blood and bone. The rarest 0.1 % at the ends are not shown.",
            "Histograms of stored values with the ranges of materials, one for each encoding",
        ),
        Picture(
            "hu",
            draw_hu(sample, facts.encodings),
            f"After rescaling: the encodings should overlap, with air at {PURE_AIR} and brain between "
            f"{GRAY_AND_WHITE[0]} and {GRAY_AND_WHITE[1]}. "
            "Padding counts as air.",
            "Histograms of Hounsfield units with ranges of materials: all, and from water to blood",
        ),
    ]


def _explain_sample(facts: Facts) -> str:
    read, total = facts.sample.read, len(facts.table)
    if len(facts.sample.rows) == total:
        return f"From the pixels of all {say(total, 'slice')}; {read:,} of them could be read."
    favored = "" if facts.labeling is None else " Half of them are drawn so that each subtype is represented."
    return (
        f"From the pixels of a sample: {len(facts.sample.rows):,} of {total:,} slices, spread over "
        f"patients; {read:,} of them could be read.{favored} Use --slices for more."
    )


def _explain_quality(facts: Facts) -> str:
    among = facts.identical.among
    compared = (
        "all slices"
        if among == len(facts.table)
        else f"the {among:,} slices of the sample (--hash compares all)"
    )
    return (
        "Training leaves out refused files only, not slices with data-quality problems. `ich index ROOT "
        f"--check` lists the problems by file. The search for identical pixels covered {compared}."
    )
