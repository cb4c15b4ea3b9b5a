"""Study results as three tables: one row per study, per slice of the series that were read, and per series.

They name patients and instances. ``number`` links them to each other and to a study's other outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from ich.files import for_owner_only
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.schema.results import Remark, SliceResult, StudyResult
from ich.tables import SLAB_COLUMN, UIDS, WEIGHTS_COLUMN, name_columns, writing_csv

__all__ = ["write_tables"]


def list_study_columns(labels: LabelSet = RSNA_LABELS) -> dict[str, str]:
    """Lists the columns of ``studies.csv`` and their types."""
    point = () if labels.decides is None else (labels.decides,)
    return {
        "number": "int64",  # of the study, from 1
        "StudyInstanceUID": "str",
        "PatientID": "str",
        "SeriesInstanceUID": "str",  # of the series that was read; empty if none was
        "outcome": "str",  # POSITIVE, NEGATIVE or INDETERMINATE; empty if the study was refused
        "refusal": "str",  # code of the refusal; empty if the study was read
        "reasons": "str",  # codes of the reasons against NEGATIVE, with spaces between
        "notes": "str",  # codes of the notes
        # Pooled over the slices, and calibrated if the model has a calibration.
        **dict.fromkeys(name_columns("prob", labels.names), "float64"),
        # 1 is called present, 0 absent; empty if undecided.
        **dict.fromkeys(name_columns("positive", labels.names), "Int8"),
        # The operating point of the label that decides; empty without one.
        **dict.fromkeys(name_columns("threshold", point), "float64"),
        "key_slices": "str",  # numbers in the column slice of slices.csv, the most probable first
        "distance": "float64",  # from the training data, 1 is usual; empty without a reference
        "distance_limit": "float64",  # above which a study is out of distribution
    }


def list_slice_columns(labels: LabelSet = RSNA_LABELS) -> dict[str, str]:
    """Lists the columns of ``slices.csv`` and their types."""
    return {
        "number": "int64",
        "slice": "int64",  # counted from 1 in order of position, as pages and key images count
        **dict.fromkeys(UIDS, "str"),
        "part": "str",  # as in any predictions table; empty, because a study belongs to no set
        "InstanceNumber": "Int64",  # as stored; empty if missing
        "position": "float64",  # mm along the slice normal, from feet to head; empty if unknown
        SLAB_COLUMN: "Int64",  # slices of a slab were averaged and share probabilities; empty without any
        **dict.fromkeys(name_columns("prob", labels.names), "float64"),  # as the network gave them
        # Empty without a calibration of slices.
        **dict.fromkeys(name_columns("calibrated", labels.names), "float64"),
        "key": "int8",  # 1 for a key slice
        "left_out": "str",  # code why it does not count for the study; empty if it counts
        WEIGHTS_COLUMN: "str",  # of the model; empty for an ensemble or an ONNX file
    }


SERIES_DTYPES = {
    "number": "int64",
    "StudyInstanceUID": "str",
    "PatientID": "str",
    "SeriesInstanceUID": "str",
    "Modality": "str",
    "files": "int64",  # including refused ones
    "read": "int8",  # 1 for the series that was read
    "code": "str",  # why it was set aside; empty if it was read
    "detail": "str",
}
"""Columns of ``series.csv``."""


_TOGETHER = 256  # studies whose rows are in memory at the same time


def write_tables(
    results: Iterable[StudyResult], folder: str | Path, weights: str = "", labels: LabelSet = RSNA_LABELS
) -> None:
    """Writes ``studies.csv``, ``slices.csv`` and ``series.csv``, each completely or not at all.

    Only their owner can read them. ``slices.csv`` is a predictions table for ``ich evaluate``. Results are
    taken one after the other and not kept.

    Args:
        results: Results by one model, or by one ensemble.
        folder: Folder for the tables.
        weights: SHA-256 of the model's weights; empty for several models, or if unknown.
        labels: What the model predicts.
    """
    with for_owner_only(), ExitStack() as stack:
        studies, slices, series = (
            stack.enter_context(writing_csv(Path(folder, f"{name}.csv")))
            for name in ("studies", "slices", "series")
        )
        for part in _cut(results):
            studies(tabulate_studies(part, labels))
            slices(tabulate_slices(part, weights, labels))
            series(tabulate_series(part))


def _cut(results: Iterable[StudyResult]) -> Iterator[list[StudyResult]]:
    """Yields results part by part; one part without results if there are none, for the names of columns."""
    remaining = iter(results)
    part = list(islice(remaining, _TOGETHER))
    yield part
    while part := list(islice(remaining, _TOGETHER)):
        yield part


def tabulate_studies(results: Sequence[StudyResult], labels: LabelSet = RSNA_LABELS) -> pd.DataFrame:
    """Returns one row per study: ``list_study_columns``."""
    return _make_table([_list_study(result) for result in results], list_study_columns(labels))


def tabulate_slices(
    results: Sequence[StudyResult], weights: str = "", labels: LabelSet = RSNA_LABELS
) -> pd.DataFrame:
    """Returns one row per slice of the series that were read: ``list_slice_columns``, with ``weights``."""
    rows = [
        _list_slice(result, place, each) | {WEIGHTS_COLUMN: weights}
        for result in results
        for place, each in enumerate(result.slices)
    ]
    return _make_table(rows, list_slice_columns(labels))


def tabulate_series(results: Sequence[StudyResult]) -> pd.DataFrame:
    """Returns one row per series: ``SERIES_DTYPES``."""
    rows = [
        {
            "number": result.number,
            "StudyInstanceUID": result.StudyInstanceUID,
            "PatientID": result.PatientID,
            "SeriesInstanceUID": series.SeriesInstanceUID,
            "Modality": series.Modality,
            "files": series.files,
            "read": int(series.set_aside is None),
            "code": "" if series.set_aside is None else str(series.set_aside.code),
            "detail": "" if series.set_aside is None else series.set_aside.detail,
        }
        for result in results
        for series in result.series
    ]
    return _make_table(rows, SERIES_DTYPES)


def _list_study(result: StudyResult) -> dict[str, Any]:
    return {
        "number": result.number,
        "StudyInstanceUID": result.StudyInstanceUID,
        "PatientID": result.PatientID,
        "SeriesInstanceUID": result.read_series or "",
        "outcome": "" if result.outcome is None else str(result.outcome),
        "refusal": "" if result.refusal is None else str(result.refusal.code),
        "reasons": _join_codes(result.reasons),
        "notes": _join_codes(result.notes),
        **{f"prob_{label}": each.prob for label, each in result.labels.items()},
        **{
            f"positive_{label}": None if each.positive is None else int(each.positive)
            for label, each in result.labels.items()
        },
        **{
            f"threshold_{label}": each.threshold
            for label, each in result.labels.items()
            if label == result.decides
        },
        "key_slices": " ".join(str(place + 1) for place in result.key_slices),
        "distance": result.distance,
        "distance_limit": result.distance_limit,
    }


def _list_slice(result: StudyResult, place: int, each: SliceResult) -> dict[str, Any]:
    return {
        "number": result.number,
        "slice": place + 1,
        "SOPInstanceUID": each.SOPInstanceUID,
        "SeriesInstanceUID": result.read_series or "",
        "StudyInstanceUID": result.StudyInstanceUID,
        "PatientID": result.PatientID,
        "part": "",
        "InstanceNumber": each.InstanceNumber,
        "position": each.position,
        SLAB_COLUMN: each.slab,
        **{f"prob_{label}": prob for label, prob in each.probs.items()},
        **{f"calibrated_{label}": prob for label, prob in (each.calibrated or {}).items()},
        "key": int(place in result.key_slices),
        "left_out": "" if each.left_out is None else str(each.left_out.code),
    }


def _join_codes(remarks: Sequence[Remark]) -> str:
    return " ".join(dict.fromkeys(str(remark.code) for remark in remarks))


def _make_table(rows: Sequence[dict[str, Any]], dtypes: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(dtypes)).astype(dtypes)
