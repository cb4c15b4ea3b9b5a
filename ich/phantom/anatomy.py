"""How a plane through a head without a hemorrhage looks, in HU.

Values after the usual reference ranges: cerebrospinal fluid 0 to 15, white matter 20 to 32, grey matter 35
to 45, muscle 40 to 60, calcification 80 to 1,000, bone 300 to 2,000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ich.phantom.base import measure_floor, paint_base, paint_petrous
from ich.phantom.devices import (
    add_metal_streaks,
    add_petrous_streaks,
    open_bone,
    paint_devices,
    paint_plates,
    paint_wrap,
)
from ich.phantom.face import measure_face, paint_face, paint_flesh
from ich.phantom.head import CENTER_Z, Head
from ich.phantom.shapes import Array, Points, bump, paint


@dataclass(frozen=True)
class Plane:
    """A drawn plane and what a lesion needs to know of it; every array (H, W).

    Attributes:
        hu: HU.
        points: Head coordinates.
        depth: mm below the inner table of the skull; negative outside.
        cos: Cosine of the angle around the long axis, 0 to the left, growing to the back.
        sin: Its sine.
        cavity: Share of the pixel inside the skull.
        sulcus: mm to the middle of the nearest sulcus.
        ventricle: mm below the surface of the ventricles.
        cistern: mm below the surface of the basal cisterns and Sylvian fissures.
        edges: Field that roughens the edge of a lesion.
    """

    hu: Array
    points: Points
    depth: Array
    cos: Array
    sin: Array
    cavity: Array
    sulcus: Array
    ventricle: Array
    cistern: Array
    edges: Array


def find_head(head: Head, points: Points) -> tuple[slice, slice]:
    """Returns the rows and columns of a plane that hold all of the head; none of them above the vertex."""
    up = (points.lowest - CENTER_Z) / (head.height + 15)
    share = 1.0 if up <= 0 else max(0.0, 1 - up**2) ** 0.5
    margin = 12.0 if head.devices.wrap is None else 22.0  # REACH covers the scalp and the nose
    x, y = (half * share * 1.06 + margin for half in (head.half_width, head.half_length))
    return points.span.block((-x, -y, -300.0), (x, y, head.height + CENTER_Z))


def draw_plane(head: Head, points: Points, fields: list[Array], push: tuple[Array, Array]) -> Plane:
    """Draws a plane through a head.

    Args:
        head: Its measures.
        points: Where the pixels lie.
        fields: The head's fields there; they change little within a slice.
        push: By how many mm to x and y the brain has been displaced by a mass.

    Returns:
        The plane in HU, without noise.
    """
    sulci, warp, edges, texture, cells = fields
    norm = points.scaled(70.5 / head.half_width, 88.5 / head.half_length)
    depth, cos, sin = _measure_skull(head, points)
    hu = np.full_like(points.x, -1000)
    floor = measure_floor(norm, texture)
    vault = points.inside(depth)
    cavity = vault * points.inside(points.z - floor)
    brain = norm.moved(1.6 * warp - push[0], 1.2 * warp - push[1], 0)
    skin = _paint_outside(head, hu, points, norm, depth, cos, sin, texture)
    paint_flesh(hu, norm, skin, texture)
    paint_base(hu, norm, depth, texture, cells)
    paint_face(hu, norm, head.bone, head.filling)
    paint_wrap(hu, head.devices.wrap, points, skin)
    outer = depth + _measure_thickness(head, points, cos, sin)
    diploe = np.abs(depth + 0.5 * np.float32(head.skull)) < 0.2 * head.skull
    bone = np.where(diploe, np.float32(0.5 * head.bone), np.float32(head.bone))
    # The squama of the occipital bone reaches lower than the temporal and frontal bones.
    upper = points.inside((points.z - 20 + 28 * np.clip((points.y - 15) / 40, 0, 1)) / 4)
    vaulted = points.inside(outer) * (1 - vault) * upper
    if head.opening:
        paint(hu, vaulted, head.muscle)
    paint(hu, vaulted * open_bone(head.opening, points), bone + 90 * cells)
    paint_plates(hu, head.opening, points, outer)
    paint(hu, vault * points.inside(points.z - floor + 2.6) * (1 - cavity), 950)
    ventricle, cistern = _measure_ventricles(head, brain), _measure_cisterns(head, brain)
    sulcus = np.abs(sulci) * np.float32(3.4)
    _paint_brain(head, hu, brain, depth, cavity, sulcus, ventricle, cistern, texture)
    _paint_dura(head, hu, points, depth, cavity, sin)
    _paint_calcium(head, hu, brain, cavity, edges)
    paint_petrous(hu, norm, cells, depth)
    paint_devices(hu, head.devices, points)
    hu += np.float32(head.hardening) * np.exp(-np.abs(depth) / 6) * cavity
    add_petrous_streaks(hu, points, head.streaks, vault)
    add_metal_streaks(hu, head.devices, points)
    return Plane(hu, points, depth, cos, sin, cavity, sulcus, ventricle, cistern, edges)


def _measure_skull(head: Head, points: Points) -> tuple[Array, Array, Array]:
    """Returns the depth below the inner table in mm, and cosine and sine of the angle."""
    x, y = points.x, points.y
    r = np.sqrt(x * x + y * y) + np.float32(1e-3)
    cos, sin = x / r, y / r
    egg, lateral, box = head.harmonics
    width, length = head.half_width - head.skull, head.half_length - head.skull
    radius = 1 / np.sqrt((cos / width) ** 2 + (sin / length) ** 2)
    radius *= 1 + egg * (sin - 0.4 * sin * sin * sin) + lateral * cos + box * (1 - 8 * cos * cos * sin * sin)
    up = points.z - CENTER_Z
    u, v = r / radius, np.abs(up) / np.where(up > 0, np.float32(head.height - head.skull), np.float32(125))
    q = np.sqrt(u * u + v * v + np.float32(1e-6))
    return np.sqrt(r * r + up * up) * (1 / q - 1), cos, sin


def _measure_thickness(head: Head, points: Points, cos: Array, sin: Array) -> Array:
    """Returns the thickness of the vault in mm: thicker in front and behind, even at the vertex."""
    below = np.clip((head.height + CENTER_Z - 8 - points.z) / 25, 0, 1)
    return np.asarray(np.float32(head.skull) * (1 + 0.18 * (sin * sin - cos * cos) * below), dtype=np.float32)


def _paint_outside(
    head: Head, hu: Array, points: Points, norm: Points, depth: Array, cos: Array, sin: Array, texture: Array
) -> Array:
    """Paints skin, fat and muscle, and returns the depth in mm below the skin."""
    outer = depth + _measure_thickness(head, points, cos, sin)
    scalp = (
        outer + np.float32(head.scalp) * (1 + 0.35 * np.clip(sin, -0.4, 1) ** 2) + texture * np.float32(0.4)
    )
    bulges: list[tuple[Array, float]] = []
    for angle, z, extent, thickness, value in head.swellings:
        if thickness:
            where = (float(1.1 * head.half_width * np.cos(angle)), float(head.half_length * np.sin(angle)), z)
            bulge = np.float32(thickness) * bump(points.distance(where) / np.float32(extent))
            scalp = scalp + np.float32(0.7) * bulge
            bulges.append((bulge, value))
    face = measure_face(norm)
    skin = scalp if face is None else np.maximum(scalp, face)
    paint(hu, points.inside(skin), 35.0)
    paint(hu, points.inside(skin - 2.2), -95 + 6 * texture)
    muscle = np.clip(cos * cos - 0.55, 0, 1) * 2.2 * np.clip((82 - points.z) / 30, 0, 1)
    muscle += np.clip((sin - 0.55) * 2.2, 0, 1) * np.clip((34 - points.z) / 20, 0, 1) * 1.6
    fleshy = points.inside(outer + 9 * np.clip(muscle, 0, 1) - 0.5) * points.inside(scalp - 2)
    paint(hu, fleshy, head.muscle + 3 * texture)
    for bulge, value in bulges:
        swollen = points.inside(outer + bulge - 0.5) * (bulge > 0.5) * points.inside(scalp - 1)
        paint(hu, swollen, value + 3 * texture)
    return np.asarray(skin, dtype=np.float32)


def _measure_ventricles(head: Head, points: Points) -> Array:
    """Returns the depth in mm below the surface of the ventricles."""
    side, s = points.mirrored(), head.ventricles
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


def _measure_cisterns(head: Head, points: Points) -> Array:
    """Returns the depth in mm below the surface of the basal cisterns and the Sylvian fissures."""
    side, wide = points.mirrored(), np.float32(0.5 + 1.3 * head.atrophy)
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


def _paint_brain(
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
    grey = np.float32(head.grey)
    side = points.mirrored()
    nuclei = points.depth(
        side.ellipsoid((11 * head.ventricles**0.3, 12, 67), (8, 13, 10)),
        side.ellipsoid((24, -4, 66), (6.5, 15, 11)),
        side.ellipsoid((13 + 2 * head.ventricles, -22, 74), (4.5, 9, 12)),
    )
    tissue += np.maximum(ribbon, points.inside(nuclei / 2)) * (grey - tissue)
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


def _paint_dura(head: Head, hu: Array, points: Points, depth: Array, cavity: Array, sin: Array) -> None:
    x, y, z = np.abs(points.x), points.y, points.z
    tent = 66 - 0.011 * (y - 24) ** 2 - 0.52 * x
    sheet = 1.1 - np.abs(z - tent) * 0.85
    behind = np.clip((y - 20) / 4, 0, 1) * np.clip((x - 3) / 3, 0, 1)
    falx = np.float32(head.falx_width) - x
    # The falx ends above the corpus callosum, lower in front and behind than in the middle.
    above = z - np.where(np.abs(y) < 62, 100 - 0.009 * (y + 4) ** 2, np.float32(62))
    dura = np.maximum(points.inside(falx) * points.inside(above / 3), points.inside(sheet) * behind)
    paint(hu, cavity * dura, head.falx)
    sinus = np.maximum(
        points.inside(np.float32(5.5) - depth - 1.2 * x) * (sin > 0.2) * (z > 48),
        points.inside(np.float32(5.5) - depth - 1.2 * x) * (z > 112),
    )
    transverse = points.inside(np.float32(5) - depth) * points.inside(4.5 - np.abs(z - 38)) * (y > 30)
    paint(hu, cavity * np.maximum(sinus, transverse), head.venous)
    side = points.mirrored()
    arteries = points.depth(
        side.capsule((4, -13, 46), (27, -16, 50), (1.5, 1.3)),
        side.capsule((27, -16, 50), (38, 2, 64), (1.3, 0.9)),
        points.capsule((0, -5, 28), (0, -8, 44), (1.8, 1.8)),
        side.capsule((2, -16, 47), (1.5, -44, 66), (1.1, 0.9)),
    )
    paint(hu, cavity * points.inside(arteries), head.arterial)


def _paint_calcium(head: Head, hu: Array, points: Points, cavity: Array, edges: Array) -> None:
    pineal, plexus, pallidum, falx = head.calcified
    side = points.mirrored()
    rough = 0.5 * edges
    if pineal:
        shape = points.depth(points.ellipsoid((0, 21, 63), (pineal,) * 3))
        paint(hu, cavity * points.inside(shape + rough), head.calcium)
    if plexus:
        shape = points.depth(side.ellipsoid((22, 34, 75), (plexus * 0.8, plexus * 1.5, plexus * 1.6)))
        paint(hu, cavity * points.inside(shape + rough), head.calcium * 0.8)
    if pallidum:
        shape = points.depth(side.ellipsoid((19, -2, 65), (pallidum * 0.7, pallidum * 1.4, pallidum * 1.5)))
        paint(hu, cavity * points.inside(shape + 2 * rough), 0.45 * head.calcium + 25)
    if falx:
        shape = points.depth(points.ellipsoid((0, -48, 98), (falx, 9, 13)))
        paint(hu, cavity * points.inside(shape + rough), 0.8 * head.calcium)
