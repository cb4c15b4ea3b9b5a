"""Soft-edged shapes and smooth random fields, on points given in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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


class Near(NamedTuple):
    """A shape where it is near: the rows and columns, and in them the depth below its surface in mm."""

    block: tuple[slice, slice]
    depth: Array


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

    def capsule(self, start: Point, end: Point, radii: tuple[float, float]) -> Near:
        """Returns a rod whose radius goes from one to the other."""
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
        return Near(block, near)

    def ellipsoid(self, center: Point, radii: Point) -> Near:
        """Returns an ellipsoid; its depth is exact along the least radius."""
        low, high = _box(center, center, radii)
        block = self.span.block(low, high, mirrored=self.folded)
        dx, dy, dz = self._from(center, block)
        dx *= np.float32(1 / radii[0])
        dy *= np.float32(1 / radii[1])
        dz *= np.float32(1 / radii[2])
        return Near(block, (1 - np.sqrt(dx * dx + dy * dy + dz * dz)) * np.float32(min(radii)))

    def _from(self, start: Point, block: tuple[slice, slice]) -> tuple[Array, Array, Array]:
        x, y, z = (a[block] - np.float32(v) for a, v in zip((self.x, self.y, self.z), start, strict=True))
        return x, y, z

    def depth(self, *shapes: Near) -> Array:
        """Returns the depth in mm below the surface of shapes that have grown together, (H, W)."""
        depth = np.full_like(self.x, FAR)
        for block, near in shapes:
            np.maximum(depth[block], near, out=depth[block])
        return depth


def _box(start: Point, end: Point, radii: Point) -> tuple[Point, Point]:
    """Returns the corners of the box around a shape."""
    low = [min(a, b) - r for a, b, r in zip(start, end, radii, strict=True)]
    high = [max(a, b) + r for a, b, r in zip(start, end, radii, strict=True)]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def paint(hu: Array, cover: Array, value: Array | float) -> None:
    """Lays a material over the plane, in place: ``cover`` 0 to 1 is the share of it in each pixel."""
    hu += cover * (value - hu)


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
        waves: (F, 3, N) wave vectors of each field, radians a mm.
        phases: (F, N) radians.
    """

    waves: Array
    phases: Array

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
        direction = rng.standard_normal((len(lengths), 3, waves))
        # The slices are thick: detail that runs along the axis survives, detail across it would average out.
        direction[:, 2] *= 0.6
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        length = np.stack([rng.uniform(low, high, waves) for low, high in lengths])
        phases = rng.uniform(0, 2 * np.pi, length.shape)
        vectors = direction * (2 * np.pi / length[:, None])
        return cls(vectors.astype(np.float32), phases.astype(np.float32))

    def at(self, points: Points) -> list[Array]:
        """Returns the fields on a plane, each (H, W)."""
        height, width = points.x.shape
        step = max(1, round(FIELD_STEP / points.edge))
        x, y, z = (a[::step, ::step, None] for a in (points.x, points.y, points.z))
        fields: list[Array] = []
        # Not as a matrix product: for three coordinates BLAS would start threads that mostly wait.
        for (a, b, c), phases in zip(self.waves, self.phases, strict=True):
            field = np.cos(x * a + y * b + z * c + phases).sum(axis=2) * np.float32(np.sqrt(2 / len(phases)))
            fields.append(np.asarray(cv2.resize(field, (width, height)), dtype=np.float32))
        return fields
