"""Lesions as patches below the skull: cut out of slices, and painted into others.

A patch is unrolled: its rows go from the inner table inwards, its columns along the table. It fits any skull,
wherever it is placed, and the place of a lesion is an angle from the forehead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.image.lesions.head import Field, Head
from ich.image.lesions.painting import fill, push
from ich.schema.hu import BLOOD, USUAL_BRAIN

SIZE = 24
"""Rows and columns of a patch."""

STEPS_MM = {"epidural": (2.5, 4.0), "intraparenchymal": (3.5, 3.5), "subdural": (2.5, 6.0)}
"""Distance of its rows, and of its columns at the table. Other subtypes follow the fluid of each brain."""

CONTRAST = 40.0
"""HU above brain for which the second channel of a patch is 1."""

HELD = (15.0, 90.0)
"""HU at which painted blood is held, as that of ``subtypes``."""

_BINS = 180  # of the angle around the head
_BY_TABLE = 6.0  # mm; outside the brain blood begins within it, inside the brain its middle lies deeper
_RIM = 1.5  # mm at the table that are in part bone
_LEAST_DEPTH = 6.0  # mm that blood reaches inwards; less may be the rim of the bone
_LEAST_AREA = 100.0  # mm² of blood
_LEAST_SOLIDITY = 0.93  # below it bones reach into the slice, and look like blood in part
_SINUS = (9.0, 400.0)  # mm from the midline and mm²: a small bright part at the back is a sinus


class Patch(NamedTuple):
    """A lesion.

    Attributes:
        image: (2, SIZE, SIZE): the share that is blood, 0 to 1, and share times contrast to brain, -1 to 1.
        angle: From the forehead, 0 to pi; the lesion is on the patient's left.
    """

    image: Field
    angle: float


def find_blood(head: Head, subtype: str) -> NDArray[np.bool_] | None:
    """Finds the largest part of a central slice that is as bright as blood, where the subtype lies.

    Args:
        head: A slice that is labeled with only this subtype.
        subtype: One of ``STEPS_MM``.

    Returns:
        (H, W); None if there is none. No mask is asked for, so what is found may be wrong.
    """
    if head.solidity < _LEAST_SOLIDITY:
        return None
    hu, depth = head.hu[head.center], head.depth[head.center]
    smooth = cv2.GaussianBlur(np.clip(hu, -20, BLOOD[1]), (0, 0), 1.5 / head.mm)
    bright = (smooth > BLOOD[0] - 2) & (hu < BLOOD[1] + 10) & (depth > _RIM)
    opened = cv2.morphologyEx(bright.view(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened)
    for number in np.argsort(-stats[1:, cv2.CC_STAT_AREA]) + 1:
        area = float(stats[number, cv2.CC_STAT_AREA]) * head.mm**2
        if area < _LEAST_AREA:
            return None
        part = np.asarray(parts == number)
        is_sinus = area < _SINUS[1] and bool(np.abs(head.side[part]).mean() < _SINUS[0])
        is_outside = bool(depth[part].min() < _BY_TABLE)
        is_thick = bool(depth[part].max() > _LEAST_DEPTH)
        if is_thick and not is_sinus and is_outside == (subtype != "intraparenchymal"):
            return part
    return None


def cut_patch(head: Head, blood: NDArray[np.bool_], subtype: str) -> Patch:
    """Cuts a lesion out of a central slice.

    Args:
        head: The head.
        blood: (H, W): the lesion.
        subtype: One of ``STEPS_MM``.
    """
    table = _measure_tables(head)[head.center]
    angles = _measure_angle(head)
    angle = math.atan2(np.sin(angles[blood]).mean(), np.cos(angles[blood]).mean())
    down, along = STEPS_MM[subtype]
    depth = (np.arange(SIZE) + 0.5)[:, None] * down
    arc = (np.arange(SIZE) - (SIZE - 1) / 2) * along
    around = angle + arc / max(float(_look_up(table, np.array(angle))), 1.0)
    radius = _look_up(table, around) - depth
    columns, rows = _to_pixels(head, radius * np.sin(around), -radius * np.cos(around))
    soft = cv2.GaussianBlur(blood.astype(np.float32), (0, 0), 0.6)
    share = cv2.remap(soft, columns, rows, cv2.INTER_LINEAR) * (radius > 0)
    hu = cv2.remap(head.hu[head.center], columns, rows, cv2.INTER_LINEAR)
    image = np.stack([share, share * np.clip((hu - USUAL_BRAIN) / CONTRAST, -1, 1)]).astype(np.float32)
    return Patch(image if angle >= 0 else np.ascontiguousarray(image[..., ::-1]), abs(angle))


def paint_patch(head: Head, patch: Patch, subtype: str, rng: np.random.Generator) -> Field:
    """Paints a lesion on one of the sides, (D, H, W) HU. In neighbors it is smaller."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    angle = float(np.clip(patch.angle + rng.uniform(-0.2, 0.2), 0, math.pi))
    scale = np.sqrt(np.clip(1 - np.square(head.z / rng.uniform(10, 30)), 0.01, 1))[:, None, None]
    columns, rows = _locate(head, patch, subtype, angle, side, scale)
    share, contrast = (
        np.stack([cv2.remap(channel, *each, cv2.INTER_LINEAR) for each in zip(columns, rows, strict=True)])
        for channel in patch.image
    )
    hu = head.hu
    if subtype != "intraparenchymal":
        thickness = patch.image[0].sum(axis=0) * STEPS_MM[subtype][0]
        thick = np.interp(columns, np.arange(SIZE), thickness, left=0, right=0) * scale
        hu = push(head, head.depth, 60, np.asarray(thick, np.float32))
    value = np.clip(USUAL_BRAIN + CONTRAST * contrast / np.maximum(share, 0.25), *HELD)
    return fill(head, hu, np.clip(share, 0, 1) * (scale > 0.15), value, rng)


def _locate(
    head: Head, patch: Patch, subtype: str, angle: float, side: float, scale: Field
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns for each pixel of a head the column and the row of a patch that is placed there, (D, H, W)."""
    down, along = STEPS_MM[subtype]
    tables, around = _measure_tables(head), _measure_angle(head)
    away = (around * side - angle + math.pi) % (2 * math.pi) - math.pi
    arc = away * float(_look_up(tables[head.center], np.array(angle * side)))
    columns = arc / scale / along + (SIZE - 1) / 2
    depth = np.stack([_look_up(table, around) for table in tables]) - np.hypot(head.side, head.back)
    if subtype == "intraparenchymal":  # it shrinks about its middle, the others about the table
        weights = patch.image[0].sum(axis=1)
        middle = down * float((np.arange(SIZE) + 0.5) @ weights / weights.sum())
        rows = ((depth - middle) / scale + middle) / down - 0.5
    else:
        rows = np.maximum(depth / scale / down - 0.5, 0)
    return columns.astype(np.float32), rows.astype(np.float32)


def _measure_angle(head: Head) -> Field:
    """Returns (H, W) the angle from the forehead, -pi to pi, positive on the patient's left."""
    return np.arctan2(head.side, -head.back)


def _measure_tables(head: Head) -> Field:
    """Returns (D, BINS) mm from the middle of the brain to the inner table, by angle."""
    places = ((_measure_angle(head) + math.pi) * (_BINS / (2 * math.pi))).astype(np.int64) % _BINS
    radius = np.hypot(head.side, head.back) + np.float32(0.5 * head.mm)
    tables = np.zeros((len(head.hu), _BINS), np.float32)
    for table, inside in zip(tables, head.inside, strict=True):
        np.maximum.at(table, places[inside], radius[inside])
    wrapped = np.concatenate([tables[:, -4:], tables, tables[:, :4]], axis=1)
    return np.asarray(cv2.blur(wrapped, (5, 1))[:, 4:-4])


def _look_up(table: Field, angle: Field) -> Field:
    """Returns mm to the inner table in directions of any shape."""
    places = (angle + math.pi) * (_BINS / (2 * math.pi)) - 0.5
    return np.asarray(np.interp(places, np.arange(_BINS), table, period=_BINS))


def _to_pixels(head: Head, side: Field, back: Field) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turns mm into columns and rows of the head."""
    fields = np.stack([head.side, head.back])
    axes = np.stack([fields[:, 0, 1], fields[:, 1, 0]], axis=1) - fields[:, 0, 0][:, None]  # mm a pixel
    offset = np.stack([side, back]) - fields[:, 0, 0][:, None, None]
    columns, rows = np.einsum("ij,jkl->ikl", np.linalg.inv(axes), offset).astype(np.float32)
    return columns, rows
