"""The brain without a hemorrhage: ventricles, cisterns, gray and white matter, dura, vessels, calcium."""

from __future__ import annotations

import numpy as np

from ich.phantom.head import Head
from ich.phantom.shapes import Array, Points, bump, join, paint


def measure_ventricles(head: Head, points: Points) -> Array:
    """Returns the depth in mm below the surface of the ventricles."""
    side, s = points.mirrored, head.ventricles
    # The radii say how wide they are, so that atrophy widens them without moving them.
    return points.depth(
        side.capsule((5 * s, -31, 73), (8, -8, 80), (3.2 * s, 4 * s)),
        side.capsule((8, -8, 80), (15, 22, 84), (4 * s, 5 * s)),
        side.capsule((15, 22, 84), (23, 34, 73), (5 * s, 5.8 * s)),
        side.capsule((23, 34, 73), (23, 58, 69), (5.6 * s, 2.2 * s)),
        side.capsule((23, 34, 72), (30, 6, 49), (3.6 * s, 2 * s)),
        points.ellipsoid((0, 2, 64), (2.4 * s, 14, 13)),
        points.ellipsoid((0, 33, 28), (6.5 * s**0.5, 5 * s**0.5, 11)),
    )


def measure_cisterns(head: Head, points: Points) -> Array:
    """Returns the depth in mm below the surface of the basal cisterns and the Sylvian fissures."""
    side, wide = points.mirrored, np.float32(0.5 + 1.3 * head.atrophy)
    return (
        wide
        - np.float32(0.6)
        + points.depth(
            points.ellipsoid((0, -16, 47), (12, 11, 7)),  # suprasellar
            side.capsule((8, -17, 48), (32, -17, 52), (2.2, 2.0)),  # Sylvian
            side.capsule((32, -17, 52), (40, 6, 68), (2.2, 1.4)),
            side.capsule((33, -14, 56), (56, -8, 60), (2.0, 2.4)),
            side.capsule((13, -8, 50), (17, 10, 54), (2.2, 2)),  # ambient
            side.capsule((17, 10, 54), (4, 22, 57), (2, 2.8)),  # quadrigeminal
            points.ellipsoid((0, -3, 36), (10, 3.2, 10)),  # prepontine
            points.ellipsoid((0, 62, 4), (13, 9, 12)),  # cisterna magna
        )
    )


def paint_brain(
    head: Head,
    hu: Array,
    points: Points,
    depth: Array,
    cavity: Array,
    sulcus: Array,
    ventricle: Array,
    cistern: Array,
    texture: Array,
) -> None:
    """Paints gray and white matter and the fluid around them, in place; arguments as in ``Plane``."""
    paint(hu, cavity, head.fluid)
    gap = np.float32(0.8 + 2.6 * head.atrophy)
    surface = depth - gap
    x, y, z = np.abs(points.x), points.y, points.z
    cortex = np.maximum(surface, 0)
    deep = points.inside((24 - cortex) / 6)
    below = np.clip((58 - z) / 6, 0, 1) * np.clip((y - 20) / 6, 0, 1)  # the cerebellum has finer folds
    ribbon = np.clip((4.2 - np.minimum(cortex, sulcus + 9 * (1 - deep))) / 2 + 0.5, 0, 1)
    ribbon = np.maximum(ribbon, 0.55 * below)
    tissue = np.float32(head.white) + texture * np.float32(0.7)
    gray = np.float32(head.gray)
    side = points.mirrored
    nuclei = points.depth(
        side.ellipsoid((11 * head.ventricles**0.3, 12, 67), (8, 13, 10)),
        side.ellipsoid((24, -4, 66), (6.5, 15, 11)),
        side.ellipsoid((13 + 2 * head.ventricles, -22, 74), (4.5, 9, 12)),
    )
    tissue += np.maximum(ribbon, points.inside(nuclei / 2)) * (gray - tissue)
    if head.infarct[3]:
        old = points.depth(points.ellipsoid(head.infarct[:3], (head.infarct[3],) * 3))
        tissue -= 13 * points.inside((old + texture) / 3)
    paint(hu, cavity * points.inside(surface), tissue)
    half = np.float32(0.25 + 1.25 * head.atrophy) * np.clip(1.15 - cortex / 20, 0, 1) * (1 - 0.6 * below)
    midline = np.float32(0.5 + 1.4 * head.atrophy) - x
    midline -= 6 * np.clip((np.abs(y + 2) < 62) * (101 - z) / 8, 0, 1)
    folds = points.inside(half - sulcus) * (half > 0.12) * points.inside(surface + 1)
    fissure = points.inside(midline) * points.inside((z - 50) / 4)
    spaces = np.maximum(ventricle, cistern)
    paint(hu, cavity * np.maximum(np.maximum(0.85 * folds, fissure), points.inside(spaces)), head.fluid)
    if head.hygroma[1]:
        turn = np.float32(np.cos(head.hygroma[0])) * np.sign(points.x) * bump((points.y + 10) / 75)
        thick = np.float32(head.hygroma[1]) * np.clip(turn, 0, 1) * bump((z - 90) / 55)
        paint(hu, cavity * points.inside(thick - depth), head.fluid + 6)


def paint_dura(head: Head, hu: Array, points: Points, depth: Array, cavity: Array, sin: Array) -> None:
    """Paints falx, tentorium, sinuses and arteries, in place; arguments as in ``Plane``."""
    x, y, z = np.abs(points.x), points.y, points.z
    tent = 66 - 0.011 * (y - 24) ** 2 - 0.52 * x
    sheet = 1.1 - np.abs(z - tent) * 0.85
    behind = np.clip((y - 20) / 4, 0, 1) * np.clip((x - 3) / 3, 0, 1)
    falx = np.float32(head.falx_width) - x
    # The falx ends above the corpus callosum, lower in front and behind than in the middle.
    above = z - np.where(np.abs(y) < 62, 100 - 0.009 * (y + 4) ** 2, np.float32(62))
    dura = np.maximum(points.inside(falx) * points.inside(above / 3), points.inside(sheet) * behind)
    paint(hu, cavity * dura, head.falx)
    sagittal = points.inside(np.float32(5.5) - depth - 1.2 * x)
    sinus = sagittal * ((sin > 0.2) & (z > 48) | (z > 112))
    transverse = points.inside(np.float32(5) - depth) * points.inside(4.5 - np.abs(z - 38)) * (y > 30)
    paint(hu, cavity * np.maximum(sinus, transverse), head.venous)
    side = points.mirrored
    arteries = join(
        side.capsule((4, -13, 46), (27, -16, 50), (1.5, 1.3)),
        side.capsule((27, -16, 50), (38, 2, 64), (1.3, 0.9)),
        points.capsule((0, -5, 28), (0, -8, 44), (1.8, 1.8)),
        side.capsule((2, -16, 47), (1.5, -44, 66), (1.1, 0.9)),
    )
    points.lay(hu, arteries, head.arterial, share=cavity)


def paint_calcium(head: Head, hu: Array, points: Points, cavity: Array, edges: Array) -> None:
    """Paints what is calcified in a brain, in place; arguments as in ``Plane``."""
    pineal, plexus, pallidum, falx = head.calcified
    side = points.mirrored
    rough = 0.5 * edges
    if pineal:
        points.lay(hu, points.ellipsoid((0, 21, 63), (pineal,) * 3), head.calcium, grow=rough, share=cavity)
    if plexus:
        shape = side.ellipsoid((22, 34, 75), (plexus * 0.8, plexus * 1.5, plexus * 1.6))
        points.lay(hu, shape, head.calcium * 0.8, grow=rough, share=cavity)
    if pallidum:
        shape = side.ellipsoid((19, -2, 65), (pallidum * 0.7, pallidum * 1.4, pallidum * 1.5))
        points.lay(hu, shape, 0.45 * head.calcium + 25, grow=2 * rough, share=cavity)
    if falx:
        shape = points.ellipsoid((0, -48, 98), (falx, 9, 13))
        points.lay(hu, shape, 0.8 * head.calcium, grow=rough, share=cavity)
