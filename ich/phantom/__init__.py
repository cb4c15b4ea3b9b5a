"""Synthetic head CT as real DICOM files in the layout of the RSNA 2019 data, with labels and lesion masks.

The phantom is what the library trains and is tested on without a data set. Every number in it follows from
the seed; a patient is the same whatever the number of patients.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from rich.console import Console
from rich.progress import track

from ich.phantom.encoding import Encoding, SeriesHeader, write_slice
from ich.phantom.head import Head
from ich.phantom.study import Study, draw_study
from ich.schema import LABELS, SUBTYPES, UserError

MANIFEST = "phantom.json"
"""File in the folder that holds the parameters; written last."""

VERSION = 1
"""Of the drawing: the same parameters give the same bytes within a version."""

SLICES = "stage_2_train"
CSV = "stage_2_train.csv"

POOL_FROM = 8
"""Patients from which on several processes are worth their start."""


def draw_patient(seed: int, patient: int, size: int = 256) -> list[Study]:
    """Draws the studies of a patient, one or more, as ``write_phantom`` writes them.

    Args:
        seed: Of the phantom.
        patient: Number of the patient, from 0.
        size: Height and width in pixels.

    Returns:
        The studies in the order of their dates; the head is the same in each.
    """
    rng = np.random.default_rng([seed, patient])
    head = Head.sample(rng)
    # Every fourth patient comes back, with or without a hemorrhage, and one of sixteen once more.
    later = rng.integers(10, size=int(patient % 4 == 3) + int(patient % 16 == 15))
    return [draw_study(rng, size, head, _sample_subtypes(rng, int(turn))) for turn in (patient, *later)]


def _sample_subtypes(rng: np.random.Generator, turn: int) -> list[str]:
    """Draws the hemorrhages of a study: six in ten have some, and every subtype has its turn.

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
) -> None:
    """Writes a phantom data set, or leaves one with the same parameters as it is.

    ``out`` then holds ``stage_2_train/<ID>.dcm``; ``stage_2_train.csv`` with the columns ``ID,Label`` and
    six rows a slice, ``<ID>_any`` the last; ``phantom.json`` with the parameters; and with ``masks`` a
    ``masks/<ID>.npz`` a slice, whose array ``mask`` (H, W) uint8 has bit i set where there is
    ``SUBTYPES[i]``. The ID is the SOPInstanceUID. A slice is labelled with a subtype where its mask holds it.

    Args:
        out: Folder; made where it does not exist.
        patients: Number of patients; one in four has more than one study. A study has about 17 slices.
        seed: The same seed gives the same bytes, as far as NumPy rounds alike.
        size: Rows and columns.
        masks: Write lesion masks.
        conformant: Write valid UIDs and every attribute of a conformant CT image, instead of a header as
            sparse as those of the RSNA data.

    Raises:
        UserError: If a parameter is out of range, or ``out`` holds something else or cannot be written to.
    """
    out = Path(out).absolute()
    if patients < 1:
        raise UserError(f"patients={patients}: a phantom has at least 1")
    if seed < 0:
        raise UserError(f"seed={seed}: expected 0 or more")
    if not 64 <= size <= 1024:
        raise UserError(f"size={size}: expected 64 to 1024 pixels")
    parameters = {
        "version": VERSION,
        "patients": patients,
        "seed": seed,
        "size": size,
        "masks": masks,
        "conformant": conformant,
    }
    if _holds(out, parameters):
        return
    try:
        _write_whole(out, parameters)
    except OSError as error:
        raise UserError(f"cannot write the phantom to {out}: {error.strerror or error}") from error


def _holds(out: Path, parameters: dict[str, Any]) -> bool:
    """Tells whether ``out`` holds the phantom, and refuses anything else that is not empty."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the phantom")
    if not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        raise UserError(f"{out} is not empty and holds no phantom: name another folder") from None
    if found != parameters:
        raise UserError(
            f"{out} holds a phantom with other parameters, {found}; asked for {parameters}: "
            "remove it or name another folder"
        )
    return True


def _write_whole(out: Path, parameters: dict[str, Any]) -> None:
    """Writes beside ``out`` and moves the folder there when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write_patients(whole, parameters)
        (whole / MANIFEST).write_text(json.dumps(parameters, indent=1) + "\n")
        whole.chmod(0o755)
        try:
            whole.replace(out)
        except OSError:  # another process may have made the same one meanwhile
            if not _holds(out, parameters):
                raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _write_patients(out: Path, parameters: dict[str, Any]) -> None:
    (out / SLICES).mkdir()
    if parameters["masks"]:
        (out / "masks").mkdir()
    numbers = range(parameters["patients"])
    write = partial(_write_patient, out, parameters)
    if len(numbers) < POOL_FROM:
        rows = [row for number in numbers for row in write(number)]
    else:
        console = Console(stderr=True)
        start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads. The children only draw and write, on one thread.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            with ProcessPoolExecutor(min(8, os.cpu_count() or 1), start, _prepare_worker) as pool:
                done = track(
                    pool.map(write, numbers),
                    "Writing the phantom",
                    total=len(numbers),
                    console=console,
                    disable=not console.is_terminal,
                    transient=True,
                )
                rows = [row for patient in done for row in patient]
    (out / CSV).write_text("".join(["ID,Label\n", *rows]))


def _prepare_worker() -> None:
    cv2.setNumThreads(0)
    # glibc keeps memory up to twice the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD);
    # without this one it would hand back and ask for the memory of every array: a quarter of the time.
    np.empty(30 * 2**20, dtype=np.uint8)


def _write_patient(out: Path, parameters: dict[str, Any], number: int) -> list[str]:
    """Writes the slices of a patient and returns their rows of the CSV file."""
    conformant = parameters["conformant"]
    studies = draw_patient(parameters["seed"], number, parameters["size"])
    rng = np.random.default_rng([parameters["seed"], number, 1])
    patient = _make_id(rng)
    rows: list[str] = []
    for k, study in enumerate(studies):
        header = SeriesHeader(
            patient=patient,
            study=_make_uid(rng, conformant),
            series=_make_uid(rng, conformant),
            frame=_make_uid(rng, conformant),
            number=k,
            encoding=Encoding.sample(rng, number + k, conformant=conformant),
            conformant=conformant,
        )
        for i, mask in enumerate(study.mask):
            uid = _make_uid(rng, conformant)
            with pydicom.config.disable_value_validation():  # of UIDs that are none
                write_slice(out / SLICES / f"{uid}.dcm", uid, header, study, i)
            if parameters["masks"]:
                np.savez_compressed(out / "masks" / f"{uid}.npz", mask=mask)
            present = int(np.bitwise_or.reduce(mask, axis=None))
            labels = [*(present >> bit & 1 for bit in range(len(SUBTYPES))), int(present > 0)]
            rows += [f"{uid}_{name},{label}\n" for name, label in zip(LABELS, labels, strict=True)]
    return rows


def _make_id(rng: np.random.Generator) -> str:
    return f"ID_{rng.integers(16**8):08x}{rng.integers(16):x}"


def _make_uid(rng: np.random.Generator, conformant: bool) -> str:
    """Returns a UID of the root for UUIDs (DICOM PS3.5 B.2), or an identifier as in the RSNA data."""
    if not conformant:
        return _make_id(rng)
    return f"2.25.{int.from_bytes(rng.bytes(15), 'big')}"
