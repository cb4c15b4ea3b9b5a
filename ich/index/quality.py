"""Data quality: what is not plausible in the pixels of a slice, or in a series, although it can be read.

No data are left out because of it. A person should look at each problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.progress import map_in_threads
from ich.remote import AnyPath
from ich.schema import ReadError, UserError
from ich.schema.codes import Quality
from ich.schema.hu import ANY_AIR, BONE, TISSUE
from ich.schema.shares import show_percent
from ich.tables import say, write_table
from ich.tables.stacks import NO_STACK, SAME_POSITION, describe_odd, find_odd

QUALITY = "quality.csv"
"""File beside the index."""

COLUMNS = ("code", "SeriesInstanceUID", "path", "detail")
"""Columns of a table of data-quality problems; ``path`` is empty if a problem concerns a series."""

LEAST_AIR = 0.1  # share of a slice: the field of 210 to 250 mm is much wider than a head
LEAST_TISSUE = 0.005  # share of a slice: a circle of 18 mm in a field of 230 mm
MOST_BONE = 0.25  # share of a slice: a skull of 10 mm takes up some 10 % of a field of 230 mm
GAP = 1.5  # steps: half-way between none and one slice that is missing
BEYOND_HEAD = 1 / 6  # of a series, at either end: 25 mm of 150 mm may lie above the vertex
SAME_TILT = 0.5  # degrees
SAME_SPACING = 0.01  # share


Found = tuple[Quality, str]
"""A code and what was found, with its number."""

_Counted = tuple[Quality, "pd.Series[str]"]
"""A code, and what was found by the number of the series or stack."""


def find_in_slice(hu: NDArray[np.int16]) -> list[Found]:
    """Finds what is not plausible in the pixels of a slice of head CT.

    The slices of CT-ICH (1,491 of 50 patients) have shares of 0.41 to 0.90 of air, 0.016 to 0.46 of soft
    tissue and at most 0.16 of bone.

    Args:
        hu: (Rows, Columns) Hounsfield units.
    """
    if (hu == hu.flat[0]).all():
        return [(Quality.CONSTANT, f"all pixels are {hu.flat[0]} HU")]
    found = []
    for code, (low, high), least, most in (
        (Quality.LITTLE_AIR, ANY_AIR, LEAST_AIR, 1.0),
        (Quality.LITTLE_TISSUE, TISSUE, LEAST_TISSUE, 1.0),
        (Quality.MUCH_BONE, BONE, 0.0, MOST_BONE),
    ):
        share = float(((hu >= low) & (hu <= high)).mean())
        if not least <= share <= most:
            found.append((code, f"{show_percent(share, 2)} of the pixels have {low} to {high} HU"))
    return found


def check_series(table: pd.DataFrame) -> pd.DataFrame:
    """Finds what is not plausible in the order and the geometry of each series of an index.

    Positions are those along the slice normal (PS3.3 C.7.6.2.1.1). Steps may change within a series, as in
    protocols with thinner slices at the skull base: a gap is larger than those on its either side.

    An image that is not a slice of its series is reported only as such. Each stack of slices is checked by
    itself.

    Returns:
        A table of ``COLUMNS``, one row per stack and code.
    """
    series = ["StudyInstanceUID", "SeriesInstanceUID"]
    whole = table.groupby(series, sort=False).ngroup()
    found = list(_list(_find_mixtures(table, whole), table, whole))
    slices = table[table["stack"] != NO_STACK].reset_index(drop=True)
    number = slices.groupby([*series, "stack"], sort=False).ngroup()
    checks = (*_find_in_positions(slices, number), *_find_mixed(slices, number))
    return pd.DataFrame([*_list(checks, slices, number), *found], columns=list(COLUMNS))


def _list(
    checks: Iterable[_Counted], table: pd.DataFrame, number: pd.Series[int]
) -> Iterator[tuple[str, ...]]:
    names = table["SeriesInstanceUID"].groupby(number).first().to_numpy()
    for code, details in checks:
        for name, detail in zip(names[details.index], details, strict=True):
            yield str(code), name, "", detail


def _find_mixtures(table: pd.DataFrame, number: pd.Series[int]) -> Iterator[_Counted]:
    odd = table["stack"] == NO_STACK
    mixed = np.unique(number[odd])
    details = [describe_odd(find_odd(table[number == series])) for series in mixed]
    yield Quality.MIXED_IMAGES, pd.Series(details, mixed, dtype="str")
    stacks = table["stack"][~odd].groupby(number[~odd]).nunique()
    # US is unspecified (PS3.3 C.11.1.1.2).
    is_open = table["RescaleType"] == "US"
    yield _count(Quality.NO_UNIT, is_open, number, "slice", ("has", "have"), "RescaleType US")
    yield Quality.SEVERAL_STACKS, stacks[stacks > 1].map("{} stacks of slices at the same places".format)


def _find_in_positions(table: pd.DataFrame, number: pd.Series[int]) -> Iterator[_Counted]:
    slices = table[["position", "InstanceNumber"]].assign(series=number)
    lacks = slices["position"].isna()
    yield _count(Quality.NO_POSITION, lacks, number, "slice", ("has", "have"), "no position")
    slices = slices.dropna(subset="position").sort_values(["series", "position"])
    step = slices.groupby("series")["position"].diff()
    twice, verbs = step < SAME_POSITION, ("lies", "lie")
    yield _count(Quality.DUPLICATE_POSITION, twice, slices["series"], "slice", verbs, "where another does")
    steps = slices.assign(step=step)[step >= SAME_POSITION]
    by_series = steps.groupby("series")["step"]
    around = pd.concat([by_series.shift(places) for places in range(-2, 3)], axis=1)
    usual = pd.Series(np.nanmedian(around.to_numpy(), axis=1), steps.index) if len(steps) else steps["step"]
    is_gap = steps["step"] > GAP * usual
    yield _count(Quality.GAP, is_gap, steps["series"], "gap", ("", ""), "between slices")
    slices = slices.dropna(subset="InstanceNumber").sort_values(["series", "InstanceNumber"], kind="stable")
    turn = slices.groupby("series")["position"].diff()
    falls, rises = ((sign * turn > SAME_POSITION).groupby(slices["series"]).sum() for sign in (-1, 1))
    text = "positions jump back and forth in the order of InstanceNumber"
    yield Quality.NOT_MONOTONE, pd.Series(text, falls.index)[(falls > 0) & (rises > 0)]


def _count(
    code: Quality,
    found: pd.Series[bool],
    series: pd.Series[int],
    unit: str,
    verbs: tuple[str, str],
    rest: str,
) -> _Counted:
    """Counts by series; the verbs are those of one and of several."""
    counts = found.groupby(series).sum()
    return code, counts[counts > 0].map(lambda count: f"{say(count, unit, *verbs)} {rest}")


def _find_mixed(table: pd.DataFrame, number: pd.Series[int]) -> Iterator[_Counted]:
    for code, columns, same, share in (
        (Quality.MIXED_ORIENTATION, ["tilt"], SAME_TILT, 0.0),
        (Quality.MIXED_SPACING, ["row_spacing", "column_spacing"], 0.0, SAME_SPACING),
        (Quality.MIXED_SHAPE, ["Rows", "Columns"], 0.0, 0.0),
    ):
        by_series = table[columns].groupby(number)
        low, high = by_series.min(), by_series.max()
        mixed = (high - low > same + share * low).any(axis=1)
        text = pd.Series("", low.index)
        for column in columns:
            text += f"{column} from " + low[column].map("{:g}".format)
            text += " to " + high[column].map("{:g}".format) + "; "
        yield code, text[mixed].str.removesuffix("; ")


def check_slices(root: AnyPath, table: pd.DataFrame, progress: bool = True) -> pd.DataFrame:
    """Reads the pixels of every slice of an index, and finds what is not plausible in them.

    Slices above the head hold only air. At an end of a series this is normal if the rest has tissue.

    Args:
        root: Folder of the data set.
        table: Its index.
        progress: Show a bar on a terminal.

    Returns:
        A table of ``COLUMNS``; where pixels cannot be read, with a code of ``Refusal``.
    """
    found = []
    places = list(zip(table["path"], table["frame"], strict=True))
    by_slice = list(map_in_threads(partial(_check_slice, root), places, "Reading pixels", progress))
    beyond = _find_beyond_head(table, [Quality.LITTLE_TISSUE in dict(codes) for codes in by_slice])
    rows = zip(table["SeriesInstanceUID"], table["path"], by_slice, beyond, strict=True)
    for series, path, codes, is_beyond in rows:
        found += [
            (str(code), series, path, detail)
            for code, detail in codes
            if not (is_beyond and code == Quality.LITTLE_TISSUE)
        ]
    return pd.DataFrame(found, columns=list(COLUMNS))


def _find_beyond_head(table: pd.DataFrame, is_bare: list[bool]) -> NDArray[np.bool_]:
    """Finds slices with little tissue at an end of a series that mostly has some."""
    beyond = np.zeros(len(table), bool)
    order = np.argsort(table["position"].to_numpy(), kind="stable")
    for _, places in pd.Series(order).groupby(table["SeriesInstanceUID"].to_numpy()[order], sort=False):
        bare = np.array(is_bare, bool)[places]
        if bare.mean() < 0.5:
            from_end = np.minimum(np.arange(len(bare)), np.arange(len(bare))[::-1])
            beyond[places] = bare & (from_end < BEYOND_HEAD * len(bare))
    return beyond


def _check_slice(root: AnyPath, place: tuple[str, int]) -> list[Found] | list[tuple[str, str]]:
    path, frame = place
    try:
        return find_in_slice(read_hu(root / path, frame))
    except ReadError as error:
        return [(error.code, error.detail)]


def write_quality(problems: pd.DataFrame, folder: Path) -> None:
    """Writes a table of data-quality problems beside the index. Only its owner can read it: it names files.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        write_table(problems, folder / QUALITY)
        (folder / QUALITY).chmod(0o600)
    except OSError as error:
        raise UserError(
            f"the list of data-quality problems cannot be written to {folder}: {error.strerror or error}"
        ) from error
