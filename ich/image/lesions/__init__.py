"""Hemorrhages painted into healthy slices: an augmentation that also changes the targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ich.files import hash_file
from ich.image.lesions.bank import read_bank
from ich.image.lesions.head import Field, Head, find_head
from ich.image.lesions.subtypes import SUBTYPE_PAINTERS, paint_calcification
from ich.schema import SUBTYPES, UserError

__all__ = ["Lesions"]

SECOND = 0.3
"""Probability that a second subtype is painted. The RSNA's positive slices have 1.4 subtypes on average."""

VISIBLE = (8.0, 50.0)
"""A lesion changes the central slice by this many HU over this many mm²; otherwise it is not kept."""

_STREAM = 0x1E510  # keeps the draws apart from those of the other augmentation, which has the same keys
_INT16 = np.iinfo(np.int16)


class Lesions:
    """Paints hemorrhages into healthy slices, and calcifications, which are not hemorrhages, into any slice.

    A lesion has the place, the shape and the HU of its subtype. It continues in the neighbors, smaller with
    their distance. Where the brain has no place for it, another subtype is tried. Slices without brain stay
    as they are.

    Args:
        probability: Probability that a healthy slice gets a hemorrhage.
        subtypes: Subtypes to paint, each equally often.
        calcifications: Probability that a slice gets a calcification, which changes no target.
        bank: File of generated lesions, from ``ich generate``. They replace the drawn ones of their subtypes.
        bank_sha256: SHA-256 that this file must have, if given. A run writes it down when it starts.

    Raises:
        UserError: If a probability is out of range, a subtype is unknown, or the file cannot be used.
    """

    def __init__(
        self,
        *,
        probability: float = 0.2,
        subtypes: Sequence[str] = SUBTYPES,
        calcifications: float = 0.1,
        bank: str | None = None,
        bank_sha256: str | None = None,
    ) -> None:
        for name, value in (("probability", probability), ("calcifications", calcifications)):
            if not 0 <= value <= 1:
                raise UserError(f"lesions.{name}={value}: expected a number between 0 and 1")
        if not subtypes or isinstance(subtypes, str) or not set(subtypes) <= set(SUBTYPES):
            raise UserError(f"lesions.subtypes={subtypes}: expected a list of {', '.join(SUBTYPES)}")
        self.probability, self.calcifications = probability, calcifications
        self.subtypes = tuple(subtypes)
        self._painters = dict(SUBTYPE_PAINTERS)
        if bank is not None:
            generated = read_bank(Path(bank))
            if bank_sha256 is not None and (found := hash_file(bank)) != bank_sha256:
                raise UserError(
                    f"lesions.bank={bank} has the SHA-256 {found}; lesions.bank_sha256={bank_sha256}. A run "
                    "resumes with the lesions that it began with: put that file back, or start a new run"
                )
            self._painters |= {name: partial(generated.paint, name) for name in generated.images}

    def __call__(
        self,
        hu: NDArray[np.int16],
        key: tuple[int, ...],
        mm: float,
        z: NDArray[np.floating[Any]],
        healthy: bool,
    ) -> tuple[str, ...]:
        """Paints into a slice and its neighbors, in place.

        Args:
            hu: (D, S, S) Hounsfield units, contiguous.
            key: Non-negative numbers, such as seed, epoch, row and repeat. The same key gives the same
                lesions.
            mm: Side of a pixel; NaN if unknown, which leaves the slices as they are.
            z: (D,) position of each slice in mm; of NaN the same holds.
            healthy: Whether the slice and its neighbors show no hemorrhage.

        Returns:
            The subtypes that the slice now shows; none if nothing was painted but calcifications.
        """
        rng = np.random.default_rng((*key, _STREAM))
        bleeds, calcified = rng.random(2) < (self.probability * healthy, self.calcifications)
        if not (bleeds or calcified) or not (np.isfinite(mm) and np.isfinite(z).all()):
            return ()
        head = find_head(hu, mm, z)
        if head is None:
            return ()
        before = head.hu
        if calcified and (painted := paint_calcification(head, rng)) is not None:
            head = head._replace(hu=painted)
        names: tuple[str, ...] = ()
        if bleeds:
            head, names = self._paint(head, rng)
        if head.hu is not before:
            hu[:, *head.window] = np.rint(head.hu.clip(_INT16.min, _INT16.max))
        return names

    def _paint(self, head: Head, rng: np.random.Generator) -> tuple[Head, tuple[str, ...]]:
        """Paints one subtype, sometimes two: the first in a random order for which the brain has a place."""
        wanted = 1 + int(rng.random() < SECOND)
        names: list[str] = []
        for name in rng.permutation(self.subtypes):
            painted = self._painters[name](head, rng)
            if painted is not None and _is_visible(head, painted):
                head = head._replace(hu=painted)
                names.append(str(name))
            if len(names) == wanted:
                break
        return head, tuple(names)


def _is_visible(head: Head, painted: Field) -> bool:
    least, area = VISIBLE
    changed = np.abs(painted[head.center] - head.hu[head.center]) >= least
    return int(np.count_nonzero(changed)) * head.mm**2 >= area
