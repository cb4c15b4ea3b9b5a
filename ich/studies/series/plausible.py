"""Checks whether a series shows a head on the scale of Hounsfield units, from base to vertex.

All functions are pure and use the measures of ``pixels``. Limits come from anatomy and from whole series of
two public sets: 30 of RSNA 2019 (Flanders et al., Radiology: AI 2020;2:3), below *R*, and the 50 of CT-ICH
(Hssayeni, PhysioNet 2020), below *C*. Each limit lies outside of both sets, with a margin for other heads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ich.index.quality import LEAST_AIR, MOST_BONE
from ich.schema.codes import Note, Reason, SetAside
from ich.schema.hu import BRAIN_MIDDLE, BRAIN_SCALE
from ich.schema.results import Remark
from ich.schema.shares import show_percent
from ich.studies.series.pixels import Change, SeriesMeasures, SliceMeasures
from ich.tables.stacks import SAME_POSITION

# Of ich.schema.hu: BRAIN_MIDDLE is 12 to 58 in R and 23 to 53 in C; BRAIN_SCALE 23 to 42 in R, 23 to 40 in C.
LEAST_BRAINS, LEAST_SHARE = 3, 0.2  # slices with brain in a series of a head: at least 0.33 in R, 0.37 in C

LEAST_OF_AIR = 0.5  # share outside the body; the rest is foam, hair and edges: 0.70 in R, 0.76 in C
MOST_NEITHER = 0.3  # share of the slice: at most 0.20 in R, 0.18 in C
MOST_OF_BONE = 2000.0  # HU of the middle of bone around brain: at most 1453 in R, 1413 in C
MOST_HARD = 4.0
"""Share of the body that is denser than tissue and softer than bone, times the root of its area in cm.

It is the rim of the skull, whose share is larger in a smaller slice: at most 2.3 in R, where a slice at the
vertex has a share of 0.40, and 2.4 in C.
"""

MOST_RISE = 2.0  # of the middle of bone over that of the slices on either side: at most 1.26 in R, 1.21 in C
LEAST_BONE = 0.01  # share of the slice, for its middle to be compared: below it a clip is most of it
MOST_OFF = 20.0  # HU of tissue, from the slices on either side: at most 16 in C
MOST_STEP = 16.0  # HU of tissue in two slices side by side: at most 10 in R, 12 in C
MOST_FALL = 40.0  # HU of tissue, to the next slice: at most 19 in R, 18 in C
LEAST_SHARED = 0.7  # of the larger body, from slice to slice
MOST_SHRINKING = 11.0
"""cm² of body in a mm from slice to slice: at most 7.8 in R, at the vertex, and 7.5 in C.

A sphere of radius r loses 2 pi r mm² in a mm wherever it is cut, also at its top (Archimedes): 5.7 cm² where
r is 90 mm. A crown is flatter than that.
"""

LEAST_STEP, USUAL_STEP = 2.5, 5.0  # mm, for this: noise dominates thinner steps; if unknown

END_OF_BRAIN = 0.25
"""Largest area inside the skull in the uppermost slice of a whole head, as a fraction of the largest brain.

At most 0.08 in R and 0.20 in C, 42 cm². Without their upper 40 mm it is at least 0.28 in R and 0.79 in C;
without 30 mm it is above this in 24 of the 30 of R, and in all of C.
"""

START_OF_BRAIN = 0.5
"""The same of the lowest slice, where it is brain by its place and evenness: in no series of R or C it is.

At the base bone, air and muscle lie between, and what the jaw encloses is uneven. Without the lowest 50 mm it
is so in 22 of 30 of R and in 26 of 50 of C.
"""


class Verdict(NamedTuple):
    """Result of the checks of a series.

    Attributes:
        remarks: Remarks with codes of ``Reason`` and ``Note``.
        left_out: Slices that do not count, by their place, with reasons.
    """

    remarks: list[Remark]
    left_out: dict[int, Remark]


def find_head(series: SeriesMeasures) -> Remark | None:
    """Searches for a head, from an infant's to a large adult's, without using the header.

    Returns:
        None if there is one, else ``SetAside.NO_HEAD`` with the observation.
    """
    count, least = _count_brains(series.slices), _find_least(series)
    if count >= least:
        return None
    return Remark(
        SetAside.NO_HEAD,
        f"{count} of {len(series.slices)} slices show brain in a skull, but a head needs {math.ceil(least)}",
    )


def may_be_slice(measures: SliceMeasures) -> bool:
    """Whether a single image may be a slice of a head with some brain.

    In a scout, air and tissue are off the scale, because it sums along rays. A page has no tissue.
    """
    return measures.inside > 0 and measures.of_air >= LEAST_OF_AIR and measures.neither <= MOST_NEITHER


def check_pixels(series: SeriesMeasures) -> Verdict:
    """Finds slices that are not believable, and missing ends of the head.

    Some slices do not resemble a head or their neighbors: those with a wrong slope or intercept, swapped
    bytes, noise, constant or empty pixels, lost pixels, or the pixels of another slice. They are left out. If
    too few remain to show a head, or all are off the scale, the whole series is not believable.
    """
    repeated = _find_repeated(series)
    odd = _find_odd(series)
    left = [measures for place, measures in enumerate(series.slices) if place not in odd]
    remarks = [Remark(Note.REPEATED_SLICE, _describe(repeated, series))] if repeated else []
    if fault := _check_scale(left, _find_least(series)):
        detail = f"{_describe(odd, series)}; {fault}" if odd else fault
        remarks.append(Remark(Reason.IMPLAUSIBLE_HU, detail))
    elif odd:
        remarks.append(Remark(Reason.IMPLAUSIBLE_SLICE, _describe(odd, series)))
    remarks += _check_ends(series, odd)
    left_out = {place: Remark(Note.REPEATED_SLICE, detail) for place, detail in repeated.items()}
    left_out |= {place: Remark(Reason.IMPLAUSIBLE_SLICE, detail) for place, detail in odd.items()}
    return Verdict(remarks, dict(sorted(left_out.items())))


def _shows_brain(measures: SliceMeasures) -> bool:
    return measures.is_brain and BRAIN_MIDDLE[0] <= measures.inside_hu <= BRAIN_MIDDLE[1]


def _count_brains(slices: Sequence[SliceMeasures]) -> int:
    return sum(map(_shows_brain, slices))


def _find_least(series: SeriesMeasures) -> float:
    return max(LEAST_BRAINS, LEAST_SHARE * len(series.slices))


def _describe(found: Mapping[int, str], series: SeriesMeasures) -> str:
    first = min(found)
    return f"{len(found)} of {len(series.slices)} slices, the first of them slice {first + 1}: {found[first]}"


def _check_scale(left: Sequence[SliceMeasures], least: float) -> str:
    """Checks whether the remaining slices show a head on the scale; says what is wrong, or is empty."""
    if (count := _count_brains(left)) < least:
        which = "believable slice shows" if count == 1 else "believable slices show"
        return f"{count} {which} brain, but a head needs {math.ceil(least)}"
    middle = float(np.median([measures.inside_hu for measures in left if measures.is_brain]))
    if not BRAIN_SCALE[0] <= middle <= BRAIN_SCALE[1]:
        low, high = BRAIN_SCALE
        return f"brain has {middle:.0f} HU as the median of its slices; expected {low:g} to {high:g}"
    return ""


def _check_ends(series: SeriesMeasures, odd: Collection[int]) -> Iterator[Remark]:
    """Yields missing ends above and below, from the width of the brain in the outermost slices."""
    left = [measures for place, measures in enumerate(series.slices) if place not in odd]
    largest = max((measures.inside for measures in left if _shows_brain(measures)), default=0.0)
    if not largest or np.isnan(series.positions).any():
        return  # without an order the outermost slices are unknown
    first, last = left[0], left[-1]
    for code, measures, share in (
        (Reason.NO_VERTEX, last, END_OF_BRAIN),
        (Reason.NO_BASE, first if first.is_brain else None, START_OF_BRAIN),
    ):
        if measures is not None and measures.inside > share * largest:
            where = "uppermost" if code is Reason.NO_VERTEX else "lowest"
            yield Remark(
                code,
                f"{measures.inside:.0f} cm² of brain in the {where} slice, {largest:.0f} cm² in the largest",
            )


def _find_repeated(series: SeriesMeasures) -> dict[int, str]:
    """Finds copies of slices that were stored twice, if no other slice is missing for them."""
    return {
        place: f"its pixels are those of slice {original + 1}"
        for place, original in enumerate(series.same_as)
        if original is not None and _is_at_place_of_another(series, place)
    }


def _is_at_place_of_another(series: SeriesMeasures, place: int) -> bool:
    apart = np.abs(series.positions - series.positions[place])
    apart[place] = np.inf
    return bool(np.nanmin(apart, initial=np.inf) < SAME_POSITION)


def _find_odd(series: SeriesMeasures) -> dict[int, str]:
    """Finds the slices that are not believable, with reasons."""
    odd = {
        place: detail for place, measures in enumerate(series.slices) if (detail := _check_alone(measures))
    }
    for place, original in enumerate(series.same_as):
        if original is not None and not _is_at_place_of_another(series, place):
            odd.setdefault(place, f"its pixels are those of slice {original + 1}")
    # The worst first, because a slice beside it differs from its own neighbors by half as much.
    for place in sorted(
        range(1, len(series.slices) - 1), key=lambda place: -abs(np.nan_to_num(series.off[place]))
    ):
        if not {place - 1, place, place + 1} & odd.keys():
            around = series.slices[place - 1 : place + 2]
            if detail := _check_off(series.off[place]) or _check_bone(*around):
                odd[place] = detail
    return odd | _find_odd_runs(series, odd)


def _find_odd_runs(series: SeriesMeasures, odd: Collection[int]) -> dict[int, str]:
    """Finds runs of slices that differ too much from their neighbors.

    If two neighboring slices differ, either may be wrong. Runs of consistent slices are declared wrong, so
    that as few slices as possible explain every difference. Slices with brain on the scale count twice.
    """
    runs: list[list[int]] = []
    details: list[str] = []  # why a run differs from the one before; empty for the first after an odd slice
    for place in range(len(series.slices)):
        if place in odd:
            continue
        is_beside = place > 0 and place - 1 not in odd
        detail = _check_pair(series, place - 1) if is_beside else ""
        if is_beside and not detail:
            runs[-1].append(place)
        else:
            runs.append([place])
            details.append(detail)
    weights = [len(run) + sum(_shows_brain(series.slices[place]) for place in run) for run in runs]
    chosen = _choose_runs(weights, [bool(detail) for detail in details])
    return {place: details[number] or details[number + 1] for number in chosen for place in runs[number]}


def _choose_runs(weights: Sequence[int], differs: Sequence[bool]) -> list[int]:
    """Chooses the lightest set of runs with one of each two that differ: a vertex cover of a path.

    Args:
        weights: Weights of the runs, in order.
        differs: Whether each differs from the one before.
    """
    kept: tuple[int, list[int]] = (0, [])  # the lightest choices without and with the run before
    taken: tuple[int, list[int]] = (0, [])
    for number, (weight, differ) in enumerate(zip(weights, differs, strict=True)):
        best = min(kept, taken)
        kept, taken = (taken if differ else best), (best[0] + weight, [*best[1], number])
    return min(kept, taken)[1]


def _check_alone(measures: SliceMeasures) -> str:
    """Says what is not plausible in a slice; empty if nothing."""
    # Above the head there is only air, which some scanners clip.
    if measures.is_constant and measures.air < 1:
        return "all pixels are the same"
    if measures.air < LEAST_AIR:
        return f"{show_percent(measures.air)} of the pixels are air"
    if measures.of_air < LEAST_OF_AIR:
        return f"only {show_percent(measures.of_air)} of the pixels outside the body have the HU of air"
    if measures.neither > MOST_NEITHER:
        return f"{show_percent(measures.neither)} of the pixels are neither air nor tissue"
    if measures.has_hole:
        return "there are rows of equal pixels within the head"
    if measures.hard * math.sqrt(measures.body) > MOST_HARD:
        return f"{show_percent(measures.hard)} of the body is neither tissue nor bone"
    if measures.bone > MOST_BONE:
        return f"{show_percent(measures.bone)} of the pixels are bone"
    if measures.is_brain and not _shows_brain(measures):
        return f"brain has {measures.inside_hu:.0f} HU"
    if measures.is_brain and measures.bone_hu > MOST_OF_BONE:
        return f"bone has {measures.bone_hu:.0f} HU"
    return ""


def _check_bone(before: SliceMeasures, measures: SliceMeasures, after: SliceMeasures) -> str:
    """Says what is not plausible in the bone of a slice between two others; empty if nothing."""
    usual = max(before.bone_hu, after.bone_hu)
    if measures.bone < LEAST_BONE or not 0 < usual * MOST_RISE < measures.bone_hu:
        return ""
    return f"bone has {measures.bone_hu:.0f} HU, in other slices {usual:.0f}"


def _check_off(off: float) -> str:
    """Says what is not plausible in the tissue of a slice between two others; empty if nothing.

    Anatomy changes in both directions from slice to slice, but a scale changes in one direction.
    """
    return f"tissue differs by {off:.0f} HU from the tissue of its neighbors" if abs(off) > MOST_OFF else ""


def _check_pair(series: SeriesMeasures, place: int) -> str:
    """Says what is not plausible in a slice and the next; empty if nothing."""
    lower, upper = series.slices[place : place + 2]
    step = series.positions[place + 1] - series.positions[place]
    return _check_body(lower, upper, step) or _check_change(series.changes[place])


def _check_body(lower: SliceMeasures, upper: SliceMeasures, step: float) -> str:
    small, large = sorted((lower.body, upper.body))
    step = USUAL_STEP if math.isnan(step) else max(step, LEAST_STEP)
    if small >= LEAST_SHARED * large or large - small <= MOST_SHRINKING * step:
        return ""
    return f"a body of {large:.0f} cm² next to one of {small:.0f} cm²"


def _check_change(change: Change) -> str:
    """Says what is not plausible in the tissue of two neighboring slices; empty if nothing.

    Tissue may turn into bone from slice to slice, at the base and below the vertex, but not into lower
    values.
    """
    for fall in (change.up, change.down):
        if fall < -MOST_FALL:
            return f"tissue has {-fall:.0f} HU less in the next slice"
    if abs(change.step) > MOST_STEP:
        return f"tissue differs by {change.step:.0f} HU from the next slice"
    return ""
