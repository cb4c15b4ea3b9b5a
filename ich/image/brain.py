"""Finds the brain in a slice by thresholds and morphology, and shows it to a network.

The classical way: soft tissue with bone around it is eroded, and its deepest connected part dilated again.
``ich.studies`` recognizes a head by the same steps.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.resize import resize_hu
from ich.schema import AIR_HU
from ich.schema.hu import BODY, NEAR_TISSUE

LEAST_ENCLOSED = 0.65  # share of the edge of brain that is bone; an opened skull has some 0.7
MOST_AROUND = 3.5  # body over brain, both areas: 1.2 to 2 of a head, beyond 5 of a chest or a pelvis
LEAST_SHARE = 0.04  # of a slice: 21 cm² of 23 x 23 cm; smaller parts are the last below the vertex, or eyes

GRID = 128
"""Side in pixels of the slice in which the brain is found, whatever the size of the network's input."""

MARGIN = 3  # pixels of the grid, some 5 mm: from the edge of the found brain to the skull
CROP_MARGIN = 0.1  # of the brain's extent, on each side: the skull and some scalp
LEAST_CROP = 0.5  # of a slice: a small brain below the vertex is not enlarged more than twice

_SQUARE = np.ones((3, 3), np.uint8)

Slice = NDArray[np.int16]
Mask = NDArray[np.uint8]  # 0 or 1


class Inside(NamedTuple):
    """Soft tissue inside a skull.

    Attributes:
        core: (S, S) its largest part by depth, one pixel inside its edge.
        whole: (S, S) the same with its edge.
        is_enclosed: Whether it is so much of the body, and has so much bone around it, that it can be brain.
    """

    core: Mask
    whole: Mask
    is_enclosed: bool


class Box(NamedTuple):
    """A square part of a slice, in pixels."""

    top: int
    left: int
    side: int


def find_inside(hu: Slice) -> Inside:
    """Finds soft tissue with bone in at least three of the four directions along rows and columns.

    Sutures, fontanelles and a skull that is open on one side therefore do no harm. The range of HU is wide
    (``NEAR_TISSUE``), so a scale that is wrong by a hundred does not hide a brain.

    Args:
        hu: (S, S) HU, S about 128.
    """
    skull = _dilate((hu > NEAR_TISSUE[1]).view(np.uint8))
    core = _find_core((count_directions(skull) >= 3) & (hu > NEAR_TISSUE[0]) & (hu < NEAR_TISSUE[1]))
    whole = _dilate(core)
    area, body = int(np.count_nonzero(whole)), int(np.count_nonzero(hu >= BODY))
    edge = (_dilate(whole) - whole).view(bool)
    is_enclosed = 0 < body <= MOST_AROUND * area and float(_dilate(skull)[edge].mean()) >= LEAST_ENCLOSED
    return Inside(core, whole, is_enclosed)


def count_directions(bone: Mask) -> Mask:
    """Counts in how many of the four directions along rows and columns bone lies from each pixel."""
    places = np.arange(len(bone), dtype=np.int16)
    count = np.zeros_like(bone)
    for image, total in ((bone.view(bool), count), (np.ascontiguousarray(bone.T).view(bool), count.T)):
        first, last = image.argmax(axis=1), len(places) - 1 - image[:, ::-1].argmax(axis=1)
        first[~image[places, first]] = len(places)  # none
        last[first == len(places)] = -1
        total += places >= first.astype(np.int16)[:, None]
        total += places <= last.astype(np.int16)[:, None]
    return count


def find_brain(hu: Slice) -> Mask:
    """Finds the brain in a slice, with what lies between it and the skull.

    Args:
        hu: (S, S) HU.

    Returns:
        (S, S), 1 in the brain; all 0 if the slice shows none, as below the skull base and above the vertex.
    """
    inside = find_inside(resize_hu(hu, GRID))
    if not inside.is_enclosed or inside.whole.mean() < LEAST_SHARE:
        return np.zeros(hu.shape, np.uint8)
    outlines, _ = cv2.findContours(inside.whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros((GRID, GRID), np.uint8), outlines, -1, 1, cv2.FILLED)
    wide = cv2.dilate(filled, _SQUARE, iterations=MARGIN)
    return np.asarray(cv2.resize(wide, hu.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def find_box(mask: Mask) -> Box:
    """Finds the square around a mask with ``CROP_MARGIN``; the whole slice if the mask is empty."""
    size = len(mask)
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return Box(0, 0, size)
    side = round(max(height, width) * (1 + 2 * CROP_MARGIN))
    side = min(max(side, round(LEAST_CROP * size)), size)
    top, left = (
        min(max(round(start + (extent - side) / 2), 0), size - side)
        for start, extent in ((top, height), (left, width))
    )
    return Box(top, left, side)


def show_brain(planes: NDArray[np.int16], how: str | None) -> NDArray[np.int16]:
    """Prepares a slice and its neighbors as ``InputSpec.brain`` says.

    A slice without a brain is left whole. So is one in which none is found, because blanking it might hide a
    hemorrhage.

    Args:
        planes: (P, S, S) HU: the slice in the middle, its neighbors around it.
        how: One of ``BRAINS``, or None for the planes as they are.

    Returns:
        (P, S, S), or (P + 1, S, S) for ``channel``.
    """
    if how == "crop":
        return crop_planes(planes, find_shown(planes, how))
    if how == "channel":
        return np.concatenate([planes, _blank(planes[len(planes) // 2])[None]])
    if how == "blank":
        return np.stack([_blank(plane) for plane in planes])
    return planes


def find_shown(planes: NDArray[np.int16], how: str | None) -> Box:
    """Finds the part of (P, S, S) planes that ``show_brain`` shows."""
    if how == "crop":
        return find_box(find_brain(planes[len(planes) // 2]))
    return Box(0, 0, planes.shape[1])


def _blank(hu: Slice) -> Slice:
    mask = find_brain(hu)
    return np.where(mask, hu, np.int16(AIR_HU)) if mask.any() else hu


def crop_planes(planes: NDArray[np.int16], box: Box) -> NDArray[np.int16]:
    """Cuts a box out of (P, S, S) planes, and enlarges it to their size. It adds no detail."""
    if box.side == planes.shape[1]:
        return planes
    rows, columns = slice(box.top, box.top + box.side), slice(box.left, box.left + box.side)
    return np.stack(
        [resize_hu(np.ascontiguousarray(plane[rows, columns]), planes.shape[1]) for plane in planes]
    )


def restore_box(image: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """Puts an image (S, S) that was computed from a box back to its place; it is 0 around it."""
    if box.side == len(image):
        return image
    restored = np.zeros_like(image)
    small = cv2.resize(image, (box.side, box.side), interpolation=cv2.INTER_AREA)
    restored[box.top : box.top + box.side, box.left : box.left + box.side] = small
    return restored


def _find_core(inside: NDArray[np.bool_]) -> Mask:
    """Finds the part of a mask that holds its deepest point, one pixel inside its edge; (S, S), 0 or 1."""
    core = np.asarray(cv2.erode(inside.view(np.uint8), _SQUARE), np.uint8)
    # The largest part by its depth, as labeling all of them takes several times as long.
    _, depth, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(core, cv2.DIST_L1, 3))
    if depth > 0:
        cv2.floodFill(core, None, deepest, 2)
    return core >> np.uint8(1)


def _dilate(mask: Mask) -> Mask:
    """Widens a mask by a pixel."""
    return np.asarray(cv2.dilate(mask, _SQUARE), np.uint8)
