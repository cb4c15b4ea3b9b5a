"""One study: a head on the scanner's table, cut into slices of Hounsfield units and lesion masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.phantom.anatomy import draw_plane, find_head
from ich.phantom.bleeds import Bleed, paint_bleeds, sample_bleed, sample_push
from ich.phantom.chances import Chances
from ich.phantom.head import Head
from ich.phantom.shapes import Array, Points
from ich.phantom.steps import sample_heights
from ich.phantom.table import Table, paint_table
from ich.schema import SUBTYPES

MIN_AREA = 150.0
"""mm² of a hemorrhage in a slice from which on the slice shows it and is labeled with it."""

_INSIDE_OUT = ("intraparenchymal", "intraventricular", "subarachnoid", "subdural", "epidural")


@dataclass(frozen=True)
class Study:
    """A drawn study.

    Attributes:
        hu: (S, H, W) int16, Hounsfield units, in order from the base to the vertex.
        mask: (S, H, W) uint8; bit i is set where there is ``SUBTYPES[i]``.
        origins: (S, 3) mm, ImagePositionPatient.
        orientation: ImageOrientationPatient: direction of a row, then of a column.
        spacing: mm between pixels.
        thickness: mm, of a slice.
        tilt: Degrees of gantry tilt.
    """

    hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    origins: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: float
    thickness: float
    tilt: float


@dataclass(frozen=True)
class Scan:
    """How a head lies in the scanner and is scanned.

    Attributes:
        rotation: (3, 3) scanner -> head.
        shift: (3,) mm.
        spacing: mm between pixels.
        thickness: mm, of a slice.
        gap: mm from slice to slice.
        tilt: Degrees of gantry tilt.
        noise: HU, its deviation in soft tissue.
        sharpness: Pixels, the deviation of the blur.
        table: What the head lies on.
    """

    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    spacing: float
    thickness: float
    gap: float
    tilt: float
    noise: float
    sharpness: float
    table: Table

    @classmethod
    def sample(cls, rng: np.random.Generator, size: int, scale: float) -> Scan:
        """Draws how a head of a scale is scanned, in slices of so many pixels to a side."""
        roll, pitch, yaw = rng.normal(0, (0.035, 0.07, 0.13))
        tilted = rng.random() < 0.35
        gap = float(rng.choice([5.0, 6.0, 7.0, 8.0], p=[0.25, 0.25, 0.25, 0.25]))
        return cls(
            rotation=_rotate(1, roll) @ _rotate(0, pitch) @ _rotate(2, yaw),
            shift=np.array([rng.uniform(-7, 7), rng.uniform(-8, 8), rng.uniform(-2, 2)]),
            spacing=rng.uniform(228, 254) * max(scale, 0.85) / size,
            thickness=min(gap, 5.0),
            gap=gap,
            tilt=float(rng.integers(-8, 27)) if tilted else 0.0,
            noise=float(rng.uniform(3, 5.5)),
            sharpness=float(rng.uniform(0.45, 0.75)),
            table=Table.sample(rng, scale),
        )


def _rotate(axis: int, angle: float) -> NDArray[np.float64]:
    c, s = np.cos(angle), np.sin(angle)
    turned = np.roll(np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), axis, axis=(0, 1))
    return np.asarray(turned, dtype=np.float64)


@dataclass(frozen=True)
class Plan:
    """A study before it is drawn.

    Attributes:
        head: The patient's head.
        bleeds: From the inside out, so that the outer ones lie on top.
        scan: How the head lies in the scanner and is scanned.
        heights: (S,) mm, of the slices' middles on the scanner's axis.
        noise: Seed of the noise; apart, so that the rest is the same at any size.
    """

    head: Head
    bleeds: list[Bleed]
    scan: Scan
    heights: NDArray[np.float64]
    noise: int


def plan_study(
    rng: np.random.Generator, size: int, head: Head, subtypes: Sequence[str], chances: Chances
) -> Plan:
    """Plans a study: the same from the same generator state.

    Args:
        rng: Source of all randomness.
        size: Height and width in pixels.
        head: The patient's head.
        subtypes: The hemorrhages in it, none or some of ``SUBTYPES``.
        chances: How often rare features appear.
    """
    scan = Scan.sample(rng, size, head.scale)
    bleeds = [sample_bleed(rng, subtype, head) for subtype in sorted(subtypes, key=_INSIDE_OUT.index)]
    if "intraventricular" in subtypes:
        head = replace(head, ventricles=max(head.ventricles, 1.45))
    heights = sample_heights(rng, head, scan.gap, scan.tilt, chances)
    return Plan(head, bleeds, scan, heights, int(rng.integers(2**63)))


def draw_plan(plan: Plan, size: int) -> Study:
    """Draws a planned study, each slice ``size`` pixels high and wide; the same bytes from the same plan."""
    scan, heights = plan.scan, plan.heights
    tilt = np.deg2rad(scan.tilt)
    orientation = np.array([1, 0, 0, 0, np.cos(tilt), -np.sin(tilt)])
    half = 0.5 * (size - 1) * scan.spacing
    corner = -half * (orientation[:3] + orientation[3:])
    origins = corner + np.stack([np.zeros_like(heights), np.zeros_like(heights), heights], axis=1)
    noise = np.random.default_rng(plan.noise)
    hu = np.empty((len(heights), size, size), dtype=np.int16)
    mask = np.zeros((len(heights), size, size), dtype=np.uint8)
    for k, origin in enumerate(origins):
        hu[k], mask[k] = _draw_slice(noise, plan.head, scan, plan.bleeds, origin, orientation, size)
    return Study(hu, mask, origins, orientation, scan.spacing, scan.thickness, scan.tilt)


def _draw_slice(
    noise: np.random.Generator,
    head: Head,
    scan: Scan,
    bleeds: list[Bleed],
    origin: NDArray[np.float64],
    orientation: NDArray[np.float64],
    size: int,
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    normal = np.cross(orientation[:3], orientation[3:])
    hu = np.full((size, size), -1000, dtype=np.float32)
    mask = np.zeros((size, size), dtype=np.uint8)
    middle = _place(scan, head.scale, origin, orientation, size)
    block = find_head(head, middle)
    if hu[block].size:
        planes = [
            _place(scan, head.scale, origin + offset * scan.thickness * normal, orientation, size).crop(block)
            for offset in (-0.25, 0.25)  # two planes a slice make its partial volume
        ]
        hu[block], mask[block] = _draw_planes(head, bleeds, head.fields.at(middle.crop(block)), planes)
    paint_table(scan.table, hu, scan.spacing, float(origin[2]))
    blurred = np.asarray(cv2.GaussianBlur(hu, (0, 0), scan.sharpness), dtype=np.float32)
    noisy = blurred + _make_noise(noise, scan, blurred)
    return np.clip(np.rint(noisy), -1024, 20000).astype(np.int16), mask


def _draw_planes(
    head: Head, bleeds: list[Bleed], fields: list[Array], planes: list[Points]
) -> tuple[Array, NDArray[np.uint8]]:
    """Returns the mean of parallel planes in HU, and the lesions that fill at least half of a pixel."""
    drawn = [draw_plane(head, points, fields, partial(sample_push, bleeds)) for points in planes]
    mask = np.zeros(planes[0].x.shape, dtype=np.uint8)
    for subtype, cover in paint_bleeds(bleeds, drawn, MIN_AREA / head.scale**2).items():
        mask |= (cover >= 0.5).astype(np.uint8) << np.uint8(SUBTYPES.index(subtype))
    return np.mean([plane.hu for plane in drawn], axis=0), mask


def _place(
    scan: Scan, scale: float, origin: NDArray[np.float64], orientation: NDArray[np.float64], size: int
) -> Points:
    """Returns where the pixels of a slice lie in the head (DICOM PS3.3 C.7.6.2.1.1, then the head's pose)."""
    pivot = np.array([0.0, 0.0, 60.0 * scale])
    base = scan.rotation @ (origin - pivot) + pivot + scan.shift
    row = (scan.rotation @ orientation[:3]) * scan.spacing
    column = (scan.rotation @ orientation[3:]) * scan.spacing
    return Points.on_plane(base / scale, row / scale, column / scale, size)


def _make_noise(rng: np.random.Generator, scan: Scan, hu: Array) -> Array:
    """Returns noise in HU: correlated as after a soft kernel, and more of it where the rays pass bone."""
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), 0.6)
    bone = cv2.GaussianBlur(
        cv2.resize(np.minimum(np.maximum(hu, 0), 1500), None, fx=0.25, fy=0.25), (0, 0), 5
    )
    rise = cv2.resize(1 + bone / 1600, hu.shape[::-1])
    scale = np.float32(scan.noise / 0.47)
    return noise * rise * scale
