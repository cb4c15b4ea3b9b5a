"""How often the phantom's heads and scans have rare features of real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from ich.schema import UserError


@dataclass(frozen=True)
class Chances:
    """Probabilities from 0 to 1: of a head up to ``wrap``, of a scan from ``fine_base`` on.

    Attributes:
        child: A child, from an infant with open fontanelles on.
        hydrocephalus: Ventricles two to four times as wide as usual.
        swelling: A swollen brain: no sulci, narrow ventricles, gray and white matter alike.
        craniotomy: A skull that was opened; in two of three the bone was put back with plates.
        clip: An aneurysm clip, with streaks.
        coil: Coils in an aneurysm, with streaks.
        drain: A catheter in a ventricle.
        tube: A tube through the mouth to the airway, and a thin one through the nose.
        wrap: A bandage, with something hard or of metal in it.
        fine_base: Steps half as wide below as above.
        coarse_top: Steps of 10 mm in the upper half, as in older protocols.
        short_step: One or two steps of 0.98 to 3.75 mm among the others.
        rescan: Some slices once more at the same positions.
    """

    child: float = 0.08
    hydrocephalus: float = 0.05
    swelling: float = 0.05
    craniotomy: float = 0.08
    clip: float = 0.06
    coil: float = 0.04
    drain: float = 0.05
    tube: float = 0.12
    wrap: float = 0.06
    fine_base: float = 0.1
    coarse_top: float = 0.08
    short_step: float = 0.12
    rescan: float = 0.04

    @classmethod
    def from_dict(cls, found: Mapping[str, Any] | None) -> Self:
        """Takes probabilities by name; others keep their defaults.

        Raises:
            UserError: If a name is unknown, or a value is not a probability.
        """
        names = [field.name for field in fields(cls)]
        for name, value in (found or {}).items():
            if name not in names:
                raise UserError(f"chances.{name}: the phantom knows {', '.join(names)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise UserError(f"chances.{name}={value}: expected a probability from 0 to 1")
        return cls(**{name: float(value) for name, value in (found or {}).items()})

    def draw(self, rng: np.random.Generator, *names: str) -> list[bool]:
        """Draws which of some things are there; it takes as many random numbers as there are names."""
        return [
            bool(number < getattr(self, name))
            for number, name in zip(rng.random(len(names)), names, strict=True)
        ]
