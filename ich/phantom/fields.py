"""Smooth random fields on points given in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ich.phantom.shapes import Array, Points

FIELD_STEP = 2.7
"""mm between the points at which fields are computed; between them they are interpolated."""


@dataclass(frozen=True)
class Fields:
    """Smooth random fields in the head: sums of plane waves, mean 0, deviation 1.

    Attributes:
        waves: (F, 3, N) wave vectors of each field, radians a mm; N is 8 to 15.
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
        x, y, z = (np.ascontiguousarray(a[::step, ::step]) for a in (points.x, points.y, points.z))
        fields: list[Array] = []
        # Not as a matrix product: for three coordinates BLAS would start threads that mostly wait.
        for vectors, phases in zip(self.waves, self.phases, strict=True):
            waves = [
                np.cos(x * a + y * b + z * c + phase)
                for (a, b, c), phase in zip(vectors.T, phases, strict=True)
            ]
            field = _sum(waves) * np.float32(np.sqrt(2 / len(phases)))
            fields.append(np.asarray(cv2.resize(field, (width, height)), dtype=np.float32))
        return fields


def _sum(waves: list[Array]) -> Array:
    """Adds eight waves or more in the order in which ``np.sum`` adds neighbors in memory.

    The order decides how float32 rounds. Adding whole arrays is several times as fast.
    """
    a, b, c, d, e, f, g, h, *rest = waves
    total: Array = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for wave in rest:
        total += wave
    return total
