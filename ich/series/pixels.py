"""Whether the pixels of a series show a head, and whether its Hounsfield units are where they should be.

Both look for brain: soft tissue with bone in at least three of the four directions along rows and columns, so
that sutures, fontanelles and a skull that was opened on one side do no harm. What is brain by its place and
size shows by its values whether the scale is right; air and bone show the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.findings import BONE, LEAST_AIR, MOST_BONE
from ich.schema.results import Reason, Remark
from ich.series import SetAside

SOFT = (-150, 150)  # HU: of tissue, and of tissue on a scale that is wrong by a hundred
BRAIN = (15.0, 60.0)  # HU of the middle of brain: white matter has 20 to 32, grey 35 to 45; CT-ICH from 23
AIR = -850  # HU at most: air is -1000; some archives cut off at -900
BODY = -300  # HU at least

BRAIN_AREA = (35.0, 290.0)  # cm² in a slice: a newborn's is some 60, the largest of CT-ICH 261
LEAST_ENCLOSED = 0.65  # share of the edge of brain that is bone; an opened skull has some 0.7
MOST_AROUND = 3.5  # body over brain, both areas: 1.2 to 2 of a head, beyond 5 of a chest or a pelvis
MOST_SPREAD = 75.0  # HU from the first to the last tenth of brain, a large hemorrhage included

LEAST_SLICES, LEAST_SHARE = 3, 0.2  # with brain, of a series of a head

LEAST_OF_AIR = 0.5  # share of what is not body; the rest is foam, hair and edges
NEITHER = (-850, -200)  # HU: neither air nor tissue
MOST_NEITHER = 0.3  # share of the slice: at most 0.18 in CT-ICH
HARD = (150, 300)  # HU: denser than tissue, softer than bone
MOST_HARD = 0.3  # share of the body: at most 0.23 in CT-ICH
MOST_OF_BONE = 1500.0  # HU of the middle of bone
MOST_RISE = 1.8  # of the middle of bone over that of the slices on either side: 1.6 on the phantom
TISSUE = (10, 150)  # HU: muscle and brain
MOST_CHANGE = 25.0  # HU of tissue, from the slices on either side: at most 16 in CT-ICH
MOST_STEP = 18.0  # HU of what is tissue in two slices side by side: at most 12 in CT-ICH
MOST_FALL = 40.0  # HU of tissue, to the next slice: at most 18 in CT-ICH
LEAST_SHARED = 0.5  # of the larger body's area, from slice to slice: at least 0.73 in CT-ICH
SMALL_BODY = 110.0  # cm²: at the vertex, the body falls from 107 to 41 cm² in a step of the phantom of 14 mm
LEAST_TISSUE = 0.06  # share of the slice: above the brain, bone lies between brain and scalp
WIDE = 0.3  # of a row, from its first to its last bone: beside an empty row at most 0.22 in CT-ICH

_SQUARE = np.ones((3, 3), np.uint8)

Stack = NDArray[np.int16]
Slice = NDArray[np.int16]
Mask = NDArray[np.uint8]  # 0 or 1


class _Look(NamedTuple):
    """What a slice shows; areas in cm²."""

    is_constant: bool
    air: float  # share of the slice
    of_air: float  # share of what is not body
    neither: float  # share of the slice
    body: float
    hard: float  # share of the body
    has_hole: bool
    bone: float  # share of the slice
    bone_hu: float  # the middle of it
    inside: float  # soft tissue with bone around it, its largest part
    inside_hu: float  # the middle of it
    is_brain: bool  # by its place, size and evenness

    @property
    def shows_brain(self) -> bool:
        """Whether it is brain by its values, too."""
        return self.is_brain and BRAIN[0] <= self.inside_hu <= BRAIN[1]


class Looks(NamedTuple):
    """What the slices of a series show: from ``look_at``.

    Attributes:
        hu: (N, S, S) of the slices.
        slices: Of each.
    """

    hu: Stack
    slices: list[_Look]


def look_at(hu: Stack, spacing_mm: float) -> Looks:
    """Looks at the slices of a series.

    Args:
        hu: (N, S, S) HU in order of position, S about 128.
        spacing_mm: Between the pixels of these.
    """
    return Looks(hu, [_look(each, spacing_mm * spacing_mm / 100) for each in hu])


def find_head(looks: Looks) -> Remark | None:
    """Looks for a head, from an infant's to a large adult's, whatever the header says.

    Returns:
        None where there is one, else ``SetAside.NO_HEAD`` with what was found.
    """
    count = sum(look.shows_brain for look in looks.slices)
    least = max(LEAST_SLICES, LEAST_SHARE * len(looks.slices))
    if count >= least:
        return None
    return Remark(
        SetAside.NO_HEAD,
        f"{count} of {len(looks.slices)} slices show brain in a skull; of a head {math.ceil(least)} do",
    )


def check_pixels(looks: Looks) -> list[Remark]:
    """Finds what cannot be on the scale of Hounsfield units of a head, in all slices or in one.

    Air has to be at about -1000 HU, brain and bone in the bands of a head, and a slice like those on its
    either side: a wrong slope or intercept, swapped bytes, noise, constant and empty slices are not, nor
    slices whose pixels were lost in part or stand for another slice as well.

    Returns:
        One remark with the code of ``Reason.IMPLAUSIBLE_HU``, or none.
    """
    hu, slices = looks
    found = {number: detail for number, look in enumerate(slices) if (detail := _check_alone(look))}
    for number in range(1, len(slices) - 1):
        around = slice(number - 1, number + 2)
        if detail := _check_bone(*slices[around]) or _check_tissue(*hu[around]):
            found.setdefault(number, detail)
    for number in range(1, len(slices)):
        pair = slice(number - 1, number + 1)
        if detail := _check_body(*slices[pair]) or _check_pair(*hu[pair]):
            found.setdefault(number, detail)
    found = _find_copies(hu) | found
    if not found and not any(look.shows_brain for look in slices):
        return [Remark(Reason.IMPLAUSIBLE_HU, f"no slice shows brain of {BRAIN[0]:g} to {BRAIN[1]:g} HU")]
    if not found:
        return []
    first = min(found)
    where = f"{len(found)} of {len(slices)} slices, the first of them slice {first + 1}"
    return [Remark(Reason.IMPLAUSIBLE_HU, f"{where}: {found[first]}")]


def _check_alone(look: _Look) -> str:
    """What is not plausible of a slice; empty for nothing."""
    if look.is_constant:
        return "all pixels are the same"
    if look.air < LEAST_AIR:
        return f"{100 * look.air:.0f} % of the pixels are air"
    if look.of_air < LEAST_OF_AIR:
        return f"{100 * look.of_air:.0f} % of what is no body has the HU of air"
    if look.neither > MOST_NEITHER:
        return f"{100 * look.neither:.0f} % of the pixels are neither air nor tissue"
    if look.has_hole:
        return "rows of equal pixels lie within the head"
    if look.hard > MOST_HARD:
        return f"{100 * look.hard:.0f} % of the body are neither tissue nor bone"
    if look.bone > MOST_BONE:
        return f"{100 * look.bone:.0f} % of the pixels are bone"
    if look.is_brain and not look.shows_brain:
        return f"brain has {look.inside_hu:.0f} HU"
    if look.is_brain and look.bone_hu > MOST_OF_BONE:
        return f"bone has {look.bone_hu:.0f} HU"
    return ""


def _check_bone(before: _Look, look: _Look, after: _Look) -> str:
    """What is not plausible of the bone of a slice between two others; empty for nothing."""
    usual = max(before.bone_hu, after.bone_hu)
    return (
        f"bone has {look.bone_hu:.0f} HU beside {usual:.0f}" if 0 < usual * MOST_RISE < look.bone_hu else ""
    )


def _check_body(one: _Look, other: _Look) -> str:
    """What is not plausible of the body in two slices side by side; empty for nothing."""
    small, large = sorted((one.body, other.body))
    if large < SMALL_BODY or small >= LEAST_SHARED * large:
        return ""
    return f"a body of {large:.0f} cm² beside one of {small:.0f} cm²"


def _find_copies(hu: Stack) -> dict[int, str]:
    """Slices with the very pixels of another: even of the same place, no two scans have the same noise."""
    first: dict[bytes, int] = {}
    places = [first.setdefault(each.tobytes(), number) for number, each in enumerate(hu)]
    return {
        number: f"its pixels are those of slice {place + 1}"
        for number, place in enumerate(places)
        if place != number
    }


def _check_pair(one: Slice, other: Slice) -> str:
    """What is not plausible of the tissue of two slices side by side; empty for nothing."""
    return _check_fall(one, other) or _check_fall(other, one) or _check_step(one, other)


def _check_step(one: Slice, other: Slice) -> str:
    """What is not plausible of what is tissue in both of two slices side by side; empty for nothing."""
    low, high = TISSUE
    tissue = (one > low) & (one < high) & (other > low) & (other < high)
    if np.count_nonzero(tissue) < LEAST_TISSUE * one.size:
        return ""
    step = float(np.median(other[tissue] - one[tissue]))
    return f"tissue differs by {step:.0f} HU from the slice beside it" if abs(step) > MOST_STEP else ""


def _check_fall(hu: Slice, other: Slice) -> str:
    """What is not plausible of the tissue of a slice in the one beside it; empty for nothing.

    Tissue may turn into bone from slice to slice, at the base and below the vertex, and not into less.
    """
    tissue = (hu > TISSUE[0]) & (hu < TISSUE[1])
    if np.count_nonzero(tissue) < LEAST_TISSUE * hu.size:
        return ""
    change = float(np.median(other[tissue].astype(np.int32) - hu[tissue]))
    return f"tissue has {-change:.0f} HU less in the slice beside it" if change < -MOST_FALL else ""


def _check_tissue(before: Slice, hu: Slice, after: Slice) -> str:
    """What is not plausible of the tissue of a slice between two others; empty for nothing.

    Where both of these show tissue, the middle of the differences from their mean is next to none: anatomy
    changes to and fro, a scale changes one way.
    """
    low, high = TISSUE
    tissue = (before > low) & (before < high) & (after > low) & (after < high)
    if np.count_nonzero(tissue) < LEAST_TISSUE * hu.size:
        return ""
    change = float(np.median(hu[tissue].astype(np.int32) - ((before[tissue] + after[tissue]) >> 1)))
    return f"tissue differs by {change:.0f} HU from its neighbours'" if abs(change) > MOST_CHANGE else ""


def _look(hu: Slice, pixel: float) -> _Look:
    """Looks at a slice; ``pixel`` in cm²."""
    outside, bone = hu < BODY, hu >= BONE[0]
    no_body, bones = int(np.count_nonzero(outside)), int(np.count_nonzero(bone))
    air = int(np.count_nonzero(hu <= AIR))
    body = (hu.size - no_body) * pixel
    skull = _dilate((hu > SOFT[1]).view(np.uint8))
    core = _find_core((_count_directions(skull) >= 3) & (hu > SOFT[0]) & (hu < SOFT[1]))
    whole = _dilate(core)
    area = int(np.count_nonzero(whole)) * pixel
    values = np.sort(hu[core.view(bool)])
    tenth, middle, last = values[[len(values) * tenths // 10 for tenths in (1, 5, 9)]] if area else (0, 0, 0)
    edge = (_dilate(whole) - whole).view(bool)
    is_brain = (
        BRAIN_AREA[0] <= area <= BRAIN_AREA[1]
        and body <= MOST_AROUND * area
        and last - tenth <= MOST_SPREAD
        and float(_dilate(skull)[edge].mean()) >= LEAST_ENCLOSED
    )
    return _Look(
        is_constant=bool(hu.min() == hu.max()),
        air=air / hu.size,
        of_air=air / max(no_body, 1),
        neither=int(np.count_nonzero((hu > NEITHER[0]) & (hu < NEITHER[1]))) / hu.size,
        body=body,
        hard=int(np.count_nonzero((hu > HARD[0]) & (hu < HARD[1]))) / max(hu.size - no_body, 1),
        has_hole=_has_hole(hu, bone),
        bone=bones / hu.size,
        bone_hu=float(np.median(hu[bone])) if bones else 0.0,
        inside=area,
        inside_hu=float(middle),
        is_brain=is_brain,
    )


def _has_hole(hu: Slice, bone: NDArray[np.bool_]) -> bool:
    """Whether rows of equal pixels lie where a head is: a block of the file that was lost.

    Pixels are stored row by row. Above and below a head there are empty rows, too, but not beside a row with
    bone far apart, as a head is round and has skin.
    """
    empty = hu.min(axis=1) == hu.max(axis=1)
    if not empty.any():
        return False
    width = np.where(bone.any(axis=1), len(hu) - bone.argmax(axis=1) - bone[:, ::-1].argmax(axis=1), 0)
    wide = (width > WIDE * len(hu)).astype(np.uint8)[:, None]
    return bool((cv2.dilate(wide, np.ones((5, 1), np.uint8))[:, 0].view(bool) & empty).any())


def _find_core(inside: NDArray[np.bool_]) -> Mask:
    """The part of a mask that holds its deepest point, a pixel within its edge; (S, S), 0 or 1."""
    core = np.asarray(cv2.erode(inside.view(np.uint8), _SQUARE), np.uint8)
    # The largest part by its depth, as labelling all of them takes several times as long.
    _, depth, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(core, cv2.DIST_L1, 3))
    if depth > 0:
        cv2.floodFill(core, None, deepest, 2)
    return core >> np.uint8(1)


def _dilate(mask: Mask) -> Mask:
    """Widens a mask by a pixel."""
    return np.asarray(cv2.dilate(mask, _SQUARE), np.uint8)


def _count_directions(bone: Mask) -> Mask:
    """In how many of the four directions along rows and columns bone lies from each pixel."""
    places = np.arange(len(bone), dtype=np.int16)
    count = np.zeros_like(bone)
    for image, total in ((bone.view(bool), count), (np.ascontiguousarray(bone.T).view(bool), count.T)):
        first, last = image.argmax(axis=1), len(places) - 1 - image[:, ::-1].argmax(axis=1)
        first[~image[places, first]] = len(places)  # none
        last[first == len(places)] = -1
        total += places >= first.astype(np.int16)[:, None]
        total += places <= last.astype(np.int16)[:, None]
    return count
