"""Lesions learned from a data set: cut out, learned by a diffusion model, sampled, and checked for copies."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ich.data import HeadCTDataModule
from ich.data.loader import SliceLoader
from ich.generate.diffusion import LesionDiffusion, train_diffusion
from ich.generate.novelty import measure_novelty
from ich.image.lesions.bank import BankMetadata, LesionBank, Novelty, write_bank
from ich.image.lesions.head import find_head
from ich.image.lesions.patches import SIZE, STEPS_MM, Patch, cut_patch, find_blood
from ich.progress import track, waiting
from ich.schema import DISCLAIMER, UserError
from ich.schema.labels import require_rsna

__all__ = ["generate_lesions"]

log = logging.getLogger("ich")

LEAST = 5
"""Fewest lesions of a subtype to learn from, and fewest new ones for a file."""

_FAINTEST = 0.25  # share of blood; less is what the diffusion left of the noise

Images = NDArray[np.float32]
Patches = dict[str, list[Patch]]


def generate_lesions(
    data: HeadCTDataModule,
    out: Path,
    *,
    license: str,  # noqa: A002 - as files of weights name it
    number: int = 300,
    steps: int = 2000,
    seed: int = 0,
) -> BankMetadata:
    """Learns the lesions of the training set, and writes generated ones to a file for ``Lesions``.

    The validation set is held out. The distance of its lesions from those of the training set says how close
    a generated one may be.

    Args:
        data: A data set with the RSNA's labels, after ``setup``, without ``augment`` and ``lesions``.
        out: New file.
        license: License of the data.
        number: Number of lesions to generate of each subtype.
        steps: Length of the training in batches.
        seed: Random seed.

    Returns:
        The metadata of the file.

    Raises:
        UserError: If the labels are others, there is too little to learn from, or only copies come out.
    """
    require_rsna(data.label_set.names, "ich generate")
    if out.exists():
        raise UserError(f"{out} exists; name a new file, or remove it")
    learned, held_out = _cut_lesions(data, data.train_dataloader()), _cut_lesions(data, data.val_dataloader())
    names = _choose_subtypes(learned, held_out)
    images = {name: _stack(learned[name]) for name in names}
    kinds = torch.arange(len(names)).repeat_interleave(torch.tensor([len(images[name]) for name in names]))
    model = train_diffusion(_to_network(np.concatenate(list(images.values()))), kinds, steps, seed)
    made: dict[str, Images] = {}
    novelty: dict[str, Novelty] = {}
    for kind, name in enumerate(names):
        with waiting(f"Sampling lesions, {name}"):
            sampled = _sample(model, kind, number, seed)
        found = _check_new(sampled, images[name], _stack(held_out[name]), name)
        if found is not None:
            made[name], novelty[name] = found
    if not made:
        raise UserError("nothing new was learned; see the warnings above")
    angles = {name: _draw_angles(learned[name], len(made[name]), seed) for name in made}
    patients = data.part("train")["PatientID"].nunique()
    metadata = BankMetadata("ich lesions 1", DISCLAIMER, license, int(patients), len(kinds), novelty)
    write_bank(LesionBank(metadata, made, angles), out)
    return metadata


def _cut_lesions(data: HeadCTDataModule, loader: SliceLoader) -> Patches:
    """Cuts the lesions out of slices that are labeled with only one subtype."""
    lesions: Patches = defaultdict(list)
    sides = (data.table["row_spacing"] * data.table[["Rows", "Columns"]].max(axis=1)).to_numpy()
    places = {name: data.label_set.index(name) for name in STEPS_MM}
    for batch in track(loader, "Cutting out lesions", len(loader), shown=True):
        batch = data.on_before_batch_transfer(batch, 0)
        for hu, target, row in zip(batch["hu"].numpy(), batch["target"].numpy(), batch["row"], strict=True):
            names = [name for name, place in places.items() if target[place] == 1]
            if len(names) != 1 or target.sum() != 2:  # with ``any``
                continue
            lesion = _cut_lesion(hu[len(hu) // 2], float(sides[row]) / data.input.size, names[0])
            if lesion is not None:
                lesions[names[0]].append(lesion)
    log.info("lesions found: %s", {name: len(lesions[name]) for name in STEPS_MM})
    return lesions


def _cut_lesion(hu: NDArray[np.int16], mm: float, subtype: str) -> Patch | None:
    head = find_head(hu[None], mm, np.zeros(1)) if np.isfinite(mm) else None
    blood = find_blood(head, subtype) if head is not None else None
    return cut_patch(head, blood, subtype) if head is not None and blood is not None else None


def _choose_subtypes(learned: Patches, held_out: Patches) -> list[str]:
    names = [name for name in STEPS_MM if len(learned[name]) >= LEAST and held_out[name]]
    if not names:
        found = ", ".join(f"{len(learned[name])} and {len(held_out[name])} of {name}" for name in STEPS_MM)
        raise UserError(
            f"too few lesions to learn from in the training and the validation set: {found}; expected at "
            f"least {LEAST} and 1 of a subtype, in slices that are labeled with only this one"
        )
    return names


def _check_new(
    sampled: Images, training: Images, held_out: Images, name: str
) -> tuple[Images, Novelty] | None:
    """Leaves out what is larger or smaller than any lesion of the training set, and copies of one.

    Returns:
        The new lesions and how new they are; None if there are too few.
    """
    area, known = sampled[:, 0].sum(axis=(1, 2)), training[:, 0].sum(axis=(1, 2))
    plausible = sampled[(area >= known.min()) & (area <= known.max())]
    if len(plausible) < LEAST:
        log.warning("%s: %d of %d have a plausible size; use more steps", name, len(plausible), len(sampled))
        return None
    novelty, new = measure_novelty(plausible, training, held_out)
    if new.sum() < LEAST:
        say = "%s: %d of %d are copies of lesions in the training set; use more patients, or fewer steps"
        log.warning(say, name, novelty.copies, len(plausible))
        return None
    return plausible[new], novelty


def _draw_angles(learned: list[Patch], number: int, seed: int) -> Images:
    angles = np.array([lesion.angle for lesion in learned], np.float32)
    return np.random.default_rng(seed).choice(angles, number)


def _stack(lesions: list[Patch]) -> Images:
    return np.stack([lesion.image for lesion in lesions])


def _to_network(images: Images) -> Tensor:
    """Brings the share of blood from [0, 1] to [-1, 1], the range of the contrast."""
    share, contrast = np.split(images, 2, axis=1)
    return torch.from_numpy(np.concatenate([2 * share - 1, contrast], axis=1))


def _sample(model: LesionDiffusion, kind: int, number: int, seed: int) -> Images:
    kinds, generator = torch.full((number,), kind), torch.Generator().manual_seed(seed)
    share, contrast = np.split(model.sample(kinds, generator, SIZE).numpy(), 2, axis=1)
    share = np.clip(share / 2 + 0.5, 0, 1)
    share = np.where(share < _FAINTEST, 0, share)
    return np.concatenate([share, np.clip(contrast, -1, 1) * (share > 0)], axis=1)
