"""The archive of a department: studies of mixed series in folders, and the truth about them.

It contains what a program meets that reads studies instead of slices: scouts, bone kernels, thin and thick
slices, a contrast phase, reformats, dose reports, photos of screens, chests and abdomens, MR, sparse headers,
compressed files and damage. ``archive.json`` says for each study which series should be read, and why the
others should not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, MRImageStorage, RLELossless

from ich.phantom import make_id, make_uid, sample_subtypes
from ich.phantom.bodies import draw_body
from ich.phantom.chances import Chances
from ich.phantom.encoding import Encoding, SeriesHeader, make_slice
from ich.phantom.folders import check_numbers, map_patients, write_once
from ich.phantom.head import Head
from ich.phantom.objects import make_dose_report, make_screen
from ich.phantom.reformats import (
    THICK,
    THIN,
    crop,
    plan_at,
    plan_contrast,
    project,
    reformat_coronal,
    sharpen,
    weight_t1,
)
from ich.phantom.scanners import CT_ONLY, IMAGE_TYPES, MR_VALUES, SCANNERS, Scanner
from ich.phantom.study import Plan, Study, draw_plan, plan_study
from ich.schema import LABELS, SUBTYPES
from ich.schema.codes import SetAside

TRUTH = "archive.json"
"""File that describes the content of the folder."""

VERSION = 2
"""Version of the archive: within a version the same parameters give the same bytes."""


CHANCES = Chances(rescan=0.0)
"""A scan that was repeated is a kind of study."""


class Kind(NamedTuple):
    """A kind of study.

    Attributes:
        series: Kinds of its series, in order of SeriesNumber.
        sparse: With headers as those of the RSNA 2019 data.
        syntax: The transfer syntax of its slices; None for one that is not compressed.
        damage: What was done to the series that is to be read.
    """

    series: tuple[str, ...]
    sparse: bool = False
    syntax: UID | None = None
    damage: str = ""


KINDS: Mapping[str, Kind] = {
    "plain": Kind(("scout", "soft")),
    "two_kernels": Kind(("scout", "soft", "bone", "dose_report")),
    "thin_and_thick": Kind(("scout", "thin", "soft", "bone")),
    "contrast": Kind(("scout", "soft", "contrast")),
    "reformats": Kind(("soft", "bone", "coronal", "screen")),
    "sparse": Kind(("soft",), sparse=True),
    "trauma": Kind(("scout", "soft", "bone", "chest")),
    "rle": Kind(("scout", "soft"), syntax=RLELossless),
    "deflated": Kind(("scout", "soft", "bone"), syntax=DeflatedExplicitVRLittleEndian),
    "copied": Kind(("scout", "soft"), damage="identical_copies"),
    "repeated": Kind(("scout", "soft", "repeat")),
    "thin_only": Kind(("scout", "thin")),
    "missing_slice": Kind(("scout", "soft", "bone"), damage="missing_slice"),
    "truncated_slice": Kind(("soft", "bone"), damage="truncated_slice"),
    "conflicting_copy": Kind(("scout", "soft"), damage="conflicting_copy"),
    "overwritten_slice": Kind(("soft", "dose_report"), damage="overwritten_slice"),
    "chest": Kind(("chest", "dose_report")),
    "abdomen_sparse": Kind(("abdomen",), sparse=True),
    "mr": Kind(("mr",)),
    "contrast_only": Kind(("scout", "contrast")),
    "no_slices": Kind(("scout", "dose_report", "screen")),
    "everything": Kind(
        ("scout", "soft", "thin", "bone", "contrast", "coronal", "chest", "mr", "dose_report", "screen")
    ),
}
"""Kinds of studies, in the order in which patients have them."""

HARMLESS = ("", "identical_copies")
"""Kinds of damage that lose nothing."""

SET_ASIDE: Mapping[str, tuple[SetAside, ...]] = {
    "scout": (SetAside.LOCALIZER,),
    "bone": (SetAside.BONE_KERNEL,),
    "contrast": (SetAside.CONTRAST,),
    "coronal": (SetAside.NOT_AXIAL, SetAside.DERIVED),
    "dose_report": (SetAside.DOSE_REPORT, SetAside.NOT_CT),
    # By its name it is a page with the dose.
    "screen": (SetAside.DOSE_REPORT, SetAside.SECONDARY_CAPTURE, SetAside.NOT_CT),
    "chest": (SetAside.OTHER_BODY_PART, SetAside.NO_HEAD),
    "abdomen": (SetAside.NO_HEAD,),
    "mr": (SetAside.NOT_CT,),
    "thin": (SetAside.ANOTHER_READ,),
    "repeat": (SetAside.ANOTHER_READ, SetAside.TOO_FEW_SLICES),
}
"""Codes that are true for a series of a kind, if it is set aside."""


def write_archive(
    out: str | Path,
    *,
    patients: int = 200,
    seed: int = 0,
    size: int = 256,
    processes: int | None = None,
) -> None:
    """Writes the archive of a department, unless one with the same parameters exists.

    ``out`` then holds ``P<number>/ST0001/SE<number>/IM<number>``, files in no order, and ``archive.json``.
    That file holds the parameters, and for each study under ``studies``:

    - ``StudyInstanceUID``, ``PatientID``, ``folder`` and ``kind``, a key of ``KINDS``
    - ``labels``: 0 or 1 for each of ``LABELS``, over the whole series; null if no series should be read
    - ``read``: SeriesInstanceUID of the series that should be read; null if the study should be refused
    - ``damage``: damage of that series, empty for none; ``whole``: whether all of it can be read
    - ``series``: for each its ``SeriesInstanceUID``, ``kind``, ``files`` (before any damage) and
      ``set_aside``, the codes by which it may be set aside, empty for the one that should be read

    Args:
        out: Folder; made if it does not exist.
        patients: Number of patients, each with one study; from 22 on, every kind is there.
        seed: Random seed; the same seed gives the same bytes, if NumPy rounds and zlib packs in the same way.
        size: Rows and columns of axial slices.
        processes: Number of processes that draw; by default this one for few patients, and else one per core.

    Raises:
        UserError: If a parameter is out of range, or ``out`` holds other files or cannot be written to.
    """
    check_numbers(patients, seed, size)
    parameters = {"archive": VERSION, "patients": patients, "seed": seed, "size": size}
    write_once(Path(out), parameters, partial(_write_patients, parameters, processes))


def _write_patients(parameters: dict[str, Any], processes: int | None, out: Path) -> None:
    write = partial(_write_study, out, parameters)
    studies = list(map_patients(write, parameters["patients"], processes))
    text = json.dumps({**parameters, "studies": studies}, indent=1)
    (out / TRUTH).write_text(text + "\n")


class _Drawing:
    """The series of a study, each drawn once.

    Args:
        plan: The plan for the axial slices with a soft kernel.
        size: Side of these slices, in pixels.
        rng: Source of what is random in other series.
    """

    def __init__(self, plan: Plan, size: int, rng: np.random.Generator) -> None:
        self._plan, self._size, self._rng = plan, size, rng
        self._drawn: dict[str, Study] = {}

    def draw(self, kind: str) -> Study:
        """Draws a series of images."""
        if kind not in self._drawn:
            self._drawn[kind] = self._draw(kind)
        return self._drawn[kind]

    @property
    def first(self) -> Study:
        """The series that was drawn first."""
        return next(iter(self._drawn.values()))

    def _draw(self, kind: str) -> Study:
        makers: dict[str, Callable[[], Study]] = {
            "soft": lambda: draw_plan(self._plan, self._size),
            "thin": lambda: draw_plan(plan_at(self._plan, THIN), self._size),
            "contrast": lambda: draw_plan(plan_contrast(self._plan), self._size),
            "bone": lambda: sharpen(self.draw("soft"), self._rng),
            "repeat": lambda: crop(self.draw("soft"), slice(0, 5)),
            "coronal": lambda: reformat_coronal(self.draw("soft"), THICK),
            "scout": lambda: project(self.draw("soft")),
            "mr": lambda: weight_t1(self.draw("soft"), self._rng),
            "chest": lambda: draw_body(self._rng, "chest", self._size),
            "abdomen": lambda: draw_body(self._rng, "abdomen", self._size),
        }
        return makers[kind]()


def _write_study(out: Path, parameters: dict[str, Any], number: int) -> dict[str, Any]:
    """Writes the study of a patient and returns the truth about it."""
    rng = np.random.default_rng([parameters["seed"], number, 2])
    name, kind = list(KINDS.items())[number % len(KINDS)]
    head = Head.sample(rng, CHANCES)
    plan = plan_study(rng, parameters["size"], head, sample_subtypes(rng, int(rng.integers(10))), CHANCES)
    if "thin" in kind.series or "repeat" in kind.series:
        plan = plan_at(plan, THICK)
    drawing = _Drawing(plan, parameters["size"], rng)
    header = SeriesHeader(
        patient=make_id(rng),
        study=make_uid(rng, not kind.sparse),
        series="",
        frame=make_uid(rng, True),
        number=0,
        encoding=Encoding.sample(rng, number, conformant=not kind.sparse),
        conformant=not kind.sparse,
    )
    read = next((name for name in ("soft", "thin") if name in kind.series), None)
    folder = out / f"P{number + 1:04d}" / "ST0001"
    writer = _Writer(folder, header, drawing, SCANNERS[int(rng.integers(len(SCANNERS)))], kind, rng)
    series = [writer.write(place, part) for place, part in enumerate(kind.series, 1)]
    uids = dict(zip(kind.series, (truth["SeriesInstanceUID"] for truth in series), strict=True))
    if read is not None:
        _damage(kind.damage, folder / f"SE{kind.series.index(read) + 1:04d}", rng)
    for part, truth in zip(kind.series, series, strict=True):
        truth["set_aside"] = [] if part == read else SET_ASIDE[part]
    return {
        "StudyInstanceUID": header.study,
        "PatientID": header.patient,
        "folder": folder.relative_to(out).as_posix(),
        "kind": name,
        "labels": None if read is None else _label(drawing.draw(read).mask),
        "read": None if read is None else uids[read],
        "damage": kind.damage,
        "whole": kind.damage in HARMLESS,
        "series": series,
    }


def _label(mask: NDArray[np.uint8]) -> dict[str, int]:
    present = int(np.bitwise_or.reduce(mask, axis=None))
    labels = [*(present >> bit & 1 for bit in range(len(SUBTYPES))), int(present > 0)]
    return dict(zip(LABELS, labels, strict=True))


@dataclass
class _Writer:
    """Writes the series of a study."""

    folder: Path
    header: SeriesHeader
    drawing: _Drawing
    scanner: Scanner
    kind: Kind
    rng: np.random.Generator

    def write(self, number: int, part: str) -> dict[str, Any]:
        """Writes a series and returns the truth about it."""
        uid = make_uid(self.rng, self.header.conformant)
        folder = self.folder / f"SE{number:04d}"
        folder.mkdir(parents=True)
        with pydicom.config.disable_value_validation():  # some UIDs are not valid
            objects = list(self._make(part, replace(self.header, series=uid)))
            names = self.rng.permutation(len(objects))
            for name, ds in zip(names, objects, strict=True):
                if self.header.conformant:
                    ds.SeriesNumber = number
                ds.save_as(folder / f"IM{name + 1:04d}", enforce_file_format=True)
        return {"SeriesInstanceUID": uid, "kind": part, "files": len(objects)}

    def _make(self, part: str, header: SeriesHeader) -> Iterator[Dataset]:
        if part in ("dose_report", "screen"):
            source = make_slice(make_uid(self.rng, True), header, self.drawing.first, 0)
            _set(source, {"Manufacturer": self.scanner.manufacturer, "StudyDescription": self._describe()})
            make = make_dose_report if part == "dose_report" else make_screen
            yield make(source, make_uid(self.rng, True), header.series)
            return
        study = self.drawing.draw(part)
        if study.hu.shape[1] != study.hu.shape[2] or part == "mr":  # no scan circle
            header = replace(header, encoding=replace(header.encoding, padded=False))
        if part == "mr":
            header = replace(header, encoding=Encoding(12, False, 0, False, False, False, False))
        for k in range(len(study.hu)):
            ds = make_slice(make_uid(self.rng, header.conformant), header, study, k)
            if header.conformant:
                _set(ds, self._name(part))
            if part == "mr":
                _turn_to_mr(ds)
            elif self.kind.syntax == RLELossless:
                ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
            elif self.kind.syntax is not None:
                ds.file_meta.TransferSyntaxUID = self.kind.syntax
            yield ds

    def _name(self, part: str) -> dict[str, Any]:
        """Returns the values in the header of a CT series."""
        description, kernel = self.scanner.names.get(part, ("", ""))
        values = {
            "Manufacturer": self.scanner.manufacturer,
            "StudyDescription": self._describe(),
            "ProtocolName": self._describe(),
            "SeriesDescription": description,
            "ConvolutionKernel": kernel,
            "ImageType": IMAGE_TYPES.get(part, ["ORIGINAL", "PRIMARY", "AXIAL"]),
            "BodyPartExamined": {"chest": "CHEST", "abdomen": "ABDOMEN"}.get(part, "HEAD"),
        }
        return values | ({"ContrastBolusAgent": "IOMEPROL 300"} if part == "contrast" else {})

    def _describe(self) -> str:
        if "chest" not in self.kind.series:
            return self.scanner.study
        return "CT POLYTRAUMA" if "soft" in self.kind.series else "CT CHEST"


def _set(ds: Dataset, values: Mapping[str, Any]) -> None:
    for keyword, value in values.items():
        setattr(ds, keyword, value)


def _turn_to_mr(ds: Dataset) -> None:
    for keyword in CT_ONLY:
        delattr(ds, keyword)
    _set(ds, MR_VALUES)
    ds.ImageType = IMAGE_TYPES["mr"]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage


def _damage(damage: str, folder: Path, rng: np.random.Generator) -> None:
    """Damages a series: one slice that is neither the first nor the last."""
    files = sorted(folder.iterdir(), key=lambda path: float(_read_height(path)))
    path = files[int(rng.integers(2, len(files) - 2))]
    content = path.read_bytes()
    if damage == "missing_slice":
        path.unlink()
    elif damage == "truncated_slice":
        path.write_bytes(content[: len(content) * 3 // 5])
    elif damage == "overwritten_slice":
        path.write_bytes(bytes(len(content)))
    elif damage == "conflicting_copy":
        half = len(content) // 2
        (folder / f"IM{len(files) + 1:04d}").write_bytes(content[:half] + bytes(len(content) - half))
    elif damage == "identical_copies":
        copies = folder.with_name("SE0099")
        copies.mkdir()
        for file in files:
            (copies / file.name).write_bytes(file.read_bytes())


def _read_height(path: Path) -> float:
    with pydicom.config.disable_value_validation():
        return float(pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2])
