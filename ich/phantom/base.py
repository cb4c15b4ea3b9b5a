"""The skull base and what lies below it: orbits, air spaces, petrous bones."""

from __future__ import annotations

import numpy as np

from ich.phantom.shapes import AWAY, Array, Points, bump, join, paint


def measure_floor(points: Points, texture: Array) -> Array:
    """Returns the height of the skull base in mm: anterior, middle and posterior fossa, and clivus."""
    x, y = np.abs(points.x), points.y
    roofs = bump(np.sqrt((x - 31) ** 2 + (0.8 * (y + 58)) ** 2) / 27)
    anterior = 39 + 8 * roofs + 0.03 * np.clip(-62 - y, 0, None) ** 2
    middle = 16 + 0.013 * (x - 38) ** 2 + 0.009 * (y + 8) ** 2
    posterior = -14 + 0.009 * (x * x + (y - 36) ** 2)
    front = np.clip((-26 - 0.12 * x - y) / 9 + 0.5, 0, 1)
    back = np.clip((y - (2 + 0.33 * x)) / 6 + 0.5, 0, 1)
    floor = middle + front * (anterior - middle)
    floor += back * (posterior - floor)
    clivus = 38 - 1.6 * np.clip(y + 8, 0, None)
    body = np.clip((13 - x) / 4 + 0.5, 0, 1) * np.clip((y + 32) / 4, 0, 1)
    floor += body * np.clip(clivus - floor, 0, None) + 1.3 * texture
    return np.asarray(floor, dtype=np.float32)


def paint_base(hu: Array, points: Points, depth: Array, texture: Array, cells: Array) -> None:
    """Paints what lies below the skull base: muscle, orbits, air spaces of nose, sinuses and throat."""
    if points.lowest > 62:
        return
    inner = points.inside(depth - 1) * points.inside((46 - points.z) / 2)
    tissue = np.where(texture > 1.0, np.float32(-80), np.float32(50)) + 4 * texture
    paint(hu, inner, tissue)
    side = points.mirrored
    _paint_orbits(hu, side, depth)
    nose = side.ellipsoid((5, -60, 24), (8, 27, 19))
    cavities = join(
        side.ellipsoid((5, -22, 27), (9, 13, 9)),
        side.ellipsoid((31, -60, 6), (15, 17, 14)),
        side.ellipsoid((12, -82, 50), (13, 5, 9)),
        points.ellipsoid((0, -24, 2), (13, 10, 16)),
    )
    points.lay(hu, join(cavities, nose), 700, grow=1.5)
    points.lay(hu, cavities, -960)
    points.lay(hu, nose, -950, share=(cells < 0.9) * (side.x > 0.8))


def _paint_orbits(hu: Array, side: Points, depth: Array) -> None:
    orbit = side.capsule((19, -38, 33), (31, -64, 34), (6, 17))
    side.lay(hu, orbit, 800, grow=2.2, share=np.clip((side.y + 70) / 7, 0, 1))
    side.lay(hu, orbit, -80, share=depth > -8)
    if orbit is not AWAY:
        block = orbit.block
        muscles = np.minimum(np.abs(orbit.depth - 4) * -1 + 1.6, (-50 - side.y[block]) / 2)
        paint(hu[block], side.inside(muscles) * 0.8, 45)
    side.lay(hu, side.capsule((19, -40, 33), (31, -60, 34), (2, 2)), 40)
    globe = side.ellipsoid((32, -69, 34), (12, 12, 12))
    side.lay(hu, globe, 45, grow=1)
    side.lay(hu, globe, 12)
    side.lay(hu, side.ellipsoid((32, -77, 34), (4.5, 2.2, 4.5)), 75)


def paint_petrous(hu: Array, points: Points, cells: Array, depth: Array) -> None:
    """Paints the petrous bones between middle and posterior fossa, the mastoid cells and the ear canals."""
    if points.lowest > 48:
        return
    side = points.mirrored
    ridge = side.capsule((11, 3, 30), (58, 25, 26), (4.5, 11))
    points.lay(hu, ridge, 1250 + 150 * cells, share=points.inside((33 - points.z) / 2))
    mastoid = side.ellipsoid((56, 30, 16), (15, 19, 20))
    points.lay(hu, mastoid, 900, share=points.inside(depth + 9))
    points.lay(hu, mastoid, -650, grow=-2, share=points.inside(depth + 7) * (cells > -0.2))
    points.lay(hu, side.capsule((40, 14, 20), (75, 12, 19), (3.5, 3.5)), -900)
