"""How a plane through a head without a hemorrhage looks, in HU.

Values after the usual reference ranges: cerebrospinal fluid 0 to 15, white matter 20 to 32, gray matter 35
to 45, muscle 40 to 60, calcification 80 to 1,000, bone 300 to 2,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ich.phantom.base import measure_floor, paint_base, paint_petrous
from ich.phantom.brain import (
    measure_cisterns,
    measure_ventricles,
    paint_brain,
    paint_calcium,
    paint_dura,
)
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
from ich.phantom.shapes import Array, Block, Points, bump, find_block, paint

Push = Callable[[Points], tuple[Array, Array]]
"""Returns by how many mm in x and in y a mass displaces the brain."""


@dataclass(frozen=True)
class Ground:
    """A plane to draw on; every array (H, W).

    Attributes:
        hu: HU.
        points: Head coordinates.
        norm: Head coordinates in a head of usual width and length.
        depth: mm below the inner table of the skull; negative outside.
        cos: Cosine of the angle around the long axis, 0 to the left, growing to the back.
        sin: Its sine.
        vault: Share of the pixel inside the vault of the skull, base or not.
        sulci: Field that is 0 in the middle of a sulcus.
        warp: Field that makes the brain asymmetric.
        edges: Field that roughens the edge of a lesion.
        texture: Field of the soft tissues' texture.
        cells: Field of the air cells.
    """

    hu: Array
    points: Points
    norm: Points
    depth: Array
    cos: Array
    sin: Array
    vault: Array
    sulci: Array
    warp: Array
    edges: Array
    texture: Array
    cells: Array

    def view(self, window: Block) -> Ground:
        """Returns a block of the plane; what is drawn on it is drawn on the plane."""
        values: dict[str, Any] = {
            name: value.view(window) if isinstance(value, Points) else value[window]
            for name, value in vars(self).items()
        }
        return Ground(**values)


@dataclass(frozen=True)
class Plane:
    """A drawn plane and what a lesion needs to know about it; all but ``hu`` is of the window.

    Attributes:
        hu: HU, (H, W).
        window: Rows and columns that hold the inside of the skull.
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
    window: Block
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


def draw_plane(head: Head, points: Points, fields: list[Array], push: Push) -> Plane:
    """Draws a plane through a head.

    Args:
        head: Its measures.
        points: Where the pixels lie.
        fields: The head's fields there; they change little within a slice.
        push: Returns how a mass displaces the brain.

    Returns:
        The plane in HU, without noise.
    """
    norm = points.scaled(70.5 / head.half_width, 88.5 / head.half_length)
    depth, cos, sin = _measure_skull(head, points)
    hu, vault = np.full_like(points.x, -1000), points.inside(depth)
    whole = Ground(hu, points, norm, depth, cos, sin, vault, *fields)
    window = find_block(vault)
    outer = depth + _measure_thickness(head, points, cos, sin)
    skin, covered = _paint_outside(head, whole, outer)
    paint_base(hu, norm, depth, whole.texture, whole.cells)
    paint_face(hu, norm, head.bone, head.filling)
    paint_wrap(hu, head.devices.wrap, points, skin)
    _paint_vault(head, whole.view(covered), outer[covered])
    paint_plates(hu, head.opening, points, outer)
    plane = _paint_inside(head, whole, window, push)
    paint_petrous(hu, norm, whole.cells, depth)
    paint_devices(hu, head.devices, points)
    hu[window] += np.float32(head.hardening) * np.exp(-np.abs(plane.depth) / 6) * plane.cavity
    add_petrous_streaks(hu[window], plane.points, head.streaks, vault[window])
    add_metal_streaks(hu, head.devices, points)
    return plane


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


def _paint_outside(head: Head, ground: Ground, outer: Array) -> tuple[Array, Block]:
    """Paints skin, fat and muscle.

    Args:
        head: The head's measures.
        ground: The plane.
        outer: mm below the outer surface of the skull.

    Returns:
        The depth in mm below the skin, and the rows and columns that hold the head.
    """
    points = ground.points
    scalp = outer + np.float32(head.scalp) * (1 + 0.35 * np.clip(ground.sin, -0.4, 1) ** 2)
    scalp += ground.texture * np.float32(0.4)
    bulges: list[tuple[Array, float]] = []
    for angle, z, extent, thickness, value in head.swellings:
        if thickness:
            where = (float(1.1 * head.half_width * np.cos(angle)), float(head.half_length * np.sin(angle)), z)
            bulge = np.float32(thickness) * bump(points.distance(where) / np.float32(extent))
            scalp += np.float32(0.7) * bulge
            bulges.append((bulge, value))
    face = measure_face(ground.norm)
    skin = scalp if face is None else np.maximum(scalp, face)
    cover = points.inside(skin)
    window = find_block(cover)
    part = ground.view(window)
    hu, points, texture = part.hu, part.points, part.texture
    under, scalp, outer = skin[window], scalp[window], outer[window]
    paint(hu, cover[window], 35.0)
    paint(hu, points.inside(under - 2.2), -95 + 6 * texture)
    muscle = np.clip(part.cos * part.cos - 0.55, 0, 1) * 2.2 * np.clip((82 - points.z) / 30, 0, 1)
    muscle += np.clip((part.sin - 0.55) * 2.2, 0, 1) * np.clip((34 - points.z) / 20, 0, 1) * 1.6
    fleshy = points.inside(outer + 9 * np.clip(muscle, 0, 1) - 0.5) * points.inside(scalp - 2)
    paint(hu, fleshy, head.muscle + 3 * texture)
    for whole, value in bulges:
        bulge = whole[window]
        swollen = points.inside(outer + bulge - 0.5) * (bulge > 0.5) * points.inside(scalp - 1)
        paint(hu, swollen, value + 3 * texture)
    paint_flesh(hu, part.norm, under, texture)
    return skin, window


def _paint_vault(head: Head, ground: Ground, outer: Array) -> None:
    """Paints the bone of the vault; ``outer`` is mm below its outer surface."""
    points, depth = ground.points, ground.depth
    diploe = np.abs(depth + 0.5 * np.float32(head.skull)) < 0.2 * head.skull
    bone = np.where(diploe, np.float32(0.5 * head.bone), np.float32(head.bone))
    # The squama of the occipital bone reaches lower than the temporal and frontal bones.
    upper = points.inside((points.z - 20 + 28 * np.clip((points.y - 15) / 40, 0, 1)) / 4)
    vaulted = points.inside(outer) * (1 - ground.vault) * upper
    if head.opening:
        paint(ground.hu, vaulted, head.muscle)
    paint(ground.hu, vaulted * open_bone(head.opening, points), bone + 90 * ground.cells)


def _paint_inside(head: Head, plane: Ground, window: Block, push: Push) -> Plane:
    """Paints what lies inside the skull, which the window holds."""
    ground = plane.view(window)
    hu, points, depth, texture = ground.hu, ground.points, ground.depth, ground.texture
    floor = measure_floor(ground.norm, texture)
    cavity = ground.vault * points.inside(points.z - floor)
    dx, dy = push(points)
    brain = ground.norm.moved(1.6 * ground.warp - dx, 1.2 * ground.warp - dy, 0)
    paint(hu, ground.vault * points.inside(points.z - floor + 2.6) * (1 - cavity), 950)
    ventricle, cistern = measure_ventricles(head, brain), measure_cisterns(head, brain)
    sulcus = np.abs(ground.sulci) * np.float32(3.4)
    paint_brain(head, hu, brain, depth, cavity, sulcus, ventricle, cistern, texture)
    paint_dura(head, hu, points, depth, cavity, ground.sin)
    paint_calcium(head, hu, brain, cavity, ground.edges)
    return Plane(
        plane.hu,
        window,
        points,
        depth,
        ground.cos,
        ground.sin,
        cavity,
        sulcus,
        ventricle,
        cistern,
        ground.edges,
    )
