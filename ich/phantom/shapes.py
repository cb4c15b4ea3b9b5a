"""Soft-edged shapes on points given in mm."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""An array of float32. One NumPy float64 scalar would double the work of all that follows."""

Point = tuple[float, float, float]


FAR = np.float32(-50.0)
"""Depth in mm that stands for all that lies further away from a shape than ``REACH``."""

REACH = 16.0
"""mm beyond a shape within which its depth is computed; no caller asks for more."""


Block = tuple[slice, slice]
"""Rows and columns of a plane."""

NOWHERE: Block = (slice(0, 0), slice(0, 0))


class Span:
    """The coordinates between which the rows and columns of a plane lie, mm; saves work far from a shape.

    Args:
        columns: (2, W) least and greatest x of every column, growing.
        rows: (2, 2, H) least and greatest y, growing, then z, of every row.
    """

    def __init__(self, columns: Array, rows: Array) -> None:
        self.columns, self.rows = columns, rows
        self.lowest, self.highest = float(rows[1].min()), float(rows[1].max())
        # A shape looks up a few of many numbers: in lists this is several times as fast as in arrays.
        self._columns: list[list[float]] = columns.tolist()
        self._rows: list[list[list[float]]] = rows.tolist()

    def block(self, low: Point, high: Point, *, mirrored: bool = False) -> Block:
        """Returns the rows and columns that may meet a box widened by ``REACH``."""
        bottom, top = low[2] - REACH, high[2] + REACH
        if self.lowest > top or self.highest < bottom:
            return NOWHERE
        left = -high[0] if mirrored else low[0]
        across = _between(self._columns, left - REACH, high[0] + REACH)
        y, (least, most) = self._rows
        down = _between(y, low[1] - REACH, high[1] + REACH)
        first, last = down.start, down.stop - 1
        if first > last or across.start >= across.stop:
            return NOWHERE
        if min(least[first], least[last]) > top or max(most[first], most[last]) < bottom:
            return NOWHERE
        return down, across


def _between(bounds: list[list[float]], low: float, high: float) -> slice:
    """Returns which of the growing intervals from ``bounds[0]`` to ``bounds[1]`` meet another interval."""
    start, stop = bisect_left(bounds[1], low), bisect_left(bounds[0], high)
    return slice(min(start, len(bounds[1]) - 1), stop)


class Near(NamedTuple):
    """A shape where it is near: the rows and columns, and in them the depth below its surface in mm."""

    block: Block
    depth: Array


AWAY = Near(NOWHERE, np.empty((0, 0), dtype=np.float32))
"""A shape that a plane does not meet."""


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
        window: Which of the span's rows and columns these are; None for all.
    """

    x: Array
    y: Array
    z: Array
    edge: float
    span: Span
    folded: bool = False
    window: Block | None = None

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

    def crop(self, block: Block) -> Points:
        """Returns the points in a block of rows and columns."""
        down, across = block
        span = Span(self.span.columns[:, across], self.span.rows[:, :, down])
        return replace(self, x=self.x[block], y=self.y[block], z=self.z[block], span=span)

    def view(self, window: Block) -> Points:
        """Returns the points in a block; unlike after ``crop``, shapes are as they are in the whole plane."""
        return replace(self, x=self.x[window], y=self.y[window], z=self.z[window], window=window)

    def moved(self, dx: Array | float, dy: Array | float, dz: Array | float) -> Points:
        """Returns the points shifted by so many mm, which is less than ``REACH``."""
        return replace(self, x=self.x + dx, y=self.y + dy, z=self.z + dz)

    def scaled(self, x: float, y: float) -> Points:
        """Returns the points stretched to the sides and to front and back."""
        rows = self.span.rows * np.array([y, 1], dtype=np.float32)[:, None, None]
        span = Span(self.span.columns * np.float32(x), rows)
        return replace(self, x=self.x * np.float32(x), y=self.y * np.float32(y), span=span)

    @cached_property
    def mirrored(self) -> Points:
        """The points with both halves laid on the left one, for paired structures."""
        return replace(self, x=np.abs(self.x), folded=True)

    @property
    def lowest(self) -> float:
        """The least z in mm."""
        return self.span.lowest

    def inside(self, depth: Array) -> Array:
        """Returns how much of each pixel is inside, 0 to 1, from the depth below a surface in mm."""
        cover: Array = depth * np.float32(1 / self.edge)
        cover += np.float32(0.5)
        np.clip(cover, 0, 1, out=cover)
        return cover

    def distance(self, to: Point) -> Array:
        """Returns the distance to a point in mm."""
        return _measure_length(*self._from(to, (slice(None), slice(None))))

    def capsule(self, start: Point, end: Point, radii: tuple[float, float]) -> Near:
        """Returns a rod whose radius goes from one to the other."""
        widest = max(radii)
        low, high = _box(start, end, (widest,) * 3)
        block = self._meet(low, high)
        if block is NOWHERE:
            return AWAY
        ax, ay, az = (np.float32(b - a) for a, b in zip(start, end, strict=True))
        dx, dy, dz = self._from(start, block)
        h = np.clip((dx * ax + dy * ay + dz * az) / (ax * ax + ay * ay + az * az), 0, 1)
        dx -= h * ax
        dy -= h * ay
        dz -= h * az
        near = np.float32(radii[0]) + h * np.float32(radii[1] - radii[0])
        near -= _measure_length(dx, dy, dz)
        return Near(block, near)

    def ellipsoid(self, center: Point, radii: Point) -> Near:
        """Returns an ellipsoid; its depth is exact along the least radius."""
        low, high = _box(center, center, radii)
        block = self._meet(low, high)
        if block is NOWHERE:
            return AWAY
        dx, dy, dz = self._from(center, block)
        dx *= np.float32(1 / radii[0])
        dy *= np.float32(1 / radii[1])
        dz *= np.float32(1 / radii[2])
        near = 1 - _measure_length(dx, dy, dz)
        near *= np.float32(min(radii))
        return Near(block, near)

    def _meet(self, low: Point, high: Point) -> Block:
        """Returns the rows and columns in which a shape is drawn that lies in a box."""
        block = self.span.block(low, high, mirrored=self.folded)
        return block if self.window is None else _cut(block, self.window)

    def _from(self, start: Point, block: Block) -> tuple[Array, Array, Array]:
        x, y, z = (a[block] - np.float32(v) for a, v in zip((self.x, self.y, self.z), start, strict=True))
        return x, y, z

    def depth(self, *shapes: Near) -> Array:
        """Returns the depth in mm below the surface of shapes that have grown together, (H, W)."""
        depth = np.full_like(self.x, FAR)
        for block, near in shapes:
            np.maximum(depth[block], near, out=depth[block])
        return depth

    def lay(
        self,
        hu: Array,
        shape: Near,
        value: Array | float,
        *,
        grow: Array | float = 0.0,
        share: Array | NDArray[np.bool_] | float = 1.0,
    ) -> None:
        """Paints a shape, in place.

        Args:
            hu: (H, W) of the plane.
            shape: Shape to paint.
            value: HU of it; one, or (H, W).
            grow: mm that its surface is moved outwards; one, or (H, W).
            share: Share of each pixel that the shape fills; one number, or (H, W).
        """
        block = shape.block
        if block is not NOWHERE:
            cover = self.inside(shape.depth + _part(grow, block)) * _part(share, block)
            paint(hu[block], cover, _part(value, block))


def join(*shapes: Near) -> Near:
    """Returns shapes that have grown together as one."""
    blocks = [shape.block for shape in shapes if shape.block is not NOWHERE]
    if not blocks:
        return AWAY
    if len(blocks) == 1:
        return next(shape for shape in shapes if shape.block is not NOWHERE)
    (top, bottom), (left, right) = (
        (min(block[i].start for block in blocks), max(block[i].stop for block in blocks)) for i in (0, 1)
    )
    depth = np.full((bottom - top, right - left), FAR)
    for (down, across), near in shapes:
        if near.size:
            part = depth[down.start - top : down.stop - top, across.start - left : across.stop - left]
            np.maximum(part, near, out=part)
    return Near((slice(top, bottom), slice(left, right)), depth)


def _part(values: Any, block: Block) -> Any:
    return values[block] if isinstance(values, np.ndarray) else values


def _measure_length(x: Array, y: Array, z: Array) -> Array:
    """Returns the length of vectors, and overwrites them."""
    x *= x
    y *= y
    z *= z
    x += y
    x += z
    return np.sqrt(x, out=x)


def _cut(block: Block, window: Block) -> Block:
    """Returns the part of a block that lies in a window, counted from the window's corner."""
    if block is NOWHERE:
        return NOWHERE
    down, across = (
        slice(max(part.start - whole.start, 0), min(part.stop, whole.stop) - whole.start)
        for part, whole in zip(block, window, strict=True)
    )
    return NOWHERE if down.start >= down.stop or across.start >= across.stop else (down, across)


def find_block(cover: Array) -> Block:
    """Returns the rows and columns that contain everything covered."""
    down, across = (np.flatnonzero(cover.any(axis=axis)) for axis in (1, 0))
    if not down.size:
        return NOWHERE
    return slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1)


@lru_cache(maxsize=1024)  # every plane of a study asks for the same ones
def _box(start: Point, end: Point, radii: Point) -> tuple[Point, Point]:
    """Returns the corners of the box around a shape."""
    low = [min(a, b) - r for a, b, r in zip(start, end, radii, strict=True)]
    high = [max(a, b) + r for a, b, r in zip(start, end, radii, strict=True)]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def paint(hu: Array, cover: Array, value: Array | float) -> None:
    """Lays a material over the plane, in place: ``cover`` 0 to 1 is the share of it in each pixel."""
    change = value - hu
    change *= cover
    hu += change


def bump(u: Array) -> Array:
    """Returns a smooth hill: 1 at 0, falling to 0 at 1 and beyond."""
    rest = np.clip(1 - u * u, 0, None)
    return rest * rest
