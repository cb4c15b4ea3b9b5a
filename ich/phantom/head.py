"""A head without a hemorrhage: its measures.

Positions are mm in head coordinates (x to the left, y to the back, z up from the foramen magnum), values
HU after the usual reference ranges: cerebrospinal fluid 0 to 15, white matter 20 to 32, gray matter 35 to
45, muscle 40 to 60, calcification 80 to 1,000, bone 300 to 2,000.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ich.phantom.chances import Chances
from ich.phantom.devices import Devices, Opening
from ich.phantom.fields import Fields
from ich.phantom.shapes import Point

CENTER_Z = 50.0
"""Height in mm at which the head is widest."""

FIELD_LENGTHS = ((19.0, 26.0), (60.0, 110.0), (12.0, 30.0), (25.0, 50.0), (6.0, 9.0))
"""Waves in mm of the fields: sulci, asymmetry, edges of lesions, texture of the brain, air cells."""


@dataclass(frozen=True)
class Head:
    """Measures of one head; mm and HU unless said otherwise.

    Attributes:
        scale: Scale of the whole head. The other measures are for an adult; a child is a smaller copy.
        half_width: Outer half axis of the skull to the side.
        half_length: Outer half axis to the front and back.
        height: From the widest level to the vertex.
        harmonics: Amplitudes of the deviation from an ellipse: egg shape, left-right, box shape.
        skull: Thickness of the vault.
        bone: HU of compact bone.
        scalp: Thickness of skin and fat.
        atrophy: 0 for a young brain with narrow sulci to 1.
        ventricles: Scale of the ventricles' width.
        white: White matter.
        gray: Gray matter.
        fluid: Cerebrospinal fluid.
        venous: Blood in the sinuses; more with contrast.
        arterial: Blood in the arteries.
        falx: Falx and tentorium.
        falx_width: Half thickness of the falx.
        calcified: Radius of calcification in pineal, choroid plexus, pallidum and falx; 0 for none.
        calcium: HU of those.
        swellings: Scalp hematomas: angle in radians, z, half extent, thickness (0 for none), HU.
        muscle: Temporal muscles and neck.
        infarct: Old infarct: x, y, z and radius (0 for none).
        hygroma: Old collection at CSF density: angle in radians and thickness (0 for none).
        filling: HU of dental fillings; 0 for none.
        opening: Where the skull is open.
        devices: What it carries.
        hardening: HU that the brain gains beside the bone.
        streaks: HU of the streaks between the petrous bones.
        fields: The random fields of ``FIELD_LENGTHS``.
    """

    scale: float
    half_width: float
    half_length: float
    height: float
    harmonics: tuple[float, float, float]
    skull: float
    bone: float
    scalp: float
    atrophy: float
    ventricles: float
    white: float
    gray: float
    fluid: float
    venous: float
    arterial: float
    falx: float
    falx_width: float
    calcified: tuple[float, float, float, float]
    calcium: float
    swellings: tuple[tuple[float, float, float, float, float], ...]
    muscle: float
    infarct: tuple[float, float, float, float]
    hygroma: tuple[float, float]
    filling: float
    opening: Opening | None
    devices: Devices
    hardening: float
    streaks: float
    fields: Fields

    @classmethod
    def sample(cls, rng: np.random.Generator, chances: Chances) -> Head:
        """Draws the measures of a head."""

        def sometimes(chance: float, low: float, high: float) -> float:
            value = rng.uniform(low, high)
            return float(value) if rng.random() < chance else 0.0

        uniform = rng.uniform
        is_child, is_wide, is_swollen, is_opened = chances.draw(
            rng, "child", "hydrocephalus", "swelling", "craniotomy"
        )
        offset = float(np.clip(rng.normal(0, 3), -6, 6))
        contrast = rng.random() < 0.15
        atrophy = float(rng.beta(1.3, 1.8))
        side = float(rng.choice([-1.0, 1.0]))
        half_width, half_length, height = uniform(66, 76), uniform(83, 94), uniform(80, 90)
        head = cls(
            scale=1.0,
            half_width=half_width,
            half_length=half_length,
            height=height,
            harmonics=(uniform(0.01, 0.06), uniform(-0.015, 0.015), uniform(-0.01, 0.02)),
            skull=uniform(5, 8.5),
            bone=uniform(950, 1550),
            scalp=uniform(4, 9),
            atrophy=atrophy,
            ventricles=0.9 + 0.7 * atrophy + uniform(-0.1, 0.2) + sometimes(0.12, 0.3, 0.7),
            white=28 + offset + uniform(-2, 1.5),
            gray=37.5 + offset + uniform(-1.5, 2) + 3 * contrast,
            fluid=8 + 0.5 * offset + uniform(-3, 3),
            venous=uniform(120, 190) if contrast else uniform(46, 72) + offset,
            arterial=uniform(140, 260) if contrast else uniform(42, 58) + offset,
            falx=uniform(46, 66) + offset + 25 * contrast,
            falx_width=uniform(0.6, 1.5),
            calcified=(
                sometimes(0.6, 1.5, 4),
                sometimes(0.6, 2, 5),
                sometimes(0.25, 2.5, 6),
                sometimes(0.25, 1, 2.2),
            ),
            calcium=uniform(75, 350),
            swellings=tuple(
                (
                    uniform(0, 2 * np.pi),
                    uniform(45, 115),
                    uniform(28, 60),
                    sometimes(0.65, 7, 17),
                    uniform(52, 82),
                )
                for _ in range(2)
            ),
            muscle=uniform(48, 64),
            infarct=(side * uniform(25, 45), uniform(-40, 50), uniform(55, 105), sometimes(0.15, 10, 22)),
            hygroma=(uniform(-0.5, 0.5) + (0 if rng.random() < 0.5 else np.pi), sometimes(0.14, 4, 11)),
            filling=sometimes(0.4, 3000, 9000),
            opening=None,
            devices=Devices.sample(rng, chances, half_width, half_length),
            hardening=uniform(2, 7),
            streaks=uniform(3, 16),
            fields=Fields.sample(rng, FIELD_LENGTHS, 11),
        )
        return _vary(rng, head, is_child, is_wide, is_swollen, is_opened)

    def on_skull(self, angle: float, z: float) -> Point:
        """Returns the point of the inner table at an angle in radians and a height in mm."""
        width, length = self.half_width - self.skull, self.half_length - self.skull
        radius = 1 / np.hypot(np.cos(angle) / width, np.sin(angle) / length)
        radius *= max(0.0, 1 - ((z - CENTER_Z) / (self.height - self.skull)) ** 2) ** 0.5
        return float(radius * np.cos(angle)), float(radius * np.sin(angle)), z


def _vary(
    rng: np.random.Generator, head: Head, is_child: bool, is_wide: bool, is_swollen: bool, is_opened: bool
) -> Head:
    """Makes a head a child's, one with hydrocephalus, a swollen brain or an opened skull."""
    uniform = rng.uniform
    scale, wide = float(uniform(0.68, 0.94)), float(uniform(2.0, 3.6))
    place = head.on_skull(float(rng.choice([0.0, np.pi]) + uniform(-0.8, 0.8)), float(uniform(65, 100)))
    opening = Opening(place, float(uniform(18, 42)), bool(rng.random() < 0.67))
    if is_child:
        soft = Opening((0.0, -12.0, CENTER_Z + head.height - 6), 15.0, is_closed=False)
        head = replace(
            head,
            scale=scale,
            skull=0.55 * head.skull,
            bone=0.75 * head.bone,
            scalp=0.8 * head.scalp,
            atrophy=0.2 * head.atrophy,
            ventricles=0.9,
            white=head.white - 3,
            calcified=(0.0, 0.0, 0.0, 0.0),
            filling=0.0,
            opening=soft if scale < 0.76 else None,
        )
    if is_wide:
        head = replace(head, ventricles=wide, atrophy=0.3 * head.atrophy)
    if is_swollen:
        head = replace(head, ventricles=0.5, atrophy=0.0, gray=head.gray - 6, white=head.white - 2)
    return replace(head, opening=opening) if is_opened else head
