"""Checks from the pixels whether a head lies in its slices as its geometry says.

Files with a wrong or missing geometry, such as rotated exports, show a head on its side, on its face, or from
the vertex down. The head itself shows its position: its two sides are alike, and it is longer than it is
wide. Nose, sinuses and mouth hold air in front and below, and the table lies behind it. A mirrored head looks
like any other, so a swap of left and right cannot be detected.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.schema.codes import Reason
from ich.schema.hu import AIR_WITHIN, BODY, SHOWN, SOLID
from ich.schema.results import Remark

WIDE = 0.5  # share of the largest head: in such slices its sides can be distinguished
ENOUGH_AIR = 5.0  # pixels per slice on average, of 128 x 128: with less, air counts less

# Weights of the signs, relative to the air's. Of those tried, these distinguish all turns of the 50 heads of
# CT-ICH by the largest margin. Weights chosen on 25 of the heads misjudge one of the other 25.
LENGTH, SIDES, TABLE = 2.0, 0.5, 0.4

_SQUARE = np.ones((5, 5), np.uint8)
_TURNS = ("", "a quarter turn", "half a turn", "a quarter turn")

Stack = NDArray[np.int16]
Masks = NDArray[np.bool_]


class Signs(NamedTuple):
    """Signs of the position of a head in a stack; lengths as shares of the head's radius.

    Attributes:
        air: (2,) vector to the right and down, from the middle of the head to the middle of the air in it.
        length: How much the head is longer down than across, from -1 to 1.
        sides: How much more the left half resembles the right than the upper half the lower.
        table: (2,) as ``air``, to objects beside the head.
        height: Where the air lies in the stack, from -1 at the first slice to 1 at the last.
        taper: How much larger the head is in the last two slices than in the first two, relative to its
            largest size.
    """

    air: tuple[float, float]
    length: float
    sides: float
    table: tuple[float, float]
    height: float
    taper: float


def check_turn(hu: Stack) -> list[Remark]:
    """Finds a head that contradicts its geometry.

    Args:
        hu: (N, S, S) HU of a head in order of position, S about 128, brought to LPS: rows to the patient's
            left, columns to the back, slices to the head.

    Returns:
        One remark with ``Reason.TURNED``, or none.
    """
    if not len(hu):
        return []
    signs = find_signs(hu)
    ways = _rate_ways(signs)
    best = int(np.argmax(ways))  # the first of equals: as the geometry says
    found = [f"{_TURNS[best]} in the plane"] if best else []
    if signs.height + signs.taper > 0:  # at most -0.4 in CT-ICH
        found.append("slices from the vertex down")
    return [Remark(Reason.TURNED, f"the head seems to lie differently: {', '.join(found)}")] if found else []


def find_signs(hu: Stack) -> Signs:
    """Measures how a head lies in a stack; arguments as in ``check_turn``."""
    grid = np.arange(hu.shape[1]) - (hu.shape[1] - 1) / 2
    heads = np.stack([_find_head(each) for each in hu])
    areas = heads.sum(axis=(1, 2))
    radius = max(1.0, float(np.sqrt(areas.max() / np.pi)))
    middles = (
        np.stack([(heads.sum(axis=1) * grid).sum(axis=1), (heads.sum(axis=2) * grid).sum(axis=1)], axis=1)
        / np.maximum(areas, 1)[:, None]
    )
    air = heads & (hu < AIR_WITHIN)
    beside = (hu > SOLID) & ~np.stack([cv2.dilate(each.view(np.uint8), _SQUARE) > 0 for each in heads])
    wide = np.flatnonzero(areas > WIDE * areas.max())[::2]
    counts = air.sum(axis=(1, 2))
    trust = min(1.0, float(counts.mean()) / (ENOUGH_AIR * hu[0].size / 128**2))
    x, y = _point_to(air, middles, grid)
    beside_x, beside_y = _point_to(beside, middles, grid)
    places = np.linspace(-1, 1, len(hu))
    return Signs(
        air=(trust * x / radius, trust * y / radius),
        length=float(np.mean([_compare_axes(heads[k], middles[k], grid) for k in wide]))
        if len(wide)
        else 0.0,
        sides=float(np.mean([_compare_sides(hu[k], heads[k], middles[k]) for k in wide]))
        if len(wide)
        else 0.0,
        table=(beside_x / radius, beside_y / radius),
        height=trust * float((counts * places).sum() / max(1, counts.sum())),
        taper=float(areas[-2:].mean() - areas[:2].mean()) / max(1, int(areas.max())),
    )


def _rate_ways(signs: Signs) -> list[float]:
    """Rates how well the signs fit a head whose face points up, right, down and left."""
    axis = LENGTH * signs.length + SIDES * signs.sides
    down = signs.air[1] - TABLE * signs.table[1]
    right = signs.air[0] - TABLE * signs.table[0]
    return [axis - down, -axis + right, axis + down, -axis - right]


def _find_head(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Finds the largest part of a slice with its content, without objects that only touch it; (S, S)."""
    body = np.asarray(cv2.erode((hu > BODY).view(np.uint8), _SQUARE), np.uint8)
    outlines, _ = cv2.findContours(body, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(body)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return np.asarray(cv2.dilate(filled, _SQUARE) > 0)


def _point_to(masks: Masks, middles: NDArray[np.float64], grid: NDArray[np.float64]) -> tuple[float, float]:
    """Finds the mean offset of masks from the middles of their slices: to the right and down, in pixels."""
    counts = masks.sum(axis=(1, 2))
    total = max(1, int(counts.sum()))
    right = (masks.sum(axis=(0, 1)) * grid).sum() - (counts * middles[:, 0]).sum()
    down = (masks.sum(axis=(0, 2)) * grid).sum() - (counts * middles[:, 1]).sum()
    return float(right / total), float(down / total)


def _compare_axes(head: NDArray[np.bool_], middle: NDArray[np.float64], grid: NDArray[np.float64]) -> float:
    """Measures how much a head is longer down than across, from its second moments."""
    across = float((head.sum(axis=0) * (grid - middle[0]) ** 2).sum())
    down = float((head.sum(axis=1) * (grid - middle[1]) ** 2).sum())
    return (down - across) / max(1.0, down + across)


def _compare_sides(hu: NDArray[np.int16], head: NDArray[np.bool_], middle: NDArray[np.float64]) -> float:
    """Measures how much more left and right correlate than up and down."""
    shown = np.where(head, np.clip(hu, *SHOWN), SHOWN[0]).astype(np.float32)
    move = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]]], np.float32)
    centered = cv2.warpAffine(shown, move, shown.shape, borderValue=float(SHOWN[0]))
    soft = np.asarray(cv2.GaussianBlur(centered, (0, 0), 1.5), np.float64)
    soft -= soft.mean()
    power = max(1.0, float((soft * soft).sum()))
    return float(((soft * soft[:, ::-1]).sum() - (soft * soft[::-1]).sum()) / power)
