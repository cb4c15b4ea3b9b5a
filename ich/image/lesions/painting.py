"""The brush for lesions: edges, texture, displaced brain, and fluid that blood may replace."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.lesions.head import GAUSSIAN_MEAN, Field, Head, filter_noise, make_disc
from ich.schema.hu import NEITHER, USUAL_BRAIN

FLUID_HU = 8.0
"""Cerebrospinal fluid, in the middle of ``ich.schema.hu.WATER``."""

BRIGHT = 80.0  # HU; a brighter pixel at the skull is in part bone, and blood does not darken it
_GRAIN = 0.6  # mm; noise after a soft kernel is blurred by about that, so it is white in large pixels
_NEAR_BONE = 3.0  # mm below the inner table, where a bright pixel is in part bone
_LEAST_SOURCE = 2.5  # mm below the inner table, from where displaced brain is taken: no bone


class _Ventricle(NamedTuple):
    """What makes deep fluid a ventricle; at least."""

    edge: float = 14.0  # mm below the inner table, everywhere
    deepest: float = 22.0  # mm
    area: float = 40.0  # mm²
    all_area: float = 200.0  # mm² of all in a slice; less is a cistern, or a fissure seen from its end


_VENTRICLE = _Ventricle()


class Fluid(NamedTuple):
    """How much of each pixel is fluid.

    Attributes:
        sulci: (D, H, W) 0 to 1, in sulci and cisterns.
        ventricles: (D, H, W) 0 to 1, in the ventricles.
    """

    sulci: Field
    ventricles: Field


def cover(distance: Field, edge: float) -> Field:
    """Returns the share of a pixel within a shape, from its distance in mm from the edge, positive inside.

    Args:
        distance: Distance of the middle of the pixel.
        edge: Width in mm over which the scanner and the thickness of the slice blur the edge.
    """
    return np.asarray(np.clip(distance / np.float32(edge) + np.float32(0.5), 0, 1))


def bump(distance: Field) -> Field:
    """Returns 1 at a distance of 0, falling smoothly to 0 at a distance of 1."""
    return np.asarray(np.square(np.clip(1 - np.square(distance), 0, None)))


def draw_texture(head: Head, rng: np.random.Generator, grain: float) -> Field:
    """Draws a smooth random field of mean 0 and deviation near 1.

    Args:
        head: Gives the shape, (H, W), and the size of a pixel.
        rng: Random numbers.
        grain: Size of its structures in mm.

    Returns:
        (H, W), for all slices alike.
    """
    rows, columns = (max(3, round(length * head.mm / grain) + 2) for length in head.side.shape)
    coarse = rng.standard_normal((rows, columns), np.float32)
    return np.asarray(cv2.resize(coarse, head.side.shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def fill(head: Head, hu: Field, share: Field, value: Field | float, rng: np.random.Generator) -> Field:
    """Fills a share of each pixel with blood, with the noise of the slice. Bone stays.

    Args:
        head: The head.
        hu: (D, H, W) HU to paint on.
        share: (D, H, W) 0 to 1; counts only inside the skull and at its edge.
        value: HU of the blood, a number or a field.
        rng: Random numbers.

    Returns:
        (D, H, W) HU.
    """
    noise = rng.standard_normal(hu.shape, np.float32)
    for each in noise:
        cv2.GaussianBlur(each, (3, 3), _GRAIN / head.mm, dst=each)
    rough = float(np.abs(filter_noise(noise[head.center])).mean()) / GAUSSIAN_MEAN
    noise *= np.float32(head.noise / rough)
    share = share * ((head.depth > -head.mm) & (head.hu > NEITHER[1]))  # no air, as in a sinus
    blood = hu + share * (value + noise - hu)
    bone = (head.hu > BRIGHT) & (head.depth < max(_NEAR_BONE, 2 * head.mm))
    return np.where(bone, np.maximum(head.hu, blood), blood)


def push(head: Head, away: Field, reach: float, by: Field | float) -> Field:
    """Displaces the brain by what takes its place.

    What lay at the edge of the growing shape moves by its whole thickness, what lies at ``reach`` stays, and
    between them the brain is compressed evenly. Bone and the skull's edge stay.

    Args:
        head: The head.
        away: (D, H, W) mm from where the shape began to grow, such as the skull or its center.
        reach: Distance in mm at which nothing moves any more.
        by: Thickness of the shape in mm, a number or (D, H, W).

    Returns:
        (D, H, W) HU.
    """
    by = np.minimum(by, np.float32(0.6 * reach))
    moved = by * np.clip(1 - away * np.float32(1 / reach), 0, None) / (1 - by * np.float32(1 / reach))
    moved = np.clip(np.minimum(moved, head.depth - _LEAST_SOURCE), 0, None) * np.float32(1 / head.mm)
    rows, columns = (np.arange(length, dtype=np.float32) for length in head.side.shape)
    brain = np.where(head.depth < max(_NEAR_BONE, 2 * head.mm), np.minimum(head.hu, USUAL_BRAIN), head.hu)
    pushed = np.empty_like(head.hu)
    blur = (2 * round(4 / head.mm) + 1,) * 2
    for number, field in enumerate(away):
        smooth = cv2.blur(np.clip(field, -5, None), blur)  # away from where the shape began, without kinks
        dx, dy = cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)
        step = moved[number] / (cv2.magnitude(dx, dy) + np.float32(1e-3))
        dx, dy = columns - dx * step, rows[:, None] - dy * step
        pushed[number] = cv2.remap(brain[number], dx, dy, cv2.INTER_LINEAR)
    return np.where(moved > 0, pushed, head.hu)


def find_fluid(head: Head) -> Fluid:
    """Finds cerebrospinal fluid, by its HU and by how much darker it is than what surrounds it.

    Fluid that lies deep and does not reach the surface is a ventricle.
    """
    parts = [_find_fluid(*each, head.mm) for each in zip(head.hu, head.depth, strict=True)]
    return Fluid(*(np.stack(fields) for fields in zip(*parts, strict=True)))


def _find_fluid(hu: Field, depth: Field, mm: float) -> tuple[Field, Field]:
    held = np.clip(hu, -20, 80)
    smooth = cv2.GaussianBlur(held, (0, 0), max(0.5, 0.8 / mm))
    broad = cv2.GaussianBlur(held, (0, 0), max(0.5, 1.4 / mm))  # of noise a narrow sulcus must not be made
    radius = max(1, round(4.5 / mm))
    darker = cv2.morphologyEx(broad, cv2.MORPH_CLOSE, make_disc(radius)) - broad
    wide = np.clip((26 - smooth) / (26 - FLUID_HU), 0, 1)
    narrow = np.clip((darker - 2) / 4, 0, 1) * np.clip((26 - depth) / 8, 0, 1)
    ventricle = _find_ventricles(((smooth < 19) & (depth > 0)).view(np.uint8), depth, mm)
    near = np.asarray(cv2.dilate(ventricle, make_disc(1 + round(1.5 / mm))), np.uint8)
    sulci = np.maximum(wide, narrow) * ((depth > 0.5) & (near == 0) & (smooth > -10))
    sulci = np.clip(1.4 * cv2.GaussianBlur(sulci, (0, 0), max(0.4, 0.8 / mm)), 0, 1)
    return np.asarray(sulci, np.float32), np.asarray(wide * near, np.float32)


def _find_ventricles(fluid: NDArray[np.uint8], depth: Field, mm: float) -> NDArray[np.uint8]:
    count, parts, stats, _ = cv2.connectedComponentsWithStats(fluid, connectivity=4)
    ventricles = np.zeros_like(fluid)
    for number in range(1, count):
        if stats[number, cv2.CC_STAT_AREA] * mm * mm < _VENTRICLE.area:
            continue
        part = parts == number
        depths = depth[part]
        if depths.min() >= _VENTRICLE.edge and depths.max() >= _VENTRICLE.deepest:
            ventricles |= part.view(np.uint8)
    if np.count_nonzero(ventricles) * mm * mm < _VENTRICLE.all_area:
        ventricles[:] = 0
    return ventricles
