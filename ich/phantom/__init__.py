"""Synthetic head CT as real DICOM files in the layout of the RSNA 2019 data, with labels and lesion masks.

The library trains and is tested on the phantom without a data set. Every number in it follows from the seed.
A patient is the same for any number of patients.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from ich.phantom.chances import Chances
from ich.phantom.encoding import Encoding, SeriesHeader, write_slice
from ich.phantom.folders import check_numbers, map_patients, write_once
from ich.phantom.head import Head
from ich.phantom.reformats import plan_at
from ich.phantom.study import Study, draw_plan, plan_study
from ich.schema import LABELS, SUBTYPES, UserError

__all__ = ["draw_patient", "write_phantom"]

VERSION = 2
"""Version of the drawing: within a version the same parameters give the same bytes."""

SLICES = "stage_2_train"
CSV = "stage_2_train.csv"


def draw_patient(
    seed: int, patient: int, size: int = 256, chances: Chances | None = None, step: float | None = None
) -> list[Study]:
    """Draws the studies of a patient, one or more, as ``write_phantom`` writes them.

    Args:
        seed: The phantom's random seed.
        patient: Number of the patient, from 0.
        size: Height and width in pixels.
        chances: How often rare features appear; by default those of ``Chances``.
        step: Distance from slice to slice and thickness of a slice, mm; None draws them for each study.

    Returns:
        The studies in the order of their dates; the head is the same in each.
    """
    rng = np.random.default_rng([seed, patient])
    chances = chances or Chances()
    head = Head.sample(rng, chances)
    # Every fourth patient comes back, with or without a hemorrhage, and one of sixteen once more.
    later = rng.integers(10, size=int(patient % 4 == 3) + int(patient % 16 == 15))
    plans = [
        plan_study(rng, size, head, sample_subtypes(rng, int(turn)), chances) for turn in (patient, *later)
    ]
    return [draw_plan(plan if step is None else plan_at(plan, step), size) for plan in plans]


def sample_subtypes(rng: np.random.Generator, turn: int) -> list[str]:
    """Draws the hemorrhages of a study: six in ten studies have some, and all subtypes occur in turn.

    Rare subtypes are more frequent than in practice, so that a small data set has enough of each.
    """
    turn %= 10
    if turn > len(SUBTYPES):
        return []
    compact = ("intraparenchymal", "intraventricular")  # these cover the fewest slices
    first = SUBTYPES[turn] if turn < len(SUBTYPES) else str(rng.choice(compact))
    others = [subtype for subtype in SUBTYPES if subtype != first]
    chances = np.array([2.0 if subtype in compact else 1.0 for subtype in others])
    more = rng.choice(others, rng.choice(3, p=[0.55, 0.35, 0.1]), replace=False, p=chances / chances.sum())
    return [first, *map(str, more)]


def write_phantom(
    out: str | Path,
    *,
    patients: int = 64,
    seed: int = 0,
    size: int = 256,
    masks: bool = False,
    conformant: bool = False,
    chances: Mapping[str, float] | None = None,
    step: float | None = None,
) -> None:
    """Writes a phantom data set, unless one with the same parameters exists.

    ``out`` then holds ``stage_2_train/<ID>.dcm``; ``stage_2_train.csv`` with the columns ``ID,Label`` and six
    rows per slice, ``<ID>_any`` last; and ``phantom.json`` with the parameters. With ``masks`` it also holds
    ``masks/<ID>.npz`` for each slice. Its array ``mask``, (H, W) uint8, has bit i set in ``SUBTYPES[i]``. The
    ID is the SOPInstanceUID. A slice has the label of a subtype if its mask holds it.

    Args:
        out: Folder; made if it does not exist.
        patients: Number of patients; one in four has more than one study. A study has about 28 slices.
        seed: Random seed; the same seed gives the same bytes, if NumPy rounds in the same way.
        size: Rows and columns.
        masks: Write lesion masks.
        conformant: Write valid UIDs and all attributes of a conformant CT image, instead of a sparse header
            like the RSNA's.
        chances: Probabilities by the names of ``Chances``, which replace the defaults.
        step: As in ``draw_patient``. Heads and hemorrhages are the same at any step.

    Raises:
        UserError: If a parameter is out of range, a name in ``chances`` is unknown, or ``out`` holds other
            files or cannot be written to.
    """
    check_numbers(patients, seed, size)
    if step is not None and not 0.5 <= step <= 10:
        raise UserError(f"step={step}: expected 0.5 to 10 mm")
    Chances.from_dict(chances)
    parameters = {
        "version": VERSION,
        "patients": patients,
        "seed": seed,
        "size": size,
        "masks": masks,
        "conformant": conformant,
        "chances": dict(chances or {}),
        **({} if step is None else {"step": step}),
    }
    write_once(Path(out), parameters, partial(_write_patients, parameters))


def _write_patients(parameters: dict[str, Any], out: Path) -> None:
    (out / SLICES).mkdir()
    if parameters["masks"]:
        (out / "masks").mkdir()
    patients = map_patients(partial(_write_patient, out, parameters), parameters["patients"])
    rows = [row for patient in patients for row in patient]
    (out / CSV).write_text("".join(["ID,Label\n", *rows]))


def _write_patient(out: Path, parameters: dict[str, Any], number: int) -> list[str]:
    """Writes the slices of a patient and returns their rows of the CSV file."""
    conformant = parameters["conformant"]
    chances = Chances.from_dict(parameters["chances"])
    step = parameters.get("step")
    studies = draw_patient(parameters["seed"], number, parameters["size"], chances, step)
    rng = np.random.default_rng([parameters["seed"], number, 1])
    patient = make_id(rng)
    rows: list[str] = []
    for k, study in enumerate(studies):
        header = SeriesHeader(
            patient=patient,
            study=make_uid(rng, conformant),
            series=make_uid(rng, conformant),
            frame=make_uid(rng, conformant),
            number=k,
            encoding=Encoding.sample(rng, number + k, conformant=conformant),
            conformant=conformant,
        )
        for i, mask in enumerate(study.mask):
            uid = make_uid(rng, conformant)
            with pydicom.config.disable_value_validation():  # of UIDs that are none
                write_slice(out / SLICES / f"{uid}.dcm", uid, header, study, i)
            if parameters["masks"]:
                np.savez_compressed(out / "masks" / f"{uid}.npz", mask=mask)
            present = int(np.bitwise_or.reduce(mask, axis=None))
            labels = [*(present >> bit & 1 for bit in range(len(SUBTYPES))), int(present > 0)]
            rows += [f"{uid}_{name},{label}\n" for name, label in zip(LABELS, labels, strict=True)]
    return rows


def make_id(rng: np.random.Generator) -> str:
    """Returns an identifier as in the RSNA data."""
    return f"ID_{rng.integers(16**8):08x}{rng.integers(16):x}"


def make_uid(rng: np.random.Generator, conformant: bool) -> str:
    """Returns a UID of the root for UUIDs (DICOM PS3.5 B.2), or an identifier as in the RSNA data."""
    if not conformant:
        return make_id(rng)
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"
