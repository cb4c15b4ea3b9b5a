"""What stands out in the labels of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

from ich.explore.facts import Labeling
from ich.explore.remark import FEW_PATIENTS, LABELS, Rank, Remark, remark_part, say_share
from ich.tables import say

RARE = 0.01
"""A label is rare below this share of the slices."""

OFTEN = 0.5
"""Another label is mentioned if it is present in at least this share of a label's slices."""


def remark_labels(labeling: Labeling) -> Iterator[Remark]:
    """Yields remarks on missing, contradicting, useless and rare labels, and on those that occur together."""
    join = labeling.join
    if join.unlabeled:
        text = (
            f"{say(join.unlabeled, 'slice', 'has', 'have')} no label "
            f"({say_share(join.unlabeled / join.slices)} of all)."
        )
        title = "Some slices have no label"
        yield remark_part(title, text, LABELS, Rank.PREVENTS, join.unlabeled, join.slices, "slice")
    if missing := join.without_file:
        text = f"The labels name {say(missing, 'slice')} without a file."
        title, total = "Some labels have no file", missing + join.slices
        yield remark_part(title, text, LABELS, Rank.WEAKENS, missing, total, "slice")
    if labeling.repeats:
        text = f"{say(labeling.repeats, 'row')} of the label file repeat another row without contradiction."
        yield Remark("Labels are repeated", text, LABELS)
    if conflicts := labeling.conflicts:
        union = labeling.counts["slice"].labels.union
        text = (
            f"The labels of {say(conflicts, 'slice')} contradict each other: {union} is negative with a "
            "positive subtype, or positive with all subtypes negative."
        )
        title = "Labels contradict each other"
        yield remark_part(title, text, LABELS, Rank.MISLEADS, conflicts, join.slices, "slice")
    yield from _remark_each_label(labeling)
    yield from _remark_together(labeling)


def _remark_each_label(labeling: Labeling) -> Iterator[Remark]:
    slices, patients = labeling.counts["slice"], labeling.counts["patient"]
    names = slices.labels.names
    useless, few = list[str](), list[str]()
    for number, label in enumerate(names):
        positive, negative = int(slices.positive[number]), int(slices.negative[number])
        owners = int(patients.positive[number])
        if not positive + negative:
            useless.append(f"{label} is unknown for every slice")
        elif not positive:
            useless.append(f"{label} has no positive slice")
        elif not negative:
            useless.append(f"{label} is positive in every labeled slice")
        elif owners < FEW_PATIENTS:
            few.append(f"{label} has {say(positive, 'positive slice')} in {say(owners, 'patient')}")
        elif positive < RARE * (positive + negative):
            text = (
                f"{label} is rare: {say_share(positive / (positive + negative))} of the slices, "
                f"{negative / positive:,.0f} negative slices for each positive one."
            )
            yield Remark("A label is rare", text, LABELS)
        if int(slices.unknown[number]) > labeling.join.unlabeled:
            text = f"{label} is unknown for {say(int(slices.unknown[number]), 'slice')}."
            yield Remark("A label is partly unknown", text, LABELS)
    owners_of = dict[str, float](zip(names, patients.positive.tolist(), strict=True))
    little = f"With fewer than {FEW_PATIENTS} positive patients, figures mean little."
    for found, title, rank, effect in (
        (
            useless,
            "Some labels cannot be learned",
            Rank.PREVENTS,
            "They can neither be learned nor measured.",
        ),
        (few, "Few patients are positive", Rank.WEAKENS, little),
    ):
        if found:
            text, share = f"{'; '.join(found)}. {effect}", len(found) / len(names)
            unit = "positive patients"
            yield Remark(title, text, LABELS, rank, share, owners_of, unit, FEW_PATIENTS)


def _remark_together(labeling: Labeling) -> Iterator[Remark]:
    slices = labeling.counts["slice"]
    bleeding, several = int(slices.subtypes[1:].sum()), int(slices.subtypes[2:].sum())
    title = "Labels occur together"
    if several:
        text = (
            f"{say_share(several / bleeding)} of the slices with a subtype have more than one "
            f"({several:,} of {bleeding:,}): the labels are not exclusive."
        )
        yield Remark(title, text, LABELS)
    for subtype, companion in permutations(slices.labels.averaged, 2):
        one, other = slices.labels.index(subtype), slices.labels.index(companion)
        both, alone = int(slices.together[one, other]), int(slices.positive[one])
        if alone and both >= OFTEN * alone:
            share = f"{say_share(both / alone)} of the slices with {subtype}"
            yield Remark(title, f"{share} have {companion} too ({both:,} of {alone:,}).", LABELS)
