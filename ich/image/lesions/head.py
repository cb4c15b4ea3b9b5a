"""Finds the inside of the skull in slices of a head, with the coordinates in which lesions are placed."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.brain import LEAST_ENCLOSED, count_directions
from ich.schema.hu import BRAIN_MIDDLE, NEAR_TISSUE

Field = NDArray[np.floating[Any]]
Mask = NDArray[np.uint8]  # 0 or 1

AREA = (35.0, 290.0)  # cm² of brain in a slice: a newborn's is some 60, the largest of CT-ICH 261
DEEPEST = 25.0  # mm, at least: thinner parts are orbits, muscles or the vertex

GAUSSIAN_MEAN, GAUSSIAN_MEDIAN = 0.7979, 0.6745
"""Mean and median of the magnitude of normal deviates; an edge changes the median less."""

_OPENING = 4.0  # mm; what joins the brain by a narrower way is not brain
_OUTSIDE = 1000  # pixels, in place of a negative depth
_COARSE = 64  # pixels of a side, for the search of the midline
_TURNS = tuple(math.radians(degrees) for degrees in range(-24, 25, 4))  # heads rarely lie more obliquely
_AROUND = -60.0  # in place of HU around the brain: its shape counts most for the midline
_SECOND = np.array([1.0, -2.0, 1.0])


class Head(NamedTuple):
    """The inside of the skull in a slice and its neighbors, cut out of the slices.

    Attributes:
        window: The rows and columns that were cut out.
        hu: (D, H, W) HU.
        inside: (D, H, W) bool: inside the inner table of the skull; nowhere in a slice without brain.
        depth: (D, H, W) mm from the inner table inwards; in the bone half a pixel below 0, and far below
            beyond.
        side: (H, W) mm from the midline, positive to the patient's left.
        back: (H, W) mm along the midline from the middle of the brain, positive to the back.
        z: (D,) mm from the central slice.
        mm: Side of a pixel.
        noise: Standard deviation of ``filter_noise`` in the brain, HU.
    """

    window: tuple[slice, slice]
    hu: Field
    inside: NDArray[np.bool_]
    depth: Field
    side: Field
    back: Field
    z: Field
    mm: float
    noise: float

    @property
    def angle(self) -> Field:
        """(H, W) angle from the forehead, 0, to the back of the head, pi, on either side."""
        return np.arctan2(np.abs(self.side), -self.back)

    @property
    def solidity(self) -> float:
        """Area of the brain over that of its convex hull. At the skull base, bones reach into it."""
        outline = cv2.findNonZero(self.inside[self.center].view(np.uint8))
        hull = cv2.contourArea(cv2.convexHull(outline))
        return float(np.count_nonzero(self.inside[self.center]) / max(hull, 1.0))

    @property
    def center(self) -> int:
        """The number of the slice whose neighbors the others are."""
        return len(self.hu) // 2


def find_head(hu: NDArray[np.int16], mm: float, z: NDArray[np.floating[Any]]) -> Head | None:
    """Finds the inside of the skull.

    Args:
        hu: (D, S, S) HU: a slice and its neighbors.
        mm: Side of a pixel.
        z: (D,) position of each slice, mm.

    Returns:
        None if the central slice shows no brain that bone encloses.
    """
    middle = len(hu) // 2
    central = find_inside(hu[middle], mm)
    if central is None:
        return None
    left, top, width, height = cv2.boundingRect(central)
    margin = math.ceil(3 / mm)
    window = (
        slice(max(top - margin, 0), top + height + margin),
        slice(max(left - margin, 0), left + width + margin),
    )
    masks = [central if number == middle else find_inside(each, mm) for number, each in enumerate(hu)]
    inside = np.stack([np.zeros_like(central) if mask is None else mask for mask in masks])
    inside = np.ascontiguousarray(inside[:, *window])
    cut = hu[:, *window].astype(np.float32)
    side, back = _find_axes(cut[middle], inside[middle], mm)
    return Head(
        window,
        cut,
        inside.view(np.bool_),
        np.stack([_measure_depth(mask, mm) for mask in inside]),
        side,
        back,
        np.asarray(z - z[middle], np.float32),
        mm,
        _measure_noise(cut[middle], inside[middle]),
    )


def filter_noise(hu: Field) -> Field:
    """Returns the second difference along rows of that along columns, which sees noise and hardly an edge.

    Source: Immerkær, Computer Vision and Image Understanding 1996;64:300.
    """
    return np.asarray(cv2.sepFilter2D(hu, -1, _SECOND, _SECOND))


def find_inside(hu: NDArray[np.int16], mm: float) -> Mask | None:
    """Finds the space inside the skull of a slice, by threshold, opening and the part with the deepest point.

    Args:
        hu: (S, S) HU.
        mm: Side of a pixel.

    Returns:
        (S, S), 0 or 1; None if the slice shows no brain that bone encloses.
    """
    bone = (hu > NEAR_TISSUE[1]).view(np.uint8)
    sealed = np.asarray(cv2.dilate(bone, make_disc(1)), np.uint8)
    soft = (hu > NEAR_TISSUE[0]) & (bone == 0) & (count_directions(sealed) >= 3)
    disc = make_disc(max(1, round(_OPENING / mm)))
    core = np.asarray(cv2.erode(soft.view(np.uint8), disc), np.uint8)
    _, depth, _, deepest = cv2.minMaxLoc(cv2.distanceTransform(core, cv2.DIST_L2, 3))
    if depth * mm < DEEPEST:
        return None
    cv2.floodFill(core, None, deepest, 2)
    inside = np.asarray(cv2.dilate((core == 2).view(np.uint8), disc), np.uint8) & soft.view(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(inside, outlines, -1, 1, cv2.FILLED)  # with what is calcified
    return inside if _is_brain(hu, inside, sealed, mm) else None


def _is_brain(hu: NDArray[np.int16], inside: Mask, bone: Mask, mm: float) -> bool:
    area = int(np.count_nonzero(inside)) * mm * mm / 100  # cm²
    if not AREA[0] <= area <= AREA[1]:
        return False
    edge = (np.asarray(cv2.dilate(inside, make_disc(1)), np.uint8) - inside).view(np.bool_)
    enclosed = float(bone[edge].mean())
    median = float(np.median(hu[inside.view(np.bool_)]))
    return enclosed >= LEAST_ENCLOSED and BRAIN_MIDDLE[0] <= median <= BRAIN_MIDDLE[1]


def _find_axes(hu: Field, inside: Mask, mm: float) -> tuple[Field, Field]:
    """Returns mm from the midline and along it. The midline runs through the middle of the brain."""
    moments = cv2.moments(inside, binaryImage=True)
    middle = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    turn = _find_turn(hu, inside, middle)
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    rows, columns = inside.shape
    x = (np.arange(columns, dtype=np.float32) - np.float32(middle[0])) * np.float32(mm)
    y = (np.arange(rows, dtype=np.float32)[:, None] - np.float32(middle[1])) * np.float32(mm)
    return x * cos + y * sin, y * cos - x * sin


def _find_turn(hu: Field, inside: Mask, middle: tuple[float, float]) -> float:
    """Finds how far a head is turned in the image, in radians: where its sides mirror each other best."""
    small = np.where(inside > 0, np.clip(hu, 0, 60), _AROUND).astype(np.float32)
    scale, half = _COARSE / max(inside.shape), (_COARSE - 1) / 2
    differences = []
    for turn in _TURNS:
        cos, sin = scale * math.cos(turn), scale * math.sin(turn)
        across = [cos, sin, half - cos * middle[0] - sin * middle[1]]
        along = [-sin, cos, half + sin * middle[0] - cos * middle[1]]
        turned = cv2.warpAffine(small, np.array([across, along]), (_COARSE, _COARSE), borderValue=_AROUND)
        differences.append(float(np.abs(turned - turned[:, ::-1]).mean()))
    best = min(max(int(np.argmin(differences)), 1), len(_TURNS) - 2)
    before, at, after = differences[best - 1 : best + 2]
    lowest = 0.5 * (before - after) / max(before - 2 * at + after, 1e-6)  # of the parabola through the three
    return float(_TURNS[best] + (_TURNS[1] - _TURNS[0]) * np.clip(lowest, -1, 1))


def _measure_depth(inside: Mask, mm: float) -> Field:
    depth = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 3), np.float32)
    depth -= np.float32(0.5)
    depth[cv2.dilate(inside, make_disc(1)) == 0] = -_OUTSIDE
    return depth * np.float32(mm)


def _measure_noise(hu: Field, inside: Mask) -> float:
    return float(np.median(np.abs(filter_noise(hu)[inside.view(np.bool_)]))) / GAUSSIAN_MEDIAN


def make_disc(radius: int) -> Mask:
    """Returns a disc for morphology, (2 * radius + 1,) * 2."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)
