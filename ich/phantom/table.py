"""What lies around the head in the scanner: head holder, table, pads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ich.phantom.shapes import Array, bump, paint


@dataclass(frozen=True)
class Pad:
    """A gel pad or wet dressing at the head, as dense as blood; lengths in mm, angles in radians."""

    angle: float
    width: float
    depth: float  # 0 for none
    hu: float
    z: float
    extent: float


@dataclass(frozen=True)
class Table:
    """What a head lies on; lengths in mm.

    Attributes:
        radius: Radius of the head holder, a shell around the back of the head.
        thickness: Thickness of its wall; 0 where the head lies on the table itself.
        hu: HU of its wall.
        rise: How high its rims stand above the middle of the field, negative for above.
        board: Height of the table's surface below the middle of the field; beyond the field for none.
        curve: Radius of the table's surface.
        pad: At the head.
    """

    radius: float
    thickness: float
    hu: float
    rise: float
    board: float
    curve: float
    pad: Pad

    @classmethod
    def sample(cls, rng: np.random.Generator, scale: float) -> Table:
        """Draws what lies around a head of a size.

        Args:
            rng: Source of randomness.
            scale: Scale of the head: 1 for an adult.
        """
        is_held = rng.random() < 0.8
        return cls(
            radius=scale * rng.uniform(95, 112),
            thickness=rng.uniform(2, 5) if is_held else 0.0,
            hu=rng.uniform(-150, 250),
            rise=scale * rng.uniform(-15, 45),
            board=scale * rng.uniform(108, 114) if not is_held or rng.random() < 0.15 else 999.0,
            curve=rng.uniform(250, 700),
            pad=Pad(
                angle=float(rng.normal(np.pi / 2, 0.5)),
                width=rng.uniform(0.5, 1.3),
                depth=scale * rng.uniform(10, 30) if rng.random() < 0.85 else 0.0,
                hu=rng.uniform(50, 84),
                z=rng.uniform(20, 120),
                extent=rng.uniform(40, 100),
            ),
        )


def paint_table(table: Table, hu: Array, spacing: float, z: float) -> None:
    """Paints what lies around the head where there is air, in place.

    Args:
        table: The table and the head holder.
        hu: (H, W) of a slice.
        spacing: mm between pixels.
        z: mm, height of the slice.
    """
    half = 0.5 * (len(hu) - 1) * spacing
    axis = np.linspace(-half, half, len(hu), dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    r = np.sqrt(x * x + (y * np.float32(0.93)) ** 2)
    air = np.clip((-300 - hu) / 500, 0, 1)
    pad = table.pad
    depth = pad.depth * max(0.0, 1 - ((z - pad.z) / pad.extent) ** 2) ** 2
    if depth > 0:
        along = x * np.float32(np.cos(pad.angle)) + y * np.float32(np.sin(pad.angle))
        turn = np.arccos(np.clip(along / (r + 1), -1, 1)) / pad.width
        inner = table.radius - 2 - depth * bump(turn) * (1 + 0.1 * np.sin(turn * 9 + pad.z))
        gel = np.clip((r - inner) / spacing + 0.5, 0, 1) * (r < table.radius - 2) * (turn < 1)
        paint(hu, air * gel, pad.hu)
    if table.thickness:
        wall = np.clip((table.thickness / 2 - np.abs(r - table.radius)) / spacing + 0.5, 0, 1)
        paint(hu, air * wall * (y > table.rise), table.hu)
    if table.board < half:
        below = y - np.float32(table.board) + x * x / np.float32(2 * table.curve)
        foam = np.clip(below / spacing + 0.5, 0, 1)
        paint(hu, air * foam, -930)
        paint(hu, air * np.clip((1.5 - np.abs(below - 1.5)) / spacing + 0.5, 0, 1), table.hu)
