"""Turns a data set into a page that shows its contents and what stands out.

``facts`` collects the numbers: ``units`` and ``encodings`` from the index, ``sample`` from pixels.
``remarks`` and ``label_remarks`` turn them into sentences, and ``highlights`` puts the first three on top.
``tables``, ``figures``, ``sheets`` and ``header`` show them, and ``document`` combines everything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ich.explore.document import NAMES, make_document
from ich.explore.facts import collect_facts
from ich.files import for_owner_only, replacing
from ich.folders import refusing_unwritable
from ich.index.columns import NO_COLUMNS
from ich.progress import waiting
from ich.report.document import Document
from ich.report.html import write_html
from ich.schema import UserError
from ich.schema.labels import RSNA_LABELS, LabelSet

__all__ = ["explore", "write_exploration"]

PAGE = "explore.html"
"""The page, in the folder that ``write_exploration`` writes to."""

DEFAULT_SLICES = 2000
"""Number of slices whose pixels are read: takes less than a minute from most disks."""


def explore(
    root: Path,
    *,
    labels: Path | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    label_set: LabelSet = RSNA_LABELS,
    index_dir: Path | None = None,
    slices: int = DEFAULT_SLICES,
    compare_all: bool = False,
    progress: bool = True,
) -> Document:
    """Explores a data set: headers from the index, pixels from a sample of slices.

    The page names no patient, file or folder. It identifies a slice by its row in the index.

    Args:
        root: Folder of DICOM files, in any layout.
        labels: CSV file; by default the one in ``root``, if any.
        columns: What it calls some of the labels and keys.
        label_set: Labels in this file.
        index_dir: Folder of the index; by default in ``root``.
        slices: Number of slices whose pixels are read. They are spread over patients and subtypes, and are
            the same at every call.
        compare_all: Look for identical pixels among all slices, not only in the sample.
        progress: Show bars on a terminal.

    Raises:
        UserError: If the folder holds no readable slice, or the labels cannot be used.
    """
    facts = collect_facts(root, labels, columns, label_set, index_dir, slices, compare_all, progress)
    with waiting("Drawing the page", progress):
        return make_document(root, facts)


def check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be written to, or that holds anything but an earlier exploration.

    Raises:
        UserError: Naming the folder, and some of its files.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name another with --out")
    found = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (found.is_dir() and os.access(found, os.W_OK)):
        raise UserError(f"cannot write to {folder}: name another folder with --out")
    ours = {PAGE, *(f"{name}.png" for name in NAMES)}
    others = (
        sorted(path.name for path in folder.iterdir() if path.name not in ours) if folder.exists() else []
    )
    if others:
        raise UserError(
            f"{folder} holds {', '.join(others[:3])}, and results are not written among other files; name a "
            "new folder with --out"
        )


def write_exploration(document: Document, folder: Path) -> Path:
    """Writes a page and its pictures to a folder, and replaces an earlier exploration.

    They show patients without names. Only their owner can read them.

    Returns:
        The page.

    Raises:
        UserError: If the folder holds other files, or cannot be written to.
    """
    check_folder(folder)
    with for_owner_only(), refusing_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for picture in document.pictures:
            with replacing(folder / f"{picture.name}.png") as partial:
                partial.write_bytes(picture.png)
        write_html(document, folder / PAGE)
    return folder / PAGE
