"""Soft-edged shapes and smooth random fields, on points given in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Of float32 throughout: a NumPy float64 scalar would double the work of all that follows."""

Point = tuple[float, float, float]


FAR = np.float32(-50.0)
"""Depth in mm that stands for all that lies further away from a shape than ``REACH``."""

REACH = 16.0
"""mm beyond a shape within which its depth is computed; no caller asks for more."""


@dataclass(frozen=True)
class Span:
    """Between which coordinates the rows and columns of a plane lie, mm; it spares work far from a shape.

    Attributes:
        columns: (2, W) least and greatest x of every column, growing.
        rows: (2, 2, H) least and greatest y, growing, then z, of every row.
    """

    columns: Array
    rows: Array

    def block(self, low: Point, high: Point, *, mirrored: bool = False) -> tuple[slice, slice]:
        """Returns the rows and columns that may meet a box widened by ``REACH``."""
        left = -high[0] if mirrored else low[0]
        across = _between(self.columns, left - REACH, high[0] + REACH)
        down = _between(self.rows[0], low[1] - REACH, high[1] + REACH)
        least, most = self.rows[1]
        ends = (down.start, max(down.start, down.stop - 1))
        if down.start < down.stop and (
            min(least[i] for i in ends) > high[2] + REACH or max(most[i] for i in ends) < low[2] - REACH
        ):
            down = slice(0, 0)
        return down, across


def _between(bounds: Array, low: float, high: float) -> slice:
    """Returns which of the growing intervals ``bounds`` (2, N) meet the one from ``low`` to ``high``."""
    start, stop = int(bounds[1].searchsorted(low)), int(bounds[0].searchsorted(high))
    return slice(min(start, bounds.shape[1] - 1), stop)


@dataclass(frozen=True)
class Points:
    """The pixels of a plane in head coordinates.

    Attributes:
        x: (H, W) mm to the patient's left, 0 in the midline.
        y: (H, W) mm to the back.
        z: (H, W) mm upwards, 0 at the foramen magnum.
        edge: Width in mm over which an edge goes from outside to inside: a pixel.
        span: Where the rows and columns lie.
        folded: Both halves of the head lie on the left one.
    """

    x: Array
    y: Array
    z: Array
    edge: float
    span: Span
    folded: bool = False

    @classmethod
    def on_plane(
        cls, corner: NDArray[np.float64], row: NDArray[np.float64], column: NDArray[np.float64], size: int
    ) -> Points:
        """Returns the points ``corner + i * column + j * row`` for i, j below ``size``, all in mm."""
        steps = np.arange(size, dtype=np.float32)
        x, y, z = (
            np.float32(corner[i]) + steps * np.float32(row[i]) + steps[:, None] * np.float32(column[i])
            for i in range(3)
        )
        # A plane is straight: the ends of a row or column are its extremes.
        columns = np.sort(x[[0, -1], :], axis=0)
        rows = np.stack([np.sort(a[:, [0, -1]].T, axis=0) for a in (y, z)])
        return cls(x, y, z, float(np.linalg.norm(row)), Span(columns, rows))

    def crop(self, block: tuple[slice, slice]) -> Points:
        """Returns the points in a block of rows and columns."""
        down, across = block
        span = Span(self.span.columns[:, across], self.span.rows[:, :, down])
        return replace(self, x=self.x[block], y=self.y[block], z=self.z[block], span=span)

    def moved(self, dx: Array | float, dy: Array | float, dz: Array | float) -> Points:
        """Returns the points shifted by so many mm, which is less than ``REACH``."""
        return replace(self, x=self.x + dx, y=self.y + dy, z=self.z + dz)

    def scaled(self, x: float, y: float) -> Points:
        """Returns the points stretched to the sides and to front and back."""
        rows = self.span.rows * np.array([y, 1], dtype=np.float32)[:, None, None]
        span = Span(self.span.columns * np.float32(x), rows)
        return replace(self, x=self.x * np.float32(x), y=self.y * np.float32(y), span=span)

    def mirrored(self) -> Points:
        """Returns the points with both halves laid on the left one, for paired structures."""
        return replace(self, x=np.abs(self.x), folded=True)

    @property
    def lowest(self) -> float:
        """The least z in mm."""
        return float(self.span.rows[1].min())

    def inside(self, depth: Array) -> Array:
        """Returns how much of each pixel is inside, 0 to 1, from the depth below a surface in mm."""
        cover: Array = depth * np.float32(1 / self.edge)
        cover += np.float32(0.5)
        np.clip(cover, 0, 1, out=cover)
        return cover

    def distance(self, to: Point) -> Array:
        """Returns the distance to a point in mm."""
        dx, dy, dz = self.x - np.float32(to[0]), self.y - np.float32(to[1]), self.z - np.float32(to[2])
        return np.asarray(np.sqrt(dx * dx + dy * dy + dz * dz))

    def capsule(self, start: Point, end: Point, radii: tuple[float, float]) -> Array:
        """Returns the depth in mm below the surface of a rod whose radius goes from one to the other."""
        widest = max(radii)
        low, high = _box(start, end, (widest,) * 3)
        block = self.span.block(low, high, mirrored=self.folded)
        ax, ay, az = (np.float32(b - a) for a, b in zip(start, end, strict=True))
        dx, dy, dz = self._from(start, block)
        h = np.clip((dx * ax + dy * ay + dz * az) / (ax * ax + ay * ay + az * az), 0, 1)
        dx -= h * ax
        dy -= h * ay
        dz -= h * az
        near = np.float32(radii[0]) + h * np.float32(radii[1] - radii[0])
        near -= np.sqrt(dx * dx + dy * dy + dz * dz)
        return self._fill(near, block)

    def ellipsoid(self, center: Point, radii: Point) -> Array:
        """Returns the depth in mm below the surface of an ellipsoid, exact along its least radius."""
        low, high = _box(center, center, radii)
        block = self.span.block(low, high, mirrored=self.folded)
        dx, dy, dz = self._from(center, block)
        dx *= np.float32(1 / radii[0])
        dy *= np.float32(1 / radii[1])
        dz *= np.float32(1 / radii[2])
        return self._fill((1 - np.sqrt(dx * dx + dy * dy + dz * dz)) * np.float32(min(radii)), block)

    def _from(self, start: Point, block: tuple[slice, slice]) -> tuple[Array, Array, Array]:
        x, y, z = (a[block] - np.float32(v) for a, v in zip((self.x, self.y, self.z), start, strict=True))
        return x, y, z

    def _fill(self, near: Array, block: tuple[slice, slice]) -> Array:
        depth = np.full_like(self.x, FAR)
        depth[block] = near
        return depth


def _box(start: Point, end: Point, radii: Point) -> tuple[Point, Point]:
    """Returns the corners of the box around a shape."""
    low = [min(a, b) - r for a, b, r in zip(start, end, radii, strict=True)]
    high = [max(a, b) + r for a, b, r in zip(start, end, radii, strict=True)]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def paint(hu: Array, cover: Array, value: Array | float) -> None:
    """Lays a material over the plane, in place: ``cover`` 0 to 1 is the share of it in each pixel."""
    hu += cover * (value - hu)


def union(depths: Sequence[Array]) -> Array:
    """Returns the depth below the surface of shapes that have grown together."""
    out = depths[0]
    for depth in depths[1:]:
        out = np.maximum(out, depth)
    return out


def bump(u: Array) -> Array:
    """Returns a smooth hill: 1 at 0, falling to 0 at 1 and beyond."""
    rest = np.clip(1 - u * u, 0, None)
    return rest * rest


FIELD_STEP = 2.7
"""mm between the points at which fields are computed; between them they are interpolated."""


@dataclass(frozen=True)
class Fields:
    """Smooth random fields in the head: sums of plane waves, mean 0, deviation 1.

    Attributes:
        waves: (3, N) wave vectors, radians a mm.
        phases: (N,) radians.
        mix: (N, F) how much of each wave goes into each field.
    """

    waves: Array
    phases: Array
    mix: Array

    @classmethod
    def sample(cls, rng: np.random.Generator, lengths: Sequence[tuple[float, float]], waves: int) -> Fields:
        """Draws fields.

        Args:
            rng: Source of randomness.
            lengths: For each field its shortest and longest wave in mm.
            waves: Number of waves a field.

        Returns:
            As many fields as ``lengths``.
        """
        count = len(lengths)
        direction = rng.standard_normal((3, count * waves))
        # The slices are thick: detail that runs along the axis survives, detail across it would average out.
        direction[2] *= 0.6
        direction /= np.linalg.norm(direction, axis=0)
        length = np.concatenate([rng.uniform(low, high, waves) for low, high in lengths])
        mix = np.kron(np.eye(count), np.full((waves, 1), np.sqrt(2 / waves)))
        phases = rng.uniform(0, 2 * np.pi, count * waves)
        return cls(*(a.astype(np.float32) for a in (direction * (2 * np.pi / length), phases, mix)))

    def at(self, points: Points) -> list[Array]:
        """Returns the fields on a plane, each (H, W)."""
        height, width = points.x.shape
        step = max(1, round(FIELD_STEP / points.edge))
        coarse = [a[::step, ::step] for a in (points.x, points.y, points.z)]
        flat = np.stack([a.ravel() for a in coarse], axis=1)  # (P, 3)
        values = np.cos(flat @ self.waves + self.phases) @ self.mix  # (P, F)
        return [
            np.asarray(
                cv2.resize(np.ascontiguousarray(field).reshape(coarse[0].shape), (width, height)), np.float32
            )
            for field in values.T
        ]
