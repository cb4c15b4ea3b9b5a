"""Hemorrhages as they look in head CT, one function per subtype, and calcifications that only look like it.

Each function takes a head and random numbers. It returns what is painted as (D, H, W) HU, or None if the
slices have no place for it.

The HU are those of acute blood, 50 to 80, and in a subdural hematoma also those of old blood. Sizes lie on
both sides of the limits that decide on treatment: a thickness of 15 mm for an epidural and of 10 mm for a
subdural hematoma (Bullock et al., Neurosurgery 2006;58(3 Suppl):S7 and S16), and 30 ml for an
intraparenchymal hemorrhage, a ball of 19 mm radius (Hemphill et al., Stroke 2001;32:891).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ich.image.lesions.head import Field, Head
from ich.image.lesions.painting import bump, cover, draw_texture, fill, find_fluid, push

BETWEEN_SUTURES = ((0.15, 0.95), (0.95, 2.3), (2.3, 2.95))
"""Angles in radians from the forehead that the coronal and the lambdoid suture limit, roughly."""

CLOT = (45.0, 90.0)
"""HU of fresh blood with its texture, before the noise of the slice."""

AGED = (15.0, CLOT[1])
"""The same of subdural blood, which may be old."""

OF_VENTRICLES = 0.95
"""Least solidity of the brain in a slice with ventricles; with less, deep fluid is a cistern of the base."""

Painter = Callable[[Head, np.random.Generator], Field | None]


def paint_epidural(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints a lens below the inner table, 6 to 28 mm thick, that ends before the next suture."""
    low, high = BETWEEN_SUTURES[rng.choice(3, p=(0.15, 0.7, 0.15))]
    angle = rng.uniform(low + 0.2, high - 0.2)
    place = _find_on_skull(head, angle, _draw_side(rng))
    if place is None:
        return None
    radius = math.hypot(*place)
    extent = min(rng.uniform(18, 45), 1.1 * radius * min(angle - low, high - angle))
    thickness = min(rng.uniform(6, 28), 0.75 * extent)
    height = extent * rng.uniform(0.6, 1.0)
    along = np.hypot(head.side - place[0], head.back - place[1]) / np.float32(extent)
    thick = thickness * (1 - np.square(along) - np.square(head.z[:, None, None] / height))
    share = cover(thick - head.depth, rng.uniform(1, 2.5)) * np.clip(thick, 0, 1)
    hu = push(head, head.depth, 60, np.clip(thick, 0, None))
    return fill(head, hu, share, _draw_clot(head, rng), rng)


def paint_subdural(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints a crescent along the convexity, 3 to 18 mm thick, or a band along the falx or the tentorium."""
    where = rng.choice(3, p=(0.75, 0.15, 0.10))
    if where == 1:
        return _paint_along_falx(head, rng)
    if where == 2:
        return _paint_along_tentorium(head, rng)
    side = _draw_side(rng)
    low, high = rng.uniform(0.15, 0.9), rng.uniform(1.6, 2.9)
    height, thickness = rng.uniform(20, 50), rng.uniform(3, 18)
    along = (head.angle - np.float32((low + high) / 2)) / np.float32((high - low) / 2)
    rest = 1 - np.square(along) - np.square(head.z[:, None, None] / height)
    uneven = 1 + np.float32(0.15) * draw_texture(head, rng, 20)
    thick = thickness * np.sqrt(np.clip(rest, 0, None)) * uneven * (head.side * side > 0)
    share = cover(thick - head.depth, rng.uniform(1, 2.5)) * np.clip(thick, 0, 1)
    hu = push(head, head.depth, 60, thick)
    return fill(head, hu, share, _draw_aged_blood(head, rng), rng)


def paint_subarachnoid(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints blood into the fluid of sulci in one region, or of the cisterns around the midline."""
    fluid = find_fluid(head).sulci
    extent = rng.uniform(25, 60)
    if rng.random() < 0.35:
        place = rng.uniform(-8, 8), rng.uniform(-25, 10)
    elif (found := _find_on_skull(head, rng.uniform(0.2, 2.9), _draw_side(rng))) is not None:
        place = found
    else:
        return None
    distance = np.hypot(head.side - place[0], head.back - place[1])
    within = np.hypot(distance, head.z[:, None, None]) / np.float32(extent)
    share = fluid * np.clip(4 * bump(np.minimum(within, 1)), 0, 1)
    return _replace_fluid(head, share, rng.uniform(55, 78), rng, least=120)


def paint_intraparenchymal(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints contusions, or a clot of 4 to 28 mm radius with a dark rim, often with mass effect."""
    contusions = rng.random() < 0.25
    radius = math.exp(rng.uniform(math.log(4), math.log(10 if contusions else 28)))
    place = _find_within(head, rng, radius, deep=not contusions and rng.random() < 0.55)
    if place is None:
        return None
    distance, hu = _measure_blob(head, rng, place, radius), head.hu
    if contusions:
        for _ in range(rng.integers(1, 4)):
            beside = place[0] + rng.uniform(-18, 18), place[1] + rng.uniform(-18, 18)
            distance = np.maximum(distance, _measure_blob(head, rng, beside, radius * rng.uniform(0.4, 1)))
    elif rng.random() < 0.7:
        away = np.clip(radius - distance, 0, None)
        hu = push(head, away, 2.5 * radius + 15, rng.uniform(0.2, 0.6) * radius)
    rim, edge = rng.uniform(2, 8), rng.uniform(1, 3)
    brain = np.clip((head.depth - 1) / 2, 0, 1)  # without the space below the skull
    edema = np.clip(cover(distance + np.float32(rim), 2 * edge + 2) - cover(distance, edge), 0, 1) * brain
    hu = hu - edema * np.clip(hu - 18, 0, 30) * rng.uniform(0.3, 0.8)
    return fill(head, hu, cover(distance, edge) * brain, _draw_clot(head, rng), rng)


def paint_intraventricular(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints blood into the ventricles: a level at the back, as the patient lies, or a cast."""
    if head.solidity < OF_VENTRICLES:
        return None
    fluid = find_fluid(head).ventricles
    if rng.random() < 0.6:
        rows = np.arange(fluid.shape[1], dtype=np.float32)[:, None] * np.float32(head.mm)
        filled = fluid[head.center].sum(axis=1).cumsum()
        if filled[-1] <= 0:
            return None
        level = np.searchsorted(filled, filled[-1] * rng.uniform(0.5, 0.9)) * head.mm
        share = fluid * cover(rows - np.float32(level), rng.uniform(2, 5))
    else:
        share = fluid * cover(head.side * _draw_side(rng) + (2.0 if rng.random() < 0.5 else 80.0), 2)
    return _replace_fluid(head, share, rng.uniform(50, 82), rng, least=40)


SUBTYPE_PAINTERS: dict[str, Painter] = {
    "epidural": paint_epidural,
    "intraparenchymal": paint_intraparenchymal,
    "intraventricular": paint_intraventricular,
    "subarachnoid": paint_subarachnoid,
    "subdural": paint_subdural,
}
"""The function of each subtype."""


def paint_calcification(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints calcified choroid plexus, pineal gland or falx: small, and brighter than blood, 90 to 350 HU."""
    distance = (_measure_plexus, _measure_pineal, _measure_falx)[rng.integers(3)](head, rng)
    if distance is None:
        return None
    share = cover(distance, max(1.5, 1.2 * head.mm)) * (head.depth > 3)
    return fill(head, head.hu, share, rng.uniform(90, 350), rng)


def _measure_plexus(head: Head, rng: np.random.Generator) -> Field | None:
    """Returns mm from the edge of a ball at the back of a ventricle, often with its twin."""
    ventricles = find_fluid(head).ventricles[head.center]
    place = _choose(head, rng, (ventricles > 0.5) & (np.abs(head.side) > 6) & (head.back > 5))
    if place is None:
        return None
    twin = rng.random() < 0.7
    side = np.abs(head.side) - abs(place[0]) if twin else head.side - place[0]
    return _measure_ball(head, side, head.back - place[1], rng.uniform(1.5, 3.5))


def _measure_pineal(head: Head, rng: np.random.Generator) -> Field | None:
    """Returns mm from the edge of a ball at the midline, behind the middle of a large brain."""
    if head.depth[head.center].max() < 50:  # too high
        return None
    side, back = head.side - rng.uniform(-2, 2), head.back - rng.uniform(0, 22)
    return _measure_ball(head, side, back, rng.uniform(1.5, 3.5))


def _measure_falx(head: Head, rng: np.random.Generator) -> Field | None:
    """Returns mm from the edge of a spindle at the midline, close to the forehead."""
    front = float(head.back[head.inside[head.center] & (np.abs(head.side) < 5)].min(initial=0))
    along = np.hypot(head.back - (front + rng.uniform(6, 35)), head.z[:, None, None]) / rng.uniform(3, 10)
    return np.asarray(rng.uniform(0.6, 1.5) * (1 - np.square(along)) - np.abs(head.side))


def _measure_ball(head: Head, side: Field, back: Field, radius: float) -> Field:
    return np.asarray(radius - np.sqrt(np.square(side) + np.square(back) + np.square(head.z[:, None, None])))


def _draw_side(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _find_on_skull(head: Head, angle: float, side: float) -> tuple[float, float] | None:
    """Finds the point of the inner table in a direction, as mm to the side and to the back."""
    depth = head.depth[head.center]
    table = (depth > 0) & (depth < 2 * head.mm) & (head.side * side > 0)
    off = np.where(table, np.abs(head.angle - angle), np.inf)
    place = int(off.argmin())
    if off.flat[place] > 0.2:
        return None
    return float(head.side.flat[place]), float(head.back.flat[place])


def _find_within(
    head: Head, rng: np.random.Generator, radius: float, deep: bool
) -> tuple[float, float] | None:
    """Finds a place in the brain: deep is near the basal ganglia, the others are anywhere on one side."""
    depth, side = head.depth[head.center], np.abs(head.side)
    fits = (depth > 0.7 * radius + 3) & (side > 0.8 * radius)
    if deep:
        fits &= (depth > radius + 4) & (np.abs(side - 24) < 10) & (np.abs(head.back) < 22)
    return _choose(head, rng, fits)


def _choose(head: Head, rng: np.random.Generator, where: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Draws a point from a mask, as mm to the side and to the back."""
    places = np.flatnonzero(where)
    if not len(places):
        return None
    place = places[rng.integers(len(places))]
    return float(head.side.flat[place]), float(head.back.flat[place])


def _measure_blob(head: Head, rng: np.random.Generator, place: tuple[float, float], radius: float) -> Field:
    """Returns mm from the edge of an irregular ellipsoid, positive inside, (D, H, W)."""
    turn, stretch = rng.uniform(0, math.pi), rng.uniform(1.0, 1.35)
    height = radius * rng.uniform(0.7, 1.2)
    x, y = head.side - np.float32(place[0]), head.back - np.float32(place[1])
    u = (x * math.cos(turn) + y * math.sin(turn)) / stretch
    v = (y * math.cos(turn) - x * math.sin(turn)) * stretch
    uneven = 1 + rng.uniform(0.05, 0.3) * draw_texture(head, rng, max(6.0, 0.8 * radius))
    distance = np.sqrt(np.square(u) + np.square(v) + np.square(head.z[:, None, None] * radius / height))
    return np.asarray(radius * uneven - distance, np.float32)


def _draw_clot(head: Head, rng: np.random.Generator) -> Field:
    """Draws the HU of fresh blood, one of three with darker parts that have not clotted."""
    clot = rng.uniform(55, 80) + rng.uniform(1, 4) * draw_texture(head, rng, 8)
    if rng.random() < 0.33:
        clot -= rng.uniform(10, 22) * np.clip(draw_texture(head, rng, 10) - 0.4, 0, 1)
    return np.asarray(np.clip(clot, *CLOT))


def _draw_aged_blood(head: Head, rng: np.random.Generator) -> Field:
    """Draws the HU of subdural blood: acute, chronic, or acute below chronic as it settles to the back."""
    fresh, old = rng.uniform(50, 75), rng.uniform(20, 32)
    texture = draw_texture(head, rng, 12)
    kind = rng.choice(3, p=(0.65, 0.15, 0.20))
    if kind == 2:
        level, edge = rng.uniform(-30, 40), rng.uniform(6, 40)
        settled = cover(head.back + 6 * texture - np.float32(level), edge)
        return np.asarray(old + (fresh - old) * settled)
    blood = (fresh, old)[kind] + rng.uniform(1, 4) * texture
    return np.asarray(np.clip(blood, *AGED))


def _paint_along_falx(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints a band of 2 to 7 mm on one side of the falx, from the skull inwards."""
    at_back = rng.random() < 0.6
    brain = head.inside[head.center] & (np.abs(head.side) < 5)
    if not brain.any():
        return None
    end = float(head.back[brain].max() if at_back else -head.back[brain].min())
    length, height = rng.uniform(25, 60), rng.uniform(15, 40)
    along = (end - (head.back if at_back else -head.back)) / np.float32(length)
    rest = np.clip(1 - np.square(along) - np.square(head.z[:, None, None] / height), 0, None)
    thick = rng.uniform(2, 7) * np.sqrt(rest) * (1 + np.float32(0.2) * draw_texture(head, rng, 12))
    across = head.side * _draw_side(rng) + np.float32(0.5)
    edge = rng.uniform(1, 2)
    share = cover(thick - across, edge) * cover(across, edge) * np.clip(thick, 0, 1)
    return fill(head, head.hu, share, rng.uniform(55, 75), rng)


def _paint_along_tentorium(head: Head, rng: np.random.Generator) -> Field | None:
    """Paints a band of 3 to 8 mm along a leaf of the tentorium, from the midline at the back to the side."""
    brain = head.inside[head.center]
    end = float(head.back[brain].max())
    if end < 55 or head.solidity < 0.9:  # no room for it
        return None
    side = _draw_side(rng)
    start = np.array((2.0, end - rng.uniform(12, 22)))
    step = np.array((rng.uniform(28, 45), -rng.uniform(18, 40)))
    x, y = head.side * np.float32(side) - np.float32(start[0]), head.back - np.float32(start[1])
    share = np.clip((x * step[0] + y * step[1]) / (step @ step), 0, 1)
    bow = 4 * share * (1 - share) * rng.uniform(2, 7)  # it bends outwards
    distance = np.hypot(x - share * step[0], y - share * step[1] - bow)
    thick = rng.uniform(1.5, 4) * (1 - 0.5 * share) * np.clip(1 - np.abs(head.z[:, None, None]) / 15, 0, 1)
    cut = cover(thick - distance, rng.uniform(2, 4)) * np.clip(thick, 0, 1)
    return fill(head, head.hu, cut, rng.uniform(52, 70), rng)


def _replace_fluid(
    head: Head, share: Field, value: float, rng: np.random.Generator, least: float
) -> Field | None:
    """Raises fluid to blood by the share of each pixel; None below ``least`` mm² that this changes."""
    blood = np.clip(value * (1 + np.float32(0.12) * draw_texture(head, rng, 10)), *CLOT)
    raised = share * np.clip(blood - head.hu, 0, None)
    if np.count_nonzero(raised[head.center] > 10) * head.mm**2 < least:
        return None
    return np.asarray(head.hu + raised, np.float32)
