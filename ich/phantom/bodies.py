"""CT of other parts of the body: drawn simply, for a program that must recognize that it is not a head.

Sizes and HU after the usual reference ranges: a trunk of 300 to 380 mm, lung -880 to -750, fat -110, muscle
50, liver 60, bone 300 to 1,200.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.phantom.shapes import Array
from ich.phantom.study import Study

Part = Literal["chest", "abdomen"]

AXIAL = np.array([1.0, 0, 0, 0, 1, 0])
SLICES, STEP = 24, 10.0
"""Number of slices of a body, and mm from one to the next."""


def draw_body(rng: np.random.Generator, part: Part, size: int) -> Study:
    """Draws a chest or an abdomen.

    Args:
        rng: Source of all randomness.
        part: Chest or abdomen.
        size: Height and width in pixels.
    """
    spacing = float(rng.uniform(380, 440)) / size
    half = 0.5 * (size - 1) * spacing
    axis = np.linspace(-half, half, size, dtype=np.float32)
    x, y = np.broadcast_arrays(axis[None, :], axis[:, None])
    width, depth = float(rng.uniform(150, 190)), float(rng.uniform(100, 125))
    draw = _draw_chest if part == "chest" else _draw_abdomen
    hu = np.empty((SLICES, size, size), dtype=np.int16)
    for k in range(SLICES):
        plane = _draw_trunk(x, y, width, depth, rng)
        draw(plane, x, y, k / (SLICES - 1), width, depth)
        _draw_spine(plane, x, y, depth)
        soft = cv2.GaussianBlur(plane, (0, 0), 0.8) + 10 * rng.standard_normal(plane.shape, dtype=np.float32)
        hu[k] = np.clip(np.rint(soft), -1024, 3000)
    heights = np.arange(SLICES) * STEP
    origins = np.stack([np.full(SLICES, -half), np.full(SLICES, -half), heights], axis=1)
    return Study(hu, np.zeros(hu.shape, dtype=np.uint8), origins, AXIAL, spacing, 5.0, 0.0)


def _within(x: Array, y: Array, center: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.bool_]:
    inside = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 < 1
    return np.asarray(inside, dtype=np.bool_)


def _draw_trunk(x: Array, y: Array, width: float, depth: float, rng: np.random.Generator) -> Array:
    """Draws skin, fat and muscle, and the table below."""
    hu = np.full(x.shape, -1000, dtype=np.float32)
    hu[(np.abs(y - (depth + 14 + 0.0008 * x * x)) < 3) & (np.abs(x) < 200)] = -150
    hu[_within(x, y, (0, 0), (width, depth))] = 20  # skin
    hu[_within(x, y, (0, 0), (width - 3, depth - 3))] = -110
    muscle = float(rng.uniform(45, 60))
    hu[_within(x, y, (0, 0), (width - 22, depth - 16))] = muscle
    return hu


def _draw_spine(hu: Array, x: Array, y: Array, depth: float) -> None:
    back = depth - 48
    hu[_within(x, y, (0, back), (22, 17))] = 950
    hu[_within(x, y, (0, back), (19, 14))] = 320  # spongy
    hu[_within(x, y, (0, back + 26), (13, 11))] = 900
    hu[_within(x, y, (0, back + 24), (8, 7))] = 25  # canal
    hu[_within(x, y, (0, back + 40), (4, 12))] = 700


def _draw_chest(hu: Array, x: Array, y: Array, up: float, width: float, depth: float) -> None:
    """Draws two lungs with vessels, the heart, the aorta and ribs; ``up`` is 0 at the diaphragm, 1 on top."""
    scale = 1 - 0.35 * up
    for side in (-1, 1):
        center = (side * 0.45 * width, -5.0)
        lung = _within(x, y, center, (0.34 * width * scale, 0.66 * depth * scale))
        hu[lung] = -830
        for turn in np.linspace(0, 2 * np.pi, 9)[:-1] + up:
            reach = 0.22 * width * scale
            spot = (center[0] + reach * float(np.cos(turn)), center[1] + 1.4 * reach * float(np.sin(turn)))
            hu[_within(x, y, spot, (4, 4))] = 45
        for turn in np.linspace(-2.4, 2.4, 9) + 3 * up:
            angle = turn if side > 0 else np.pi - turn
            rib = ((width - 26) * float(np.cos(angle)), (depth - 20) * float(np.sin(angle)))
            hu[_within(x, y, rib, (10, 5))] = 700
    hu[_within(x, y, (10, -25), (52 * scale, 44 * scale))] = 42
    hu[_within(x, y, (16, depth - 82), (13, 13))] = 40


def _draw_abdomen(hu: Array, x: Array, y: Array, up: float, width: float, depth: float) -> None:
    """Draws fat between organs, liver, spleen, kidneys and bowel with gas; ``up`` as in the chest."""
    hu[_within(x, y, (0, -8), (width - 38, depth - 34))] = -105
    hu[_within(x, y, (-0.4 * width, -12), (62 * up + 12, 60 * up + 12))] = 60
    hu[_within(x, y, (0.52 * width, 18), (34 * up + 4, 40 * up + 4))] = 50
    for side in (-1, 1):
        hu[_within(x, y, (side * 62, depth - 62), (25, 30))] = 32
    for number in range(7):
        spot = (-70 + 24 * number, -40 + 14 * float(np.sin(5 * up + 2 * number)))
        hu[_within(x, y, spot, (14, 12))] = 35
        hu[_within(x, y, (spot[0], spot[1] - 3), (8, 6))] = -700
    hu[_within(x, y, (12, depth - 84), (11, 11))] = 40
