"""Study results made by hand, for tests of what is written of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd

from ich.schema import LABELS
from ich.schema.codes import Note, Reason
from ich.schema.results import (
    Algorithm,
    LabelResult,
    Outcome,
    Remark,
    SeriesResult,
    SliceResult,
    StudyResult,
    Timing,
    decide_labels,
    decide_outcome,
)

ALGORITHM = Algorithm(
    name="test_resnet",
    version="0.1.0",
    weights=("c0ffee" + "0" * 58,),
    tta=("flip",),
    pooling="noisy_or",
    rule="sensitivity 0.95",
)
GAP = Remark(Reason.GAP, "15 mm between slices 4 and 5, where others are 5 mm apart")
TWICE = Remark(Note.REPEATED_SLICE, "slice 5 has the very pixels of slice 4")
ODD = Remark(Reason.IMPLAUSIBLE_SLICE, "slice 3: all pixels are the same")
SET_ASIDE = (Remark("localizer", "ImageType holds LOCALIZER"), Remark("bone_kernel", "H60s; H30s is read"))


def make_slices(slices: int = 12) -> pd.DataFrame:
    """The rows of an index of one series that matter here; a real index takes its place."""
    return pd.DataFrame(
        {
            "SOPInstanceUID": [f"2.25.1000{n}" for n in range(slices)],
            "SeriesInstanceUID": "2.25.100",
            "StudyInstanceUID": "2.25.10",
            "PatientID": "P0",
            "position": 5.0 * np.arange(slices),
        }
    )


TIMING = Timing("2026-11-30T18:05:06.123+00:00", "2026-11-30T18:05:09.000+00:00", 1.5, 0.75, 0.5)


def make_result(
    index: pd.DataFrame | None = None,
    *,
    number: int = 1,
    present: Sequence[str] = ("subdural",),
    reasons: Sequence[Remark] = (),
    decided: bool = True,
    known: bool = True,
    notes: Sequence[Remark] = (),
    left_out: Mapping[int, Remark] = MappingProxyType({}),
) -> StudyResult:
    """A study that was read.

    Args:
        index: One series, one row per slice; by default one that is made up.
        number: Of the study.
        present: Subtypes with a high probability; with none of them the study is NEGATIVE.
        reasons: With some and none present it is INDETERMINATE.
        decided: Whether the model carries calibration and operating points; without them INDETERMINATE.
        known: Whether it carries a reference to compare the study with.
        notes: What bars nothing.
        left_out: Why slices do not count, by their place.
    """
    index = (make_slices() if index is None else index).sort_values("position", ignore_index=True)
    if not decided:
        reasons = (*reasons, Remark(Reason.NO_DECISION, "the model carries no operating point"))
    if not known:
        reasons = (*reasons, Remark(Reason.NO_REFERENCE, "the model carries no reference"))
    high = {*present, "any"} if present else set()
    labels = {
        label: LabelResult(
            0.91 if label in high else 0.03 + 0.01 * LABELS.index(label), 0.4 if decided else None, None
        )
        for label in LABELS
    }
    probs = _draw_probs(len(index), high)
    outcome = decide_outcome(labels["any"], tuple(reasons))
    return StudyResult(
        number=number,
        StudyInstanceUID=index.StudyInstanceUID[0],
        PatientID=index.PatientID[0],
        outcome=outcome,
        refusal=None,
        reasons=tuple(reasons),
        notes=tuple(notes),
        labels=decide_labels(labels, "any", outcome, tuple(reasons)),
        slices=tuple(
            SliceResult(
                SOPInstanceUID=row.SOPInstanceUID,
                InstanceNumber=number + 1,
                position=None if np.isnan(row.position) else float(row.position),
                probs=dict(zip(LABELS, map(float, p), strict=True)),
                calibrated=dict(zip(LABELS, map(float, p**1.1), strict=True)) if decided else None,
                left_out=left_out.get(number),
            )
            for number, (row, p) in enumerate(zip(index.itertuples(), probs, strict=True))
        ),
        key_slices=tuple(map(int, np.argsort(-probs[:, -1])[:3])) if outcome is Outcome.POSITIVE else (),
        distance=1.05 if known else None,
        distance_limit=1.6 if known else None,
        series=(
            SeriesResult(index.SeriesInstanceUID[0], "CT", len(index), None),
            SeriesResult("2.25.101", "CT", 2, SET_ASIDE[0]),
            SeriesResult("2.25.102", "CT", len(index), SET_ASIDE[1]),
        ),
        algorithm=ALGORITHM,
        timing=TIMING,
    )


def make_refused(number: int = 1) -> StudyResult:
    """A study that could not be read: its only series is a scout."""
    return StudyResult(
        number=number,
        StudyInstanceUID="2.25.20",
        PatientID="P1",
        outcome=None,
        refusal=Remark("no_series", "of 1 series none is a non-contrast axial head CT"),
        reasons=(),
        notes=(),
        labels={},
        slices=(),
        key_slices=(),
        distance=None,
        distance_limit=None,
        series=(SeriesResult("2.25.201", "CT", 2, SET_ASIDE[0]),),
        algorithm=ALGORITHM,
    )


def _draw_probs(slices: int, high: set[str]) -> np.ndarray:
    """(slices, 6): a bump about two thirds of the way up for what is present, and little elsewhere."""
    bump = np.exp(-0.5 * ((np.arange(slices) - 0.6 * slices) / max(1.0, slices / 10)) ** 2)
    low = 0.02 + 0.01 * np.arange(len(LABELS))
    return np.stack(
        [0.9 * bump + 0.02 if label in high else low[n] + 0 * bump for n, label in enumerate(LABELS)], 1
    )
