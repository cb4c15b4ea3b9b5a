"""Hemorrhages of the five subtypes: where anatomy puts them, and how far a plane is covered by each.

Shapes after the usual radiological description: an epidural one is a lens under the skull, a subdural one
a crescent along the convexity or the falx, a subarachnoid one thin in sulci and basal cisterns, an
intraparenchymal one a rough ball with a dark rim of edema, an intraventricular one lies in the ventricles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ich.phantom.anatomy import Plane
from ich.phantom.head import Head
from ich.phantom.shapes import Array, Point, Points, bump, paint


@dataclass(frozen=True)
class Bleed:
    """One hemorrhage of a study.

    Attributes:
        subtype: As in ``ich.schema.SUBTYPES``.
        hu: The blood's HU.
        center: Where its mass effect starts, mm in head coordinates.
        push: How far it displaces the brain, mm.
        cover: Gives the share of each pixel that is blood.
        rim: Gives the share of each pixel that is edema.
    """

    subtype: str
    hu: float
    center: tuple[float, float, float]
    push: float
    cover: Callable[[Plane], Array]
    rim: Callable[[Plane], Array] | None = None


def sample_bleed(rng: np.random.Generator, subtype: str, head: Head) -> Bleed:
    """Draws a hemorrhage of a subtype that fits a head."""
    return _SAMPLERS[subtype](rng, head)


def sample_push(bleeds: list[Bleed], points: Points) -> tuple[Array, Array]:
    """Returns by how many mm to x and y the brain has been displaced by all hemorrhages."""
    dx, dy = np.zeros_like(points.x), np.zeros_like(points.x)
    for bleed in bleeds:
        if bleed.push:
            x, y, _ = bleed.center
            near = np.float32(bleed.push) * bump(points.distance(bleed.center) / 70)
            length = float(np.hypot(x, y)) + 1e-6
            dx -= near * np.float32(x / length)
            dy -= near * np.float32(0.4 * y / length)
    return dx, dy


def paint_bleeds(bleeds: list[Bleed], planes: list[Plane], least: float) -> dict[str, Array]:
    """Paints hemorrhages into the parallel planes of a slice, in place.

    Args:
        bleeds: From the inside out.
        planes: The sampling planes of one slice.
        least: Area in mm² below which a hemorrhage is left out of the slice, so that a slice without its
            label does not show it.

    Returns:
        For each subtype that is there the share of each pixel that is blood, (H, W).
    """
    covers: dict[str, Array] = {}
    for bleed in bleeds:
        if bleed.rim:
            for plane in planes:
                paint(plane.hu[plane.window], bleed.rim(plane) * plane.cavity, 17.0)
    for bleed in bleeds:
        parts = [np.zeros_like(plane.hu) for plane in planes]
        for plane, part in zip(planes, parts, strict=True):
            part[plane.window] = bleed.cover(plane) * plane.cavity
        mean = sum(parts[1:], parts[0]) / len(parts)
        if (mean >= 0.5).sum() * planes[0].points.edge ** 2 < least:
            continue
        for plane, part in zip(planes, parts, strict=True):
            paint(plane.hu[plane.window], part[plane.window], bleed.hu + 2 * plane.edges)
        covers[bleed.subtype] = np.maximum(covers.get(bleed.subtype, mean), mean)
    return covers


def _sample_angle(rng: np.random.Generator, spread: float) -> float:
    return float(rng.uniform(-spread, spread) + (0 if rng.random() < 0.5 else np.pi))


def _sample_epidural(rng: np.random.Generator, head: Head) -> Bleed:
    center = head.on_skull(_sample_angle(rng, 1.0), rng.uniform(52, 98))
    extent, thickness = np.float32(rng.uniform(32, 46)), np.float32(rng.uniform(15, 26))

    def cover(plane: Plane) -> Array:
        u = plane.points.distance(center) / extent
        return plane.points.inside(thickness * (1 - u * u) - plane.depth)

    return Bleed("epidural", rng.uniform(64, 84), center, float(thickness) * 0.3, cover)


def _sample_subdural(rng: np.random.Generator, head: Head) -> Bleed:
    angle = _sample_angle(rng, 0.5)
    half = float(1 - np.cos(rng.uniform(1.1, 1.6)))
    z, extent = rng.uniform(75, 95), rng.uniform(45, 65)
    thickness = np.float32(rng.uniform(8, 14))
    falx = _sample_parafalcine(rng) if rng.random() < 0.25 else None

    def cover(plane: Plane) -> Array:
        along = (1 - plane.cos * np.float32(np.cos(angle)) - plane.sin * np.float32(np.sin(angle))) / half
        up = (plane.points.z - z) / extent
        thick = thickness * np.sqrt(np.clip(1 - along - up * up, 0, None)) + 0.5 * plane.edges
        crescent = plane.points.inside(thick - plane.depth) * (along + up * up < 1)
        return np.maximum(crescent, falx(plane)) if falx else crescent

    center = head.on_skull(angle, 80.0)
    return Bleed("subdural", rng.uniform(55, 72), center, float(thickness) * 0.5, cover)


def _sample_parafalcine(rng: np.random.Generator) -> Callable[[Plane], Array]:
    side, thickness = float(rng.choice([-1.0, 1.0])), np.float32(rng.uniform(4.5, 7.5))
    y, z = float(rng.choice([-45.0, 40.0])), rng.uniform(80, 100)

    def cover(plane: Plane) -> Array:
        x = plane.points.x * np.float32(side)
        where = bump((plane.points.y - y) / 48) * bump((plane.points.z - z) / 42)
        thick = thickness * np.clip(2.2 * where, 0, 1) + 0.3 * plane.edges
        return plane.points.inside(thick - x) * plane.points.inside(x) * (where > 0.05)

    return cover


def _sample_subarachnoid(rng: np.random.Generator, head: Head) -> Bleed:
    width = np.float32(2.3 + 0.5 * head.atrophy + rng.uniform(0, 0.6))
    angle, extent = _sample_angle(rng, 1.2), np.float32(rng.uniform(48, 64))
    basal = bool(rng.random() < 0.4)
    # With blood in the cisterns, that in the sulci starts at the Sylvian fissure.
    center = head.on_skull(angle, rng.uniform(55, 70) if basal else rng.uniform(70, 105))

    def cover(plane: Plane) -> Array:
        near = bump(plane.points.distance(center) / extent)
        fold = plane.points.inside(width - plane.sulcus) * plane.points.inside((20 - plane.depth) / 2)
        film = plane.points.inside(np.float32(1.6) - plane.depth)
        sulci: Array = np.clip(3.5 * near, 0, 1) * np.maximum(fold, film)
        if not basal:
            return sulci
        above = plane.points.inside((plane.points.z - 30) / 4)  # the cisterna magna stays free
        return np.maximum(sulci, above * plane.points.inside(plane.cistern + 1.0))

    return Bleed("subarachnoid", rng.uniform(66, 82), center, 0.0, cover)


def _sample_intraparenchymal(rng: np.random.Generator, head: Head) -> Bleed:
    side = float(rng.choice([-1.0, 1.0]))
    place = rng.random()
    center: Point
    if place < 0.4:
        center = (side * rng.uniform(20, 28), rng.uniform(-12, 12), rng.uniform(62, 74))
        size = rng.uniform(11, 19)
    elif place < 0.9:
        x, y, z = head.on_skull(_sample_angle(rng, 1.35), rng.uniform(58, 105))
        deep = rng.uniform(0.55, 0.68)
        center, size = (x * deep, y * deep, z), rng.uniform(11, 21)
    else:
        center, size = (
            (side * rng.uniform(8, 30), rng.uniform(38, 52), rng.uniform(16, 32)),
            rng.uniform(9, 14),
        )
    a, b, c = (size * rng.uniform(low, low + 0.4) for low in (0.8, 0.8, 1.0))
    rim = np.float32(rng.uniform(4, 9))

    def depth(plane: Plane) -> Array:
        return plane.points.depth(plane.points.ellipsoid(center, (a, b, c))) + 1.6 * plane.edges

    return Bleed(
        "intraparenchymal",
        rng.uniform(58, 80),
        center,
        size * 0.25,
        lambda plane: plane.points.inside(depth(plane)),
        lambda plane: plane.points.inside((depth(plane) + rim) / 2) * plane.points.inside(plane.depth - 2),
    )


def _sample_intraventricular(rng: np.random.Generator, _: Head) -> Bleed:
    hu, side = rng.uniform(62, 80), float(rng.choice([-1.0, 1.0]))
    if rng.random() < 0.5:
        level = np.float32(rng.uniform(22, 34))

        def layered(plane: Plane) -> Array:
            lateral = plane.points.z > 48
            return (
                plane.points.inside(plane.ventricle) * plane.points.inside(plane.points.y - level) * lateral
            )

        return Bleed("intraventricular", hu, (0.0, 40.0, 72.0), 0.0, layered)

    reach = 3.0 if rng.random() < 0.6 else 60.0  # one lateral ventricle and the third, or all of them

    def cast(plane: Plane) -> Array:
        half = plane.points.inside(plane.points.x * np.float32(side) + reach)
        return plane.points.inside(plane.ventricle) * half

    return Bleed("intraventricular", hu, (0.0, 0.0, 72.0), 0.0, cast)


_SAMPLERS: dict[str, Callable[[np.random.Generator, Head], Bleed]] = {
    "epidural": _sample_epidural,
    "intraparenchymal": _sample_intraparenchymal,
    "intraventricular": _sample_intraventricular,
    "subarachnoid": _sample_subarachnoid,
    "subdural": _sample_subdural,
}
