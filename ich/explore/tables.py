"""The tables of a page about a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from pydicom.uid import UID

from ich.explore.facts import Facts, Labeling
from ich.explore.remark import say_share
from ich.explore.remarks import OF_SERIES, OF_SLICES
from ich.explore.sample import MATERIALS, MOST_ENCODINGS, Sample
from ich.explore.units import LEVELS, LabelCounts
from ich.index.encodings import Encoding
from ich.report.document import Table
from ich.schema.codes import Quality, Refusal, describe_code
from ich.tables import PLURALS

_MOST_ROWS = 10
_QUANTILES = {"lowest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "highest": 1.0}


def _show_share(share: float) -> str:
    return say_share(share).replace(" ", "\N{NO-BREAK SPACE}")  # a cell is narrow


def tabulate_counts(facts: Facts) -> Table:
    """Tabulates numbers of slices, series, studies and patients, and how many belong to one of the next."""
    rows = []
    units = ("slice", "series", "study", "patient")
    for unit, owner in zip(units, (*units[1:], None), strict=True):
        row = [PLURALS[unit], f"{facts.count(unit):,}", "", ""]
        if owner is not None:
            each = facts.count_per(unit, owner)
            least, most = int(each.min()), int(each.max())
            row[2:] = f"{np.median(each):g}", f"{least:,}{f' to {most:,}' if most > least else ''} a {owner}"
        rows.append(row)
    return Table(("", "number", "median", "lowest to highest"), rows)


def tabulate_encodings(facts: Facts) -> Table:
    """Tabulates how pixels are stored."""
    named = {number: str(encoding) for number, encoding in enumerate(facts.encodings)}
    counts = Counter({named[n]: int(count) for n, count in enumerate(np.bincount(facts.encoding))})
    return _tabulate("Pixels, rescaling", counts, "How pixels are stored")


def tabulate_headers(facts: Facts) -> list[Table]:
    """Tabulates other header values that have few variants."""

    def tabulate(name: str, columns: list[str], show: Callable[..., str], caption: str) -> Table:
        counts = Counter[str]()
        sizes = facts.table.groupby(columns, dropna=False).size()
        for *values, count in sizes.reset_index().itertuples(index=False):
            counts[show(*values)] += int(count)
        return _tabulate(name, counts, caption)

    return [
        tabulate("Transfer syntax", ["TransferSyntaxUID"], _name_syntax, "Transfer syntaxes"),
        tabulate(
            "Photometric interpretation",
            ["PhotometricInterpretation", "BitsAllocated"],
            lambda name, bits: f"{name}, {bits} bits allocated",
            "Gray values",
        ),
        tabulate("Rows x columns", ["Rows", "Columns"], lambda rows, columns: f"{rows} x {columns}", "Sizes"),
        tabulate(
            "Center / width, HU",
            ["WindowCenter", "WindowWidth"],
            lambda *window: "none" if np.isnan(window).any() else "{:g} / {:g}".format(*window),
            "Windows, the first of each header",
        ),
        tabulate(
            "Stored values",
            ["padding_low", "padding_high"],
            lambda low, high: f"{low} to {high}" if low <= high else "none named",
            "Padding",
        ),
    ]


def tabulate_geometry(facts: Facts) -> Table:
    """Tabulates the geometry of slices and series."""
    table, series = facts.table, facts.series
    columns = {
        "pixel, mm": table["row_spacing"],
        "field of view, mm": table["row_spacing"] * table["Rows"],
        "step between slices, mm": series["step"],
        "length of a series, mm": series["step"] * (series["slices"] - 1),
        "tilt of a series, degrees": series["tilt"],
    }
    rows = []
    for name, values in columns.items():
        known = values.dropna()
        cells = [f"{known.quantile(q):.4g}" if len(known) else "" for q in _QUANTILES.values()]
        rows.append((name, *cells, f"{len(values) - len(known):,}"))
    return Table(("", *_QUANTILES, "not given"), rows)


def _name_syntax(uid: str) -> str:
    name = UID(uid).name
    return name if name != uid else "unknown"


def _tabulate(name: str, counts: Counter[str], caption: str) -> Table:
    """Tabulates counts of slices, the largest first, with the rare ones together."""
    total = counts.total()
    most = counts.most_common(_MOST_ROWS)
    rows = [(text, f"{count:,}", _show_share(count / total)) for text, count in most]
    if len(counts) > len(most):
        rest = total - sum(count for _, count in most)
        rows.append((f"{len(counts) - len(most):,} others", f"{rest:,}", _show_share(rest / total)))
    return Table((name, "slices", "share"), rows, caption=caption)


def tabulate_labels(labeling: Labeling) -> Table:
    """Tabulates positives of each label by level, their share of known units, and negatives per positive."""
    rows = []
    for number, label in enumerate(labeling.counts["slice"].labels.names):
        cells = []
        for level in LEVELS:
            count = labeling.counts[level]
            positive, negative = int(count.positive[number]), int(count.negative[number])
            share = f" ({_show_share(positive / (positive + negative))})" if positive + negative else ""
            cells.append(f"{positive:,}{share}")
        count = labeling.counts["slice"]
        positive, negative = int(count.positive[number]), int(count.negative[number])
        ratio = f"1 to {negative / positive:,.1f}" if positive else "no positives"
        rows.append((label, *cells, ratio, f"{int(count.unknown[number]):,}"))
    header = ("label", *(PLURALS[level] for level in LEVELS), "with to without", "unknown slices")
    return Table(header, rows, caption="With the label")


def tabulate_subtypes(labeling: Labeling) -> Table:
    """Tabulates how many subtypes slices, studies and patients have at once."""
    counts: list[LabelCounts] = [labeling.counts[level] for level in LEVELS]
    rows = [
        (f"{number}", *(f"{int(count.subtypes[number]):,}" for count in counts))
        for number in range(len(counts[0].subtypes))
        if any(count.subtypes[number:].any() for count in counts)
    ]
    return Table(("subtypes at once", *(PLURALS[level] for level in LEVELS)), rows)


def tabulate_materials(sample: Sample, encodings: Iterable[Encoding]) -> Table:
    """Tabulates the ranges of materials before and after rescaling, with their shares of pixels."""
    hu = sample.merge_hu()
    common = list(encodings)[:MOST_ENCODINGS]
    rows = []
    for material in MATERIALS:
        share = _show_share(hu.count(material.low, material.high) / max(hu.total, 1))
        ranges = (encoding.to_stored(material.low, material.high) for encoding in common)
        stored = (f"{low:.4g} to {high:.4g}" for low, high in ranges)
        rows.append((material.name, f"{material.low:g} to {material.high:g}", share, *stored))
    header = ("", "HU", "pixels", *(f"stored: {encoding}" for encoding in common))
    return Table(header, rows, caption="Where materials lie after and before rescaling")


def tabulate_quality(facts: Facts) -> Table:
    """Tabulates the data-quality checks, with zeros: a check without a problem is a result too."""
    sample, same = facts.sample, facts.identical
    in_sample, series = f"of {sample.read:,} slices", f"of {facts.count('series'):,} series"
    rows = _list_refusals("refused", facts.refused, "files")
    if facts.labeling is not None:
        rows.append(("labels given more than once", facts.labeling.repeats, "rows of the label file"))
    rows.append(("the same pixels as another patient's slice", same.slices, f"of {same.among:,} slices"))
    rows += [(describe_code(Quality, code), facts.problems[code], series) for code in OF_SERIES]
    rows += [(describe_code(Quality, code), sample.problems[code], in_sample) for code in OF_SLICES]
    rows += _list_refusals("cannot be read", sample.unread, f"of {len(sample.rows):,} slices")
    return Table(("check", "number", "among"), [(what, f"{count:,}", of) for what, count, of in rows])


def _list_refusals(what: str, refused: Counter[str], of: str) -> list[tuple[str, int, str]]:
    rows = [(f"{what}: {describe_code(Refusal, code)}", count, of) for code, count in refused.most_common()]
    return rows or [(what, 0, of)]
