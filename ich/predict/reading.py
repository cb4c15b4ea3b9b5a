"""Reads a study before any network sees it: the series, its slices, and reasons against a result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.orientation import find_transposed
from ich.predict.stacks import Stack, has_windows, read_stack
from ich.schema.codes import Note, Reason, SetAside
from ich.schema.results import Remark, SeriesResult
from ich.studies import StudyFiles
from ich.studies.series import Ranking, rank_series
from ich.studies.series.geometry import check_geometry
from ich.studies.series.parts import close_numbers, describe_parts, find_others, list_displaced
from ich.studies.series.pixels import SeriesMeasures, bring_to_scale, measure_series
from ich.studies.series.plausible import Verdict, check_pixels, find_head, may_be_slice
from ich.studies.series.turned import check_turn
from ich.tables import say

CHECK_SIZE = 128
"""Side in pixels of the slices that are checked for a head and for plausible HU."""


_MAY_BE_HEAD = (SetAside.ALL_REFUSED, SetAside.ANOTHER_READ)
_BONE = Remark(Reason.ONLY_BONE_KERNEL, "the series that was read has a bone kernel")


@dataclass(frozen=True)
class Reading:
    """A study after reading.

    Attributes:
        study: Files of the study.
        stack: Slices of the chosen series; None if there is none.
        series: How each series was used.
        refusal: Why the study cannot be read; None if it was read.
        reasons: Reasons against ``NEGATIVE``, from files, geometry and pixels.
        notes: Notes on these, which prevent no outcome.
        left_out: Why slices of the stack do not count, by their place.
        begun_at: When its reading began, seconds since 1970.
        seconds: How long it took.
    """

    study: StudyFiles
    stack: Stack | None
    series: tuple[SeriesResult, ...]
    refusal: Remark | None
    reasons: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    left_out: Mapping[int, Remark]
    begun_at: float = field(default_factory=time.time)
    seconds: float = 0.0


def read_timed(
    study: StudyFiles, sizes: Collection[int], pool: Executor, takes_window: bool = False
) -> Reading:
    """Reads a study as ``read_study`` does, and notes the time."""
    begun_at, begun = time.time(), time.perf_counter()
    reading = read_study(study, sizes, pool, takes_window)
    return replace(reading, begun_at=begun_at, seconds=time.perf_counter() - begun)


def read_study(
    study: StudyFiles, sizes: Collection[int], pool: Executor, takes_window: bool = False
) -> Reading:
    """Chooses the series of a study and reads it.

    The candidates are tried in order until one shows a head. If none does, a head that is not on the scale of
    Hounsfield units is read, so that the user learns of it.

    Args:
        study: Files of the study.
        sizes: Sides of the images that networks take, pixels.
        pool: Threads that read.
        takes_window: Whether a network takes the window of the header.
    """
    files = study.files
    ranking = rank_series(files)
    set_aside = dict(ranking.set_aside)
    off_scale: tuple[str, Stack, SeriesMeasures] | None = None
    for uid in ranking.candidates:
        _, rows = _find_slices(files, ranking, uid)
        stack = read_stack(study.root, rows, {CHECK_SIZE, *sizes}, pool)
        transposed = find_transposed(stack.slices["orientation"].to_numpy())
        measures = measure_series(
            stack.hu[CHECK_SIZE], _find_spacing(stack.slices), stack.positions, transposed
        )
        problem = _find_problem(stack, measures, takes_window)
        if problem is None:
            return _make_reading(study, ranking, set_aside, pool, uid, stack, measures)
        set_aside[uid] = problem
        if off_scale is None and problem.code == SetAside.NO_HEAD and _shows_head_off_scale(stack):
            off_scale = uid, stack, measures
    if off_scale is not None:
        return _make_reading(study, ranking, set_aside, pool, *off_scale)
    return Reading(study, None, _list_series(files, set_aside), _find_refusal(set_aside), (), (), {})


def refuse_study(study: StudyFiles, remark: Remark) -> Reading:
    """Sets a study aside without reading it."""
    series = study.files.loc[study.files["SeriesInstanceUID"] != "", "SeriesInstanceUID"]
    set_aside = dict.fromkeys(series.unique(), remark)
    return Reading(study, None, _list_series(study.files, set_aside), remark, (), (), {})


def _find_slices(files: pd.DataFrame, ranking: Ranking, uid: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Finds all files of a series, and those that are read."""
    whole = files[files["SeriesInstanceUID"] == uid]
    return whole, whole[(whole["code"] == "") & whole["SOPInstanceUID"].isin(ranking.slices[uid])]


def _make_reading(
    study: StudyFiles,
    ranking: Ranking,
    set_aside: Mapping[str, Remark],
    pool: Executor,
    uid: str,
    stack: Stack,
    measures: SeriesMeasures,
) -> Reading:
    """Collects reasons and notes for the series that is read."""
    files = study.files
    others = Remark(SetAside.ANOTHER_READ, "another series of the study suits better")
    set_aside = dict.fromkeys(ranking.candidates, others) | dict(set_aside)
    set_aside.pop(uid)
    whole, rows = _find_slices(files, ranking, uid)
    verdict = check_pixels(measures)
    lost = _list_lost(study, whole, stack, pool)
    found = (
        *_find_unread(files, uid, set_aside, stack, lost),
        *check_geometry(close_numbers(rows, whole)),
        *verdict.remarks,
        *_find_turn(stack.hu[CHECK_SIZE], verdict),
    )
    said = (*describe_parts(whole, rows), *_find_units(rows))
    remarks = (*study.remarks, *said, *found, *([_BONE] if uid in ranking.sharp else ()))
    return Reading(
        study=study,
        stack=stack,
        series=_list_series(files, set_aside),
        refusal=None,
        reasons=tuple(remark for remark in remarks if isinstance(remark.code, Reason)),
        notes=tuple(remark for remark in remarks if isinstance(remark.code, Note)),
        left_out=verdict.left_out,
    )


def _shows_head_off_scale(stack: Stack) -> bool:
    scaled = bring_to_scale(stack.hu[CHECK_SIZE])
    spacing = _find_spacing(stack.slices)
    if scaled is None or not np.isfinite(spacing):
        return False
    return find_head(measure_series(scaled, spacing)) is None


def _find_turn(hu: NDArray[np.int16], verdict: Verdict) -> list[Remark]:
    """Checks the orientation of the head in slices that are on the scale."""
    if Reason.IMPLAUSIBLE_HU in {remark.code for remark in verdict.remarks}:
        return []
    return check_turn(np.delete(hu, list(verdict.left_out), axis=0))


def _find_problem(stack: Stack, measures: SeriesMeasures, takes_window: bool) -> Remark | None:
    if stack.slices.empty:
        codes = ", ".join(sorted({str(error.code) for error in stack.unread}))
        return Remark(SetAside.ALL_REFUSED, f"the pixels of {say(len(stack.unread), 'slice')}: {codes}")
    if takes_window and not has_windows(stack.window):
        return Remark(
            SetAside.NO_WINDOW, "the model needs the window of the header, which is missing in slices"
        )
    if np.isnan(_find_spacing(stack.slices)):
        return Remark(SetAside.NO_HEAD, "no PixelSpacing, so a head cannot be recognized by its size")
    return find_head(measures)


def _find_spacing(slices: pd.DataFrame) -> float:
    """Returns mm between pixels at ``CHECK_SIZE``; NaN if no slice gives it."""
    sides = [slices["Rows"] * slices["row_spacing"], slices["Columns"] * slices["column_spacing"]]
    return float(pd.concat(sides, axis=1).max(axis=1).median()) / CHECK_SIZE


def _list_lost(study: StudyFiles, whole: pd.DataFrame, stack: Stack, pool: Executor) -> list[str]:
    """Lists the codes of images that are set aside although they may be slices of the head.

    Args:
        study: The study that holds them.
        whole: The files of the series that is read.
        stack: Its slices. An image with the same pixels as one of them counts as read.
        pool: Threads that read.
    """
    images = read_stack(study.root, list_displaced(whole), [CHECK_SIZE], pool)
    hu = images.hu[CHECK_SIZE]
    known = {each.tobytes() for each in stack.hu[CHECK_SIZE]}
    slices = measure_series(hu, _find_spacing(stack.slices)).slices
    lost = [
        may_be_slice(measured) and each.tobytes() not in known
        for measured, each in zip(slices, hu, strict=True)
    ]
    return [*images.slices["odd"][lost], *(error.code for error in images.unread)]


def _find_unread(
    files: pd.DataFrame, uid: str, set_aside: dict[str, Remark], stack: Stack, lost: Sequence[str]
) -> Iterator[Remark]:
    # What was lost of a series that is not read might have made it the one to read.
    heads = [series for series, remark in set_aside.items() if remark.code in _MAY_BE_HEAD]
    is_lost = (files["code"] != "") & ~find_others(files)
    refused = files[is_lost & files["SeriesInstanceUID"].isin([uid, *heads])]
    unread = [error.code for error in stack.unread]
    codes = pd.Series([str(code) for code in (*refused["code"], *unread, *lost)], dtype="str")
    if len(codes):
        counts = ", ".join(f"{code} {count}" for code, count in codes.value_counts().sort_index().items())
        which = "file that may be a slice" if len(codes) == 1 else "files that may be slices"
        yield Remark(Reason.UNREAD_SLICE, f"{len(codes)} {which} of a head: {counts}")


def _find_units(rows: pd.DataFrame) -> Iterator[Remark]:
    # "US" is unspecified (PS3.3 C.11.1.1.2). Slices that are not on the scale are found by their pixels.
    if count := int((rows["RescaleType"] == "US").sum()):
        open_unit = "RescaleType is US, which leaves the unit open"
        yield Remark(Note.NO_UNIT, f"{open_unit}, in {say(count, 'slice')}")


def _list_series(files: pd.DataFrame, set_aside: dict[str, Remark]) -> tuple[SeriesResult, ...]:
    named = files[files["SeriesInstanceUID"] != ""]
    return tuple(
        SeriesResult(str(uid), str(rows["Modality"].iloc[0]), rows["path"].nunique(), set_aside.get(str(uid)))
        for uid, rows in named.groupby("SeriesInstanceUID", sort=True)
    )


def _find_refusal(set_aside: dict[str, Remark]) -> Remark:
    """Finds the code of the series that was closest to being read, and counts each code."""
    counts = Counter(SetAside(remark.code) for remark in set_aside.values())
    if not counts:
        return Remark(SetAside.NOT_CT, "no file says which series it belongs to")
    order = list(SetAside)
    nearest = max(counts, key=order.index)
    if len(counts) == 1:
        return next(remark for remark in set_aside.values() if remark.code == nearest)
    listed = ", ".join(f"{code} {counts[code]}" for code in sorted(counts, key=order.index))
    return Remark(nearest, f"no series of a head can be read: {listed}")
