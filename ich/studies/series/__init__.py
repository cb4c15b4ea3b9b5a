"""Chooses the series of a study to read, and says why the others are not read.

This module decides by the header, which may be almost empty, as in the RSNA set, or wrong. ``pixels``
therefore checks whether a head is in the image, and ``geometry`` checks the order of the slices. ``keywords``
interprets descriptions.

The series must show a head without contrast medium in axial slices, tilted or not. Some rules:

- A series that does not show the whole brain (face, orbits, sinuses, temporal bone, neck) shows another
  part of the body. So does a series whose own description names the head and another part.
- The first text that names a part decides. The order is: description of the series, protocol,
  BodyPartExamined, description of the study. The last three do not count if they name the head and another
  part, or the whole body, because one of its series may show the head.
- A bone kernel or an axial reformat is read if the study holds nothing better that spans a head.
- The description of the series decides on contrast, or else ContrastBolusAgent. The description of the study
  does not count, because a study with contrast often begins without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from pydicom.uid import SecondaryCaptureImageStorage, XRayRadiationDoseSRStorage

from ich.dicom.groups import ENHANCED
from ich.dicom.orientation import Plane
from ich.schema.codes import Refusal, SetAside
from ich.schema.results import Remark
from ich.studies.series.geometry import LEAST_COVERAGE, find_planes, measure_coverage
from ich.studies.series.keywords import (
    CONTRAST,
    DOSE,
    HEAD,
    LOCALIZER,
    NOT_AXIAL,
    OTHER_PART,
    REFORMATTED,
    RENDERED,
    WHOLE_BODY,
    is_sharp,
    simplify,
    tell_contrast,
)
from ich.studies.series.parts import list_stacks
from ich.tables import say
from ich.tables.slabs import measure_step

USUAL_STEP = 5.0  # mm: of the slices that networks are trained on
LEAST_SLICES = 5  # of a series: bolus tracking and test slices have fewer, a head of 90 mm nine of 10 mm
MOST_TILT = 45.0  # degrees of the normal from the patient's long axis: gantries tilt up to 30
# Degrees of the pixels' axes from the patient's left. A scanner's slices have none, however its gantry is
# tilted; a reformat that sets a turned head straight has as many as the head is turned, some 20 at most.
MOST_TURN = 30.0

_NO_AGENT = ("", "no", "none", "non", "n/a", "na", "0", "nil", "nein", "kein", "keine", "not given")


class Ranking(NamedTuple):
    """The series of a study, by SeriesInstanceUID.

    Attributes:
        candidates: Candidates to try in order, the best first.
        set_aside: Why each of the others is not read, with codes of ``SetAside``.
        sharp: The candidates with a bone kernel, whose noise hides faint findings.
        slices: SOPInstanceUIDs to read in each candidate: one stack, without images that are not slices
            (``ich.tables.stacks``). Of several stacks, it is the one that would be read if each were a
            series.
    """

    candidates: list[str]
    set_aside: dict[str, Remark]
    sharp: frozenset[str]
    slices: Mapping[str, frozenset[str]]


class _Series(NamedTuple):
    """The description of a series by its files: each text as most of them have it."""

    uid: str
    texts: Mapping[str, str]
    slices: pd.DataFrame  # those that can be read
    files: int

    @property
    def description(self) -> str:
        return self.texts["SeriesDescription"]


class _Candidate(NamedTuple):
    uid: str
    is_reformatted: bool
    is_sharp: bool | None
    is_named: bool  # as a head
    step: float  # mm
    coverage: float  # mm
    slices: int

    @property
    def spans_head(self) -> bool:
        return self.coverage >= LEAST_COVERAGE

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key, lower is better; rounded, so that equal measures count equally."""
        off = abs(self.step - USUAL_STEP)
        return (
            not self.spans_head,
            self.is_reformatted,
            {False: 0, None: 1, True: 2}[self.is_sharp],
            not self.is_named,
            round(off) if math.isfinite(off) else math.inf,
            -round(self.coverage),
            -self.slices,
            self.uid,
        )


_WORSE: tuple[tuple[SetAside, Callable[[_Candidate], bool], str], ...] = (
    (SetAside.DERIVED, lambda c: c.is_reformatted, "reformatted, while the study holds an original series"),
    (SetAside.BONE_KERNEL, lambda c: bool(c.is_sharp), "a bone kernel, while the study holds another kernel"),
)
"""Series that are set aside if the study holds a better one; see ``_find_worse``."""


def rank_series(files: pd.DataFrame) -> Ranking:
    """Ranks the series of a study by their headers.

    The result does not depend on the order of the rows or the names of files.

    Args:
        files: One row per DICOM file of one study: the columns of ``ich.dicom.attributes.Attributes`` and of
            ``ich.tables.HEADER_DTYPES`` (the latter NaN or empty for a refused file). ``code`` is that of its
            refusal, and empty for a readable CT slice. Files that do not name their series belong to none.
    """
    set_aside: dict[str, Remark] = {}
    candidates: list[_Candidate] = []
    slices: dict[str, frozenset[str]] = {}
    for uid, rows in files[files["SeriesInstanceUID"] != ""].groupby("SeriesInstanceUID", sort=True):
        found = _choose_stack(str(uid), rows)
        if isinstance(found, Remark):
            set_aside[str(uid)] = found
        else:
            candidates.append(_measure(found))
            slices[found.uid] = frozenset(found.slices["SOPInstanceUID"])
    worse = _find_worse(candidates)
    set_aside |= worse
    candidates = [c for c in candidates if c.uid not in worse]
    sharp = frozenset(c.uid for c in candidates if c.is_sharp)
    return Ranking([c.uid for c in sorted(candidates, key=lambda c: c.order)], set_aside, sharp, slices)


def _find_worse(candidates: Sequence[_Candidate]) -> dict[str, Remark]:
    """Finds what is not read because the study holds something better that spans a head."""
    worse: dict[str, Remark] = {}
    for code, is_worse, detail in _WORSE:
        left = [c for c in candidates if c.uid not in worse]
        if any(c.spans_head and not is_worse(c) for c in left):
            worse |= {c.uid: Remark(code, detail) for c in left if is_worse(c)}
    return worse


def _choose_stack(uid: str, rows: pd.DataFrame) -> _Series | Remark:
    """Chooses the stack of a series that would be read if each were a series, or says why none is."""
    stacks = [(_gather(uid, stack), stack) for stack in list_stacks(rows)]
    obstacles = [_find_obstacle(series, stack) for series, stack in stacks]
    open_ones = [series for (series, _), found in zip(stacks, obstacles, strict=True) if found is None]
    if not open_ones:
        return Remark(*next(filter(None, obstacles)))
    return min(open_ones, key=lambda series: _measure(series).order)


_TEXTS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesDescription",
    "StudyDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
)


def _gather(uid: str, rows: pd.DataFrame) -> _Series:
    # A slice that is damaged says less than its neighbors, and a stray one something else.
    texts = {name: _find_usual(rows[name]) for name in _TEXTS}
    return _Series(uid, texts, rows[rows["code"] == ""], len(rows))


def _find_usual(column: pd.Series[str]) -> str:
    counts = Counter(filter(None, column.tolist()))
    return max(sorted(counts), key=counts.__getitem__, default="")


def _find_obstacle(series: _Series, rows: pd.DataFrame) -> tuple[SetAside, str] | None:
    """Says why a series is never read, whatever else the study holds; None for a candidate."""
    return _find_other_object(series, rows) or _find_other_image(series) or _find_other_content(series)


def _find_other_object(series: _Series, rows: pd.DataFrame) -> tuple[SetAside, str] | None:
    sop_class, modality = series.texts["SOPClassUID"], series.texts["Modality"]
    # The UIDs of its multi-frame kinds continue its own: .1 to .4.
    is_secondary = f"{sop_class}.".startswith(f"{SecondaryCaptureImageStorage}.")
    is_readable = len(series.slices) > 0
    if sop_class == XRayRadiationDoseSRStorage or (not is_readable and DOSE.find(series.description)):
        return SetAside.DOSE_REPORT, "a radiation dose report"
    if modality not in ("CT", ""):
        return SetAside.NOT_CT, f"Modality is {modality[:16]!r}"
    if is_secondary:
        return SetAside.SECONDARY_CAPTURE, "SOPClassUID is Secondary Capture"
    if not is_readable and (sop_class in ENHANCED or (rows["code"] == Refusal.MULTI_FRAME).any()):
        return SetAside.MULTI_FRAME, "several frames per file, or Enhanced CT"
    if not is_readable and (rows["code"] == Refusal.NOT_CT).all():
        return SetAside.NOT_CT, "none of its files is a CT image"
    if not is_readable:
        codes = ", ".join(sorted(set(rows["code"])))
        return SetAside.ALL_REFUSED, f"none of {series.files} files can be read: {codes}"
    return None


def _find_other_image(series: _Series) -> tuple[SetAside, str] | None:
    kind = series.texts["ImageType"]
    if LOCALIZER.find(kind) or LOCALIZER.find(series.description):
        return SetAside.LOCALIZER, "a localizer, by its ImageType or SeriesDescription"
    if word := RENDERED.find(kind) or RENDERED.find(series.description):
        return SetAside.DERIVED, f"ImageType or SeriesDescription names {word!r}"
    planes = [plane for plane in find_planes(series.slices["ImageOrientationPatient"]) if plane.turn >= 0]
    if found := _find_other_plane(planes):
        return SetAside.NOT_AXIAL, found
    if not planes and (word := NOT_AXIAL.find(series.description)):
        return SetAside.NOT_AXIAL, f"SeriesDescription names {word!r}, and the slices have no orientation"
    return None


def _find_other_plane(planes: Sequence[Plane]) -> str:
    """Says why slices are not axial; empty if they are, or if no orientation is known."""
    if not planes:
        return ""
    tilt = math.degrees(math.acos(min(1.0, np.median([abs(plane.normal[2]) for plane in planes]))))
    if tilt > MOST_TILT:
        return f"slices are tilted {tilt:.0f} degrees from the axial plane"
    turn = np.median([plane.turn for plane in planes])
    return (
        f"an oblique reformat, turned {turn:.0f} degrees from the patient's left" if turn > MOST_TURN else ""
    )


def _find_other_content(series: _Series) -> tuple[SetAside, str] | None:
    if found := _find_other_part(series):
        return SetAside.OTHER_BODY_PART, found
    if found := _find_contrast(series):
        return SetAside.CONTRAST, found
    if series.files < LEAST_SLICES:
        return SetAside.TOO_FEW_SLICES, (
            f"{say(series.files, 'file')}, but a series needs at least {LEAST_SLICES}"
        )
    return None


def _find_other_part(series: _Series) -> str:
    """Finds a text that names another part of the body; empty if the head comes first, or nothing."""
    for name in ("SeriesDescription", "ProtocolName", "BodyPartExamined", "StudyDescription"):
        text = series.texts[name]
        other, head = OTHER_PART.find(text), HEAD.find(text)
        if name == "SeriesDescription":
            other = other or WHOLE_BODY.find(text)
        if other and (not head or name == "SeriesDescription"):
            return f"{name} names {other!r}"
        if head and not other:
            return ""
    return ""


def _find_contrast(series: _Series) -> str:
    """Finds a sign that contrast medium was given; empty if there is none."""
    said = tell_contrast(series.description)
    if said is not None:
        return f"SeriesDescription names {CONTRAST.find(series.description)!r}" if said else ""
    agent = simplify(series.texts["ContrastBolusAgent"])
    if agent not in _NO_AGENT and tell_contrast(agent) is not False:
        return "ContrastBolusAgent has a value"
    if not agent and series.texts["ContrastBolusAgentSequence"]:
        return "ContrastBolusAgentSequence has a value"
    return ""


def _measure(series: _Series) -> _Candidate:
    kind, positions = series.texts["ImageType"], series.slices["position"].to_numpy(np.float64)
    names = ("SeriesDescription", "ProtocolName", "BodyPartExamined")
    return _Candidate(
        uid=series.uid,
        is_reformatted=simplify(kind).startswith("derived") or bool(REFORMATTED.find(kind)),
        is_sharp=is_sharp(series.texts["ConvolutionKernel"], series.description),
        is_named=any(HEAD.find(series.texts[name]) for name in names),
        step=measure_step(positions),
        coverage=measure_coverage(positions),
        slices=len(series.slices),
    )
