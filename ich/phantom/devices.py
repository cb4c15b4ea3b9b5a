"""What people have put into and onto a head: metal, tubes, bandages, an opened skull; and metal's streaks.

HU after the usual ranges: soft plastics 100 to 300, ceramics and glass 600 to 2,500, metal beyond 3,000.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ich.phantom.chances import Chances
from ich.phantom.shapes import Array, Point, Points, bump, join, paint


@dataclass(frozen=True)
class Opening:
    """Where the skull was opened, or has a fontanelle; mm.

    Attributes:
        center: On the skull.
        radius: Radius of the opening.
        is_closed: The bone was put back, with a kerf around it and metal plates over that.
    """

    center: Point
    radius: float
    is_closed: bool


@dataclass(frozen=True)
class Wrap:
    """A bandage and what is wrapped in it; mm and HU.

    Attributes:
        thickness: Thickness of the bandage.
        hu: The bandage's HU.
        start: One end of the hard thing.
        end: Its other end.
        radius: Radius of the hard object.
        hard: HU of the hard thing.
    """

    thickness: float
    hu: float
    start: Point
    end: Point
    radius: float
    hard: float


@dataclass(frozen=True)
class Devices:
    """What a head carries; None, 0 and False for what it does not.

    Attributes:
        clip: Middle of an aneurysm clip.
        coil: Middle of a coil pack.
        coil_radius: Its radius in mm.
        drain: Side of a ventricular catheter, 1 for the left and -1 for the right.
        has_tube: A tube lies in mouth and airway, another in nose and throat.
        wrap: A bandage.
    """

    clip: Point | None
    coil: Point | None
    coil_radius: float
    drain: float
    has_tube: bool
    wrap: Wrap | None

    @classmethod
    def sample(
        cls, rng: np.random.Generator, chances: Chances, half_width: float, half_length: float
    ) -> Devices:
        """Draws what a head of a size in mm carries."""
        has_clip, has_coil, has_drain, has_tube, has_wrap = chances.draw(
            rng, "clip", "coil", "drain", "tube", "wrap"
        )
        side = float(rng.choice([-1.0, 1.0]))
        clip = (side * rng.uniform(8, 30), rng.uniform(-25, 5), rng.uniform(44, 60))
        coil = (side * rng.uniform(0, 22), rng.uniform(-26, -6), rng.uniform(42, 56))
        radius = float(rng.uniform(3, 7))
        wrap = _sample_wrap(rng, half_width, half_length)
        return cls(
            clip=clip if has_clip else None,
            coil=coil if has_coil else None,
            coil_radius=radius,
            drain=side if has_drain else 0.0,
            has_tube=has_tube,
            wrap=wrap if has_wrap else None,
        )


def _sample_wrap(rng: np.random.Generator, half_width: float, half_length: float) -> Wrap:
    angle, z, turn = rng.uniform(0, 2 * np.pi), rng.uniform(50, 100), rng.uniform(-0.3, 0.3)
    ends = [
        (1.12 * half_width * float(np.cos(a)), 1.1 * half_length * float(np.sin(a)), z + 20 * turn * sign)
        for a, sign in ((angle - turn, -1), (angle + turn, 1))
    ]
    return Wrap(
        thickness=rng.uniform(3, 10),
        hu=rng.uniform(-500, -60),
        start=ends[0],
        end=ends[1],
        radius=rng.uniform(2, 6),
        hard=float(rng.choice([150, 700, 2000, 6000])),
    )


def open_bone(opening: Opening | None, points: Points) -> Array | float:
    """Returns the share of the bone that is left where the skull was opened, (H, W)."""
    if opening is None:
        return 1.0
    apart = points.distance(opening.center) - np.float32(opening.radius)
    if opening.is_closed:
        return np.asarray(1 - points.inside(1.5 - np.abs(apart)))
    return np.asarray(1 - points.inside(-apart))


def paint_plates(hu: Array, opening: Opening | None, points: Points, outer: Array) -> None:
    """Paints the plates that hold the bone, in place; ``outer`` is mm below the skull's outer surface."""
    if opening is None or not opening.is_closed:
        return
    across = points.distance(opening.center) - np.float32(opening.radius)
    plate = points.inside(6 - np.abs(across)) * points.inside(1.0 - np.abs(outer + 0.7))
    around = np.cos(3 * np.arctan2(points.z - opening.center[2], points.y - opening.center[1]))
    paint(hu, plate * np.clip((around - 0.8) * 10, 0, 1), 3800)


def paint_wrap(hu: Array, wrap: Wrap | None, points: Points, skin: Array) -> None:
    """Paints a bandage over the skin, and what is in it, in place; ``skin`` is mm below the skin."""
    if wrap is None:
        return
    band = (
        points.inside(skin + wrap.thickness) * (1 - points.inside(skin)) * points.inside((points.z - 42) / 4)
    )
    loose = 0.6 + 0.4 * np.sin(1.9 * skin)
    paint(hu, band * loose, wrap.hu)
    points.lay(hu, points.capsule(wrap.start, wrap.end, (wrap.radius, wrap.radius)), wrap.hard)


def paint_devices(hu: Array, devices: Devices, points: Points) -> None:
    """Paints what lies in the brain and in the airway, in place."""
    if devices.clip:
        x, y, z = devices.clip
        points.lay(hu, points.capsule((x - 4, y, z - 2), (x + 4, y + 5, z + 3), (1.6, 1.6)), 9000)
    if devices.coil:
        points.lay(hu, points.ellipsoid(devices.coil, (devices.coil_radius,) * 3), 14000)
    if devices.drain:
        tip = (devices.drain * 6, -12.0, 76.0)
        points.lay(hu, points.capsule(tip, (devices.drain * 32, -30.0, 150.0), (1.5, 1.5)), 320)
    if devices.has_tube:
        airway = ((4.0, -125.0, -44.0), (2.0, -62.0, -33.0), (0.0, -18.0, -48.0), (0.0, -14.0, -150.0))
        gastric = ((9.0, -125.0, -6.0), (7.0, -100.0, 2.0), (5.0, -36.0, 6.0), (3.0, -16.0, -20.0))
        tube, thin = (
            join(*(points.capsule(start, end, (radius,) * 2) for start, end in pairwise(path)))
            for path, radius in ((airway, 5.5), (gastric, 2.8))
        )
        points.lay(hu, tube, 230)
        points.lay(hu, tube, -990, grow=-1.8)
        points.lay(hu, thin, 200)


def add_metal_streaks(hu: Array, devices: Devices, points: Points) -> None:
    """Adds the streaks of metal, in place: dark and bright rays in the plane, where there is tissue."""
    sources: list[tuple[Point, float, float]] = []
    if devices.clip:
        sources.append((devices.clip, 900.0, 4.0))
    if devices.coil:
        sources.append((devices.coil, 420.0 * devices.coil_radius, devices.coil_radius + 2))
    if devices.wrap and devices.wrap.hard > 3000:
        sources.append((devices.wrap.start, 700.0, 6.0))
    for number, ((x, y, z), strength, reach) in enumerate(sources):
        near = np.exp(-(((points.z - np.float32(z)) / np.float32(reach)) ** 2))
        if near.max() < 0.01:
            continue
        dx, dy = points.x - np.float32(x), points.y - np.float32(y)
        r = np.sqrt(dx * dx + dy * dy) + 3
        rays = np.cos(9 * np.arctan2(dy, dx) + 2 + number) ** 3
        hu += np.float32(strength) * rays / r * near * (hu > -700)


def add_petrous_streaks(hu: Array, points: Points, strength: float, vault: Array) -> None:
    """Adds the dark and bright bands between the petrous bones, in place; ``strength`` in HU."""
    level = np.exp(-(((points.z - 29) / 8) ** 2))
    between = bump(points.x / 62) * bump((points.y - 12) / 34)
    hu += np.float32(strength) * level * between * vault * (np.sin(points.y * 0.75 + 1) - 0.5)
