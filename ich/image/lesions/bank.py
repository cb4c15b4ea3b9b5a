"""A file of generated lesions: patches, and where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ich.files import replacing
from ich.image.lesions.head import Field, Head
from ich.image.lesions.patches import SIZE, STEPS_MM, Patch, paint_patch
from ich.schema import UserError
from ich.schema.formats import (
    STRICT,
    Count,
    NotNegative,
    Ordinal,
    Text,
    parse_fields,
    read_plain,
    to_plain,
)


@dataclass(frozen=True)
class Novelty:
    """How far generated lesions are from those that they were learned from.

    A distance is the root of the mean squared difference to the nearest patch of the training.
    """

    __pydantic_config__ = STRICT

    generated: Count
    """Generated lesions of a plausible size."""
    copies: Count
    """Of these, closer than all but 5 % of the lesions of held-out patients. They are not in the file."""
    distance_generated: NotNegative
    """Median distance of generated lesions."""
    distance_held_out: NotNegative
    """Median distance of the lesions of held-out patients."""


@dataclass(frozen=True)
class BankMetadata:
    """What a file of lesions says of itself. It names no patient."""

    __pydantic_config__ = STRICT

    format: Literal["ich lesions 1"]
    note: Text
    license: Text
    """License of the data that the lesions were learned from."""
    patients: Ordinal
    """Patients in the set that the lesions were learned from."""
    lesions: Ordinal
    """Their slices with a lesion that was learned."""
    novelty: dict[Text, Novelty]
    """By subtype."""


class LesionBank(NamedTuple):
    """Generated lesions.

    Attributes:
        metadata: Where they come from.
        images: For each subtype (N, 2, SIZE, SIZE), as in ``Patch``.
        angles: For each subtype (N,), as in ``Patch``.
    """

    metadata: BankMetadata
    images: dict[str, NDArray[np.float32]]
    angles: dict[str, NDArray[np.float32]]

    def paint(self, subtype: str, head: Head, rng: np.random.Generator) -> Field:
        """Paints one of the lesions of a subtype, (D, H, W) HU."""
        number = int(rng.integers(len(self.angles[subtype])))
        patch = Patch(self.images[subtype][number], float(self.angles[subtype][number]))
        return paint_patch(head, patch, subtype, rng)


def write_bank(bank: LesionBank, path: Path) -> None:
    """Writes lesions to a new file: safetensors, with the metadata as JSON in its header.

    Raises:
        UserError: If the file exists.
    """
    if path.exists():
        raise UserError(f"{path} exists; name a new file, or remove it")
    tensors = {f"{name}.image": images for name, images in bank.images.items()}
    tensors |= {f"{name}.angle": angles for name, angles in bank.angles.items()}
    with replacing(path) as partial:
        safetensors.numpy.save_file(tensors, partial, {"ich": json.dumps(to_plain(bank.metadata))})


def read_bank(path: Path) -> LesionBank:
    """Reads lesions, and checks everything in the file.

    Raises:
        UserError: If it is not such a file, or damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get("ich")
            tensors = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"lesions.bank={path} is not a file from ich generate: {error}") from error
    if text is None:
        raise UserError(f"lesions.bank={path} is not a file from ich generate: it has no metadata")
    metadata = read_plain(BankMetadata, parse_fields(text.encode(), str(path)), str(path))
    expected = {f"{name}.{field}" for name in metadata.novelty for field in ("image", "angle")}
    if tensors.keys() != expected or not metadata.novelty.keys() <= STEPS_MM.keys():
        raise UserError(f"lesions.bank={path} is damaged: it holds {', '.join(sorted(tensors)) or 'nothing'}")
    images = {name: tensors[f"{name}.image"] for name in metadata.novelty}
    angles = {name: tensors[f"{name}.angle"] for name in metadata.novelty}
    for name in metadata.novelty:
        if not _fit(images[name], angles[name]):
            raise UserError(f"lesions.bank={path} is damaged: the lesions of {name} do not fit")
    return LesionBank(metadata, images, angles)


def _fit(images: NDArray[np.float32], angles: NDArray[np.float32]) -> bool:
    """Whether these can be the lesions of a subtype."""
    return (
        images.dtype == angles.dtype == np.float32
        and images.shape == (len(angles), 2, SIZE, SIZE)
        and angles.ndim == 1
        and len(angles) > 0
        and bool(np.isfinite(images).all() and np.isfinite(angles).all())
        and bool((images[:, 0].sum(axis=(1, 2)) > 0).all())
    )
