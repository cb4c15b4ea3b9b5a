"""The face, the neck and what holds them up: nose, ears, jaws, teeth, cervical spine and airway.

Places after the usual proportions of an adult, whose foramen magnum lies at z = 0 and whose orbits at z = 34:
the floor of the nose near z = 0, the teeth near -22, the chin near -60, the hyoid bone near -75 mm.
"""

from __future__ import annotations

import numpy as np

from ich.phantom.shapes import AWAY, Array, Points, find_block, join, paint

BELOW = 62.0
"""Height in mm above which there is no face."""


def measure_face(points: Points) -> Array | None:
    """Returns the depth in mm below the skin of face, nose, ears and neck; None above them."""
    if points.lowest > BELOW:
        return None
    side = points.mirrored
    return points.depth(
        points.ellipsoid((0, -42, -8), (65, 56, 72)),
        points.capsule((0, -88, 38), (0, -107, 6), (6, 10)),  # nose
        points.capsule((0, -60, -50), (0, -74, -58), (30, 17)),  # chin
        points.capsule((0, 14, -150), (0, 22, -30), (57, 62)),  # neck
        side.ellipsoid((82, 18, 20), (3.5, 13, 29)),  # ears
    )


def paint_flesh(hu: Array, points: Points, skin: Array, texture: Array) -> None:
    """Paints the muscles of face and neck, with fat between them, in place.

    Args:
        hu: (H, W) of the plane.
        points: Where it lies; mm.
        skin: Depth in mm below the skin.
        texture: A smooth field, which makes the fat.
    """
    if points.lowest > BELOW:
        return
    flesh = np.where(texture > 1.0, np.float32(-85), np.float32(52)) + 4 * texture
    paint(hu, points.inside(skin - 5) * points.inside((24 - points.z) / 6), flesh)


def paint_face(hu: Array, points: Points, bone: float, filling: float) -> None:
    """Paints jaws and teeth, cervical spine and airway, in place.

    Args:
        hu: (H, W) of the plane.
        points: Where it lies; mm.
        bone: HU of compact bone.
        filling: HU of dental fillings; 0 for none.
    """
    if points.lowest > BELOW:
        return
    _paint_jaws(hu, points, bone, filling)
    _paint_spine(hu, points, bone)
    _paint_airway(hu, points)


def _paint_jaws(hu: Array, points: Points, bone: float, filling: float) -> None:
    side = points.mirrored
    jaws = join(
        side.capsule((7, -85, -50), (44, -28, -44), (7, 6)),
        side.capsule((46, -24, -46), (50, -4, 8), (6, 5)),
        side.capsule((7, -86, -20), (29, -52, -18), (7, 6.5)),
        side.capsule((40, -70, 12), (66, -28, 16), (4, 2.6)),  # zygomatic arch
    )
    points.lay(hu, jaws, 0.85 * bone)
    points.lay(hu, jaws, 0.4 * bone, grow=-3, share=0.7)
    tongue = points.ellipsoid((0, -56, -34), (22, 27, 13))
    if tongue is not AWAY:
        points.lay(hu, tongue, -600, grow=3, share=points.inside(-1 - points.depth(jaws)))
        points.lay(hu, tongue, 58)
    teeth = join(
        side.capsule((6, -88, -31), (26, -56, -29), (4, 4)),
        side.capsule((6, -86, -40), (26, -54, -38), (3.5, 4)),
    )
    if teeth is not AWAY:
        enamel = np.maximum(0.0, np.sin(0.55 * (points.y + 90))) ** 2
        points.lay(hu, teeth, 1.6 * bone, share=enamel)
    if filling:
        points.lay(hu, side.capsule((23, -62, -34), (27, -56, -34), (2.5, 2.5)), filling)
        _add_streaks(hu, side, filling)


def _add_streaks(hu: Array, side: Points, filling: float) -> None:
    level = np.exp(-(((side.z + 34) / 5) ** 2))
    block = find_block(level)
    hu, x, y = hu[block], side.x[block], side.y[block]
    dx, dy = x - np.float32(25), y + np.float32(59)
    r = np.sqrt(dx * dx + dy * dy) + 4
    rays = np.cos(7 * np.arctan2(dy, dx) + 1) ** 3 * level[block]
    hu += np.float32(0.25 * filling) * rays / r * (hu > -700)


def _paint_spine(hu: Array, points: Points, bone: float) -> None:
    side = points.mirrored
    bodies = join(
        points.capsule((0, 16, -150), (0, 10, -14), (11, 8)),
        side.capsule((17, 27, -150), (19, 26, -10), (6, 7)),
        points.capsule((0, 36, -150), (0, 34, -10), (13, 16)),
        points.capsule((0, 50, -150), (0, 52, -12), (4, 5)),
    )
    if bodies is not AWAY:
        block = bodies.block
        level = 0.5 + 0.5 * np.sin(points.z[block] * np.float32(2 * np.pi / 19))  # a vertebra each 19 mm
        rim = bone * (0.75 - 0.3 * points.inside((bodies.depth - 3) / 2))
        paint(hu[block], points.inside(bodies.depth) * np.clip(2.5 * level, 0.15, 1), rim)
    points.lay(hu, points.capsule((0, 36, -150), (0, 35, -2), (9, 13)), 12)  # canal
    points.lay(hu, points.capsule((0, 35, -150), (0, 31, 2), (5.5, 7)), 38)  # cord


def _paint_airway(hu: Array, points: Points) -> None:
    airway = join(
        points.capsule((0, -14, -8), (0, -12, -70), (8, 7)),
        points.capsule((0, -16, -70), (0, -20, -150), (7, 9)),
    )
    points.lay(hu, airway, 55, grow=2)
    points.lay(hu, airway, -980)
