"""Sentences about what stands out in a data set, from its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from ich.explore.facts import Facts, Labeling
from ich.explore.sample import MOST_ENCODINGS
from ich.index.quality import LEAST_AIR
from ich.schema.codes import Quality
from ich.schema.hu import ANY_AIR, BRAIN_PEAK, PEAK_SOUGHT
from ich.schema.shares import show_percent
from ich.tables import say

FEW_PATIENTS = 10
"""With fewer patients than this, figures for a label say little, because one patient can change them."""

RARE = 0.01
"""A label is rare below this share of the slices."""

OFTEN = 0.5
"""Another label is mentioned if it is present in at least this share of a label's slices."""

FEW_SLICES = 10
"""Slices of a short series: a head of 150 mm needs 30 slices of 5 mm."""

TILTED = 15.0
"""Degrees above which a tilt is unusual."""

OF_SLICES = (Quality.CONSTANT, Quality.LITTLE_AIR, Quality.LITTLE_TISSUE, Quality.MUCH_BONE)
OF_SERIES = tuple(problem for problem in Quality if problem not in OF_SLICES)


def list_remarks(facts: Facts) -> list[str]:
    """Lists what stands out; problems that prevent or mislead training come first."""
    remarks = [
        *_remark_files(facts),
        *([] if facts.labeling is None else _remark_labels(facts.labeling)),
        *_remark_patients(facts),
        *_remark_series(facts),
        *_remark_encodings(facts),
        *_remark_pixels(facts),
    ]
    return remarks or ["Nothing stands out."]


def say_share(share: float) -> str:
    """Formats a share in percent with suitable precision."""
    return show_percent(share, 1 if share < 0.1 else 0)


def _remark_files(facts: Facts) -> Iterator[str]:
    if refused := facts.refused.total():
        code, most = facts.refused.most_common(1)[0]
        yield (
            say(refused, "file", "was", "were") + f" refused, {'all' if most == refused else most} as {code}."
        )
    if unread := facts.sample.unread.total():
        yield (
            f"The pixels of {unread:,} of {say(len(facts.sample.rows), 'slice')} in the sample cannot be "
            "read. Training stops at such slices unless data.tolerate allows them."
        )
    same = facts.identical
    if same.slices:
        yield (
            say(same.slices, "slice", "has", "have")
            + f" the same pixels as a slice of another patient (of {same.among:,} compared; "
            f"{say(same.patients, 'patient')}). data.check_pixels=true keeps such patients in one part."
        )


def _remark_labels(labeling: Labeling) -> Iterator[str]:
    join = labeling.join
    if join.unlabeled:
        yield (
            f"{say(join.unlabeled, 'slice', 'has', 'have')} no label "
            f"({say_share(join.unlabeled / join.slices)} of all)."
        )
    if join.without_file:
        yield f"The labels name {say(join.without_file, 'slice')} without a file."
    if labeling.repeats:
        yield f"{say(labeling.repeats, 'row')} of the label file repeat another row without contradiction."
    slices, patients = labeling.counts["slice"], labeling.counts["patient"]
    for number, label in enumerate(slices.labels.names):
        positive, negative = int(slices.positive[number]), int(slices.negative[number])
        owners = int(patients.positive[number])
        if not positive + negative:
            yield f"{label} is unknown for every slice."
        elif not positive:
            yield f"{label} has no positive slice: it cannot be learned or measured."
        elif not negative:
            yield f"{label} is positive in every labeled slice: it cannot be learned or measured."
        elif owners < FEW_PATIENTS:
            yield (
                f"{label} has {say(positive, 'positive slice')} in {say(owners, 'patient')}. Figures for it "
                "will mean little."
            )
        elif positive < RARE * (positive + negative):
            yield (
                f"{label} is rare: {say_share(positive / (positive + negative))} of the slices, "
                f"{negative / positive:,.0f} negative slices for each positive one."
            )
        if int(slices.unknown[number]) > join.unlabeled:
            yield f"{label} is unknown for {say(int(slices.unknown[number]), 'slice')}."
    yield from _remark_together(labeling)


def _remark_together(labeling: Labeling) -> Iterator[str]:
    slices = labeling.counts["slice"]
    bleeding, several = int(slices.subtypes[1:].sum()), int(slices.subtypes[2:].sum())
    if several:
        yield (
            f"{say_share(several / bleeding)} of the slices with a subtype have more than one "
            f"({several:,} of {bleeding:,}): the labels are not exclusive."
        )
    for subtype, companion in permutations(slices.labels.averaged, 2):
        one, other = slices.labels.index(subtype), slices.labels.index(companion)
        both, alone = int(slices.together[one, other]), int(slices.positive[one])
        if alone and both >= OFTEN * alone:
            share = f"{say_share(both / alone)} of the slices with {subtype}"
            yield f"{share} have {companion} too ({both:,} of {alone:,})."


def _remark_patients(facts: Facts) -> Iterator[str]:
    if blank := int((facts.table["PatientID"].str.strip() == "").sum()):
        lacking = say(blank, "slice", "has", "have")
        yield f"{lacking} no PatientID. They are counted by study, and a split is not possible."
    if several := int((facts.count_per("study", "patient") > 1).sum()):
        yield f"{say(several, 'patient', 'has', 'have')} several studies. A split by study would leak."
    if several := int((facts.count_per("series", "study") > 1).sum()):
        yield f"{say(several, 'study', 'has', 'have')} several series."
    patients = facts.count("patient")
    if patients < FEW_PATIENTS:
        there = "There is" if patients == 1 else "There are"
        yield f"{there} {say(patients, 'patient')}, which is too few for training or evaluation."


def _remark_series(facts: Facts) -> Iterator[str]:
    for problem in OF_SERIES:
        if count := facts.problems[problem]:
            yield f"{problem.sentence}: {say(count, 'series')}."
    if short := int((facts.series["slices"] < FEW_SLICES).sum()):
        yield f"{say(short, 'series', 'has', 'have')} fewer than {FEW_SLICES} slices."
    if tilted := int((facts.series["tilt"].abs() > TILTED).sum()):
        yield f"{say(tilted, 'series', 'is', 'are')} tilted by more than {TILTED:g} degrees."
    steps = facts.series["step"].dropna()
    if len(steps) and steps.max() > 1.5 * steps.min():
        extent = f"from {steps.min():.3g} to {steps.max():.3g} mm"
        yield f"The step from slice to slice differs between series, {extent}."


def _remark_encodings(facts: Facts) -> Iterator[str]:
    shares = np.bincount(facts.encoding) / len(facts.encoding)
    if len(shares) > 1:
        named = [
            f"{say_share(share)} as {encoding}"
            for share, encoding in zip(shares[:MOST_ENCODINGS], facts.encodings, strict=False)
        ]
        rest = float(shares[MOST_ENCODINGS:].sum())
        named += [f"{say_share(rest)} otherwise"] if rest else []
        yield f"Pixels are stored in {len(shares)} ways: {'; '.join(named)}."
    wrapping = [number for number, encoding in enumerate(facts.encodings) if encoding.wraps]
    if wrapped := int(np.isin(facts.encoding, wrapping).sum()):
        yield (
            f"{say(wrapped, 'slice', 'has', 'have')} 12 bit unsigned with an intercept above -100: shifted "
            "and wrapped values, as in the RSNA set. Reading corrects them."
        )
    table = facts.table
    for found, what in (
        (table["pixel_offset"] < 0, "to be decoded, which takes longer than reading directly"),
        (
            table["WindowCenter"].isna() | table["WindowWidth"].isna(),
            "no window in the header, so input=dicom cannot be used",
        ),
        ((table["row_spacing"] / table["column_spacing"] - 1).abs() > 0.01, "pixels that are not square"),
        (table["row_spacing"].isna(), "no PixelSpacing"),
    ):
        if count := int(found.sum()):
            yield f"{say(count, 'slice', 'has', 'have')} {what}."


def _remark_pixels(facts: Facts) -> Iterator[str]:
    sample = facts.sample
    for problem in OF_SLICES:
        if count := sample.problems[problem]:
            yield f"{problem.sentence}: {count:,} of {say(sample.read, 'slice')}."
    for number, histogram in sorted(sample.hu.items()):
        peak = histogram.find_peak(*PEAK_SOUGHT)
        if number < MOST_ENCODINGS and peak is not None and not BRAIN_PEAK[0] <= peak <= BRAIN_PEAK[1]:
            yield (
                f"Stored as {facts.encodings[number]}, the most frequent HU from {PEAK_SOUGHT[0]} to "
                f"{PEAK_SOUGHT[1]} is {peak}, "
                f"but brain has {BRAIN_PEAK[0]} to {BRAIN_PEAK[1]}. Check the intercept."
            )
    hu = sample.merge_hu()
    if hu.total and hu.count(*ANY_AIR) < LEAST_AIR * hu.total:  # as the problems of slices count it
        yield (
            f"Hardly any pixel has the HU of air ({ANY_AIR[0]} to {ANY_AIR[1]}), and the lowest value is "
            f"{hu.lowest}. The values were clipped, or the intercept is wrong."
        )
