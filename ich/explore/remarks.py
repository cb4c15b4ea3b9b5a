"""What stands out in a data set, from its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from ich.explore.facts import Facts
from ich.explore.label_remarks import remark_labels
from ich.explore.remark import (
    CONTENTS,
    FEW_PATIENTS,
    GEOMETRY,
    HEADERS,
    HOUNSFIELD,
    QUALITY,
    Rank,
    Remark,
    remark_part,
    say_share,
)
from ich.explore.sample import MOST_ENCODINGS
from ich.index.quality import LEAST_AIR
from ich.schema.codes import Quality
from ich.schema.hu import ANY_AIR, BRAIN_PEAK, PEAK_SOUGHT
from ich.tables import say

FEW_SLICES = 10
"""Slices of a short series: a head of 150 mm needs 30 slices of 5 mm."""

TILTED = 15.0
"""Degrees above which a tilt is unusual."""

OF_SLICES = (Quality.CONSTANT, Quality.LITTLE_AIR, Quality.LITTLE_TISSUE, Quality.MUCH_BONE)
OF_SERIES = tuple(problem for problem in Quality if problem not in OF_SLICES)


def list_remarks(facts: Facts) -> list[Remark]:
    """Lists what there is to say, the worst first; within a rank, what concerns the largest share first."""
    remarks = [
        *_remark_files(facts),
        *([] if facts.labeling is None else remark_labels(facts.labeling)),
        *_remark_patients(facts),
        *_remark_series(facts),
        *_remark_encodings(facts),
        *_remark_pixels(facts),
    ]
    return sorted(remarks, key=lambda remark: (remark.rank, -remark.share))


def _remark_files(facts: Facts) -> Iterator[Remark]:
    if refused := facts.refused.total():
        code, most = facts.refused.most_common(1)[0]
        text = (
            say(refused, "file", "was", "were") + f" refused, {'all' if most == refused else most} as {code}."
        )
        share = refused / (refused + len(facts.table))
        bars = dict[str, float](facts.refused.most_common(6))
        yield Remark("Some files were refused", text, QUALITY, Rank.WEAKENS, share, bars, "files")
    sampled = len(facts.sample.rows)
    if unread := facts.sample.unread.total():
        text = (
            f"The pixels of {unread:,} of {say(sampled, 'slice')} in the sample cannot be "
            "read. Training stops at such slices unless data.tolerate allows them."
        )
        title = "Some pixels cannot be read"
        yield remark_part(title, text, QUALITY, Rank.PREVENTS, unread, sampled, "slice")
    same = facts.identical
    if same.slices:
        text = (
            say(same.slices, "slice", "has", "have")
            + f" the same pixels as a slice of another patient (of {same.among:,} compared; "
            f"{say(same.patients, 'patient')}). data.check_pixels=true keeps such patients in one part."
        )
        title = "Patients share the same pixels"
        yield remark_part(title, text, QUALITY, Rank.MISLEADS, same.slices, same.among, "slice")


def _remark_patients(facts: Facts) -> Iterator[Remark]:
    if blank := int((facts.table["PatientID"].str.strip() == "").sum()):
        lacking = say(blank, "slice", "has", "have")
        text = f"{lacking} no PatientID. They are counted by study, and a split is not possible."
        title = "Some slices name no patient"
        yield remark_part(title, text, CONTENTS, Rank.MISLEADS, blank, len(facts.table), "slice")
    patients = facts.count("patient")
    if several := int((facts.count_per("study", "patient") > 1).sum()):
        text = f"{say(several, 'patient', 'has', 'have')} several studies. A split by study would leak."
        yield Remark("Patients have several studies", text, CONTENTS)
    if several := int((facts.count_per("series", "study") > 1).sum()):
        text = f"{say(several, 'study', 'has', 'have')} several series."
        yield Remark("Studies have several series", text, CONTENTS)
    if patients < FEW_PATIENTS:
        there = "There is" if patients == 1 else "There are"
        text = f"{there} {say(patients, 'patient')}, which is too few for training or evaluation."
        bars = {"patients": float(patients)}
        yield Remark(
            "There are few patients", text, CONTENTS, Rank.WEAKENS, 1.0, bars, "patients", FEW_PATIENTS
        )


def _remark_series(facts: Facts) -> Iterator[Remark]:
    series, total = facts.series, len(facts.series)
    for problem in OF_SERIES:
        if count := facts.problems[problem]:
            text = f"{problem.sentence}: {say(count, 'series')}."
            yield remark_part(problem.sentence, text, QUALITY, Rank.WEAKENS, count, total, "series")
    if short := int((series["slices"] < FEW_SLICES).sum()):
        text = f"{say(short, 'series', 'has', 'have')} fewer than {FEW_SLICES} slices."
        yield remark_part("Some series are short", text, CONTENTS, Rank.DIFFERS, short, total, "series")
    if tilted := int((series["tilt"].abs() > TILTED).sum()):
        text = f"{say(tilted, 'series', 'is', 'are')} tilted by more than {TILTED:g} degrees."
        yield remark_part("Some series are tilted", text, GEOMETRY, Rank.DIFFERS, tilted, total, "series")
    steps = series["step"].dropna()
    if len(steps) and steps.max() > 1.5 * steps.min():
        extent = f"from {steps.min():.3g} to {steps.max():.3g} mm"
        text = f"The step from slice to slice differs between series, {extent}."
        counts = steps.round(1).value_counts()
        bars = {f"{step:g} mm": float(count) for step, count in counts.head(5).sort_index().items()}
        share = 1 - counts.max() / len(steps)
        yield Remark("The step between slices differs", text, GEOMETRY, Rank.DIFFERS, share, bars, "series")


def _remark_encodings(facts: Facts) -> Iterator[Remark]:
    shares = np.bincount(facts.encoding) / len(facts.encoding)
    if len(shares) > 1:
        common = zip(shares[:MOST_ENCODINGS].tolist(), facts.encodings, strict=False)
        named = [(str(encoding), share) for share, encoding in common]
        rest = float(shares[MOST_ENCODINGS:].sum())
        listed = [f"{say_share(share)} as {encoding}" for encoding, share in named]
        listed += [f"{say_share(rest)} otherwise"] if rest else []
        bars = {encoding: 100 * share for encoding, share in [*named, *([("others", rest)] if rest else [])]}
        yield Remark(
            "Scanners store pixels differently",
            f"Pixels are stored in {len(shares)} ways: {'; '.join(listed)}.",
            HEADERS,
            Rank.DIFFERS,
            1 - float(shares.max()),
            bars,
            "% of the slices",
        )
    wrapping = [number for number, encoding in enumerate(facts.encodings) if encoding.wraps]
    if wrapped := int(np.isin(facts.encoding, wrapping).sum()):
        text = (
            f"{say(wrapped, 'slice', 'has', 'have')} 12 bit unsigned with an intercept above -100: shifted "
            "and wrapped values, as in the RSNA set. Reading corrects them."
        )
        yield Remark("Some values are wrapped", text, HEADERS)
    table = facts.table
    square = (table["row_spacing"] / table["column_spacing"] - 1).abs() <= 0.01
    for found, title, what, rank in (
        (
            table["pixel_offset"] < 0,
            "Some slices are compressed",
            "to be decoded, which takes longer than reading directly",
            Rank.INFORMS,
        ),
        (
            table["WindowCenter"].isna() | table["WindowWidth"].isna(),
            "Some headers have no window",
            "no window in the header, so input=dicom cannot be used",
            Rank.INFORMS,
        ),
        (
            table["row_spacing"].notna() & table["column_spacing"].notna() & ~square,
            "Some pixels are not square",
            "pixels that are not square",
            Rank.DIFFERS,
        ),
        (table["row_spacing"].isna(), "Some headers have no pixel size", "no PixelSpacing", Rank.WEAKENS),
    ):
        if count := int(found.sum()):
            text = f"{say(count, 'slice', 'has', 'have')} {what}."
            yield remark_part(title, text, HEADERS, rank, count, len(table), "slice")


def _remark_pixels(facts: Facts) -> Iterator[Remark]:
    sample = facts.sample
    for problem in OF_SLICES:
        if count := sample.problems[problem]:
            text = f"{problem.sentence}: {count:,} of {say(sample.read, 'slice')}."
            yield remark_part(problem.sentence, text, QUALITY, Rank.WEAKENS, count, sample.read, "slice")
    yield from _remark_peaks(facts)
    hu = sample.merge_hu()
    if hu.total and hu.count(*ANY_AIR) < LEAST_AIR * hu.total:  # as the problems of slices count it
        text = (
            f"Hardly any pixel has the HU of air ({ANY_AIR[0]} to {ANY_AIR[1]}), and the lowest value is "
            f"{hu.lowest}. The values were clipped, or the intercept is wrong."
        )
        bars = {"pixels of air": 100 * hu.count(*ANY_AIR) / hu.total}
        yield Remark(
            "There is hardly any air",
            text,
            HOUNSFIELD,
            Rank.MISLEADS,
            1.0,
            bars,
            "% of the pixels",
            100 * LEAST_AIR,
        )


def _remark_peaks(facts: Facts) -> Iterator[Remark]:
    """Remarks on encodings whose most frequent HU is not that of brain."""
    found = {number: each.find_peak(*PEAK_SOUGHT) for number, each in sorted(facts.sample.hu.items())}
    peaks = {n: peak for n, peak in found.items() if n < MOST_ENCODINGS and peak is not None}
    counts = Counter(facts.encoding.tolist())
    for number, peak in peaks.items():
        if not BRAIN_PEAK[0] <= peak <= BRAIN_PEAK[1]:
            yield Remark(
                "Hounsfield units are off",
                f"Stored as {facts.encodings[number]}, the most frequent HU from {PEAK_SOUGHT[0]} to "
                f"{PEAK_SOUGHT[1]} is {peak}, "
                f"but brain has {BRAIN_PEAK[0]} to {BRAIN_PEAK[1]}. Check the intercept.",
                HOUNSFIELD,
                Rank.MISLEADS,
                counts[number] / len(facts.encoding),
                {str(facts.encodings[n]): float(each) for n, each in peaks.items()},
                "most frequent HU",
                BRAIN_PEAK[1],
            )
