"""Sheets of slices: one slice of each subtype through every window, and a series from bottom to top."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.report.document import Missing, Picture
from ich.report.figures import encode_png
from ich.report.sheets import draw_contact_sheet
from ich.schema import WINDOWS, ReadError
from ich.schema.labels import RSNA_LABELS, LabelSet

_TRIES = 5  # slices, one after the other, until one can be read
_MOST = 32  # slices of a series
_UNKNOWN = "without label"


class _Shown(NamedTuple):
    what: str
    row: int
    hu: NDArray[np.int16]


def draw_windows(
    root: Path, table: pd.DataFrame, units: pd.DataFrame, labels: LabelSet
) -> list[Picture | Missing]:
    """Draws a slice of each subtype, and one without any, through every window.

    Without labels, it draws a slice from the middle of the largest series.
    """
    shown, lacking = list[_Shown](), list[str]()
    for what, rows in _list_candidates(table, units, labels):
        found = _read_first(root, table, rows)
        if found is None:
            lacking.append(what)
        else:
            shown.append(_Shown(what, *found))
    blocks: list[Picture | Missing] = []
    if shown:
        slices, windows, titles = [], [], []
        for what, _, hu in shown:
            for number, name in enumerate(WINDOWS):
                slices.append(hu)
                windows.append(name)
                titles.append(f"{what if number == 0 else ''}\n{name.replace('_', ' ')}")
        listed = ", ".join(f"{what} row {row}" for what, row, _ in shown)
        blocks.append(
            Picture(
                "windows",
                encode_png(draw_contact_sheet(slices, windows, titles, columns=len(WINDOWS))),
                "Rows are slices, columns are windows: "
                + ", ".join(f"{name.replace('_', ' ')} {c:g}/{w:g}" for name, (c, w) in WINDOWS.items())
                + f" HU (center/width). Rows of the index: {listed}.",
                f"Slices through the windows {', '.join(WINDOWS)}: {', '.join(what for what, _, _ in shown)}",
            )
        )
    if lacking:
        blocks.append(Missing(f"A slice of: {', '.join(lacking)}", "None can be read."))
    return blocks


def _list_candidates(
    table: pd.DataFrame, units: pd.DataFrame, labels: LabelSet
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Yields the kinds of slices to show, each with rows of the index, the best first."""
    if labels.names[0] not in table:
        yield _UNKNOWN, _take_middle(units, np.ones(len(table), dtype=bool))
        return
    several = (table[list(labels.averaged)] == 1).sum(axis=1).to_numpy()
    for subtype in labels.averaged:
        positive = (table[subtype] == 1).to_numpy()
        alone = positive & (several == 1)
        yield subtype, _take_middle(units, alone if alone.any() else positive)
    nothing = "no hemorrhage" if labels == RSNA_LABELS else "none of them"
    deciding = list(labels.names if labels.union is None else [labels.union])
    yield nothing, _take_middle(units, (table[deciding] == 0).all(axis=1).to_numpy())


def _take_middle(units: pd.DataFrame, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Takes the middle slices of the series with the most wanted slices, where a lesion is seen best."""
    rows: NDArray[np.int64] = np.flatnonzero(wanted)
    if not len(rows):
        return rows
    series = units["series"].to_numpy()[rows]
    rows = rows[series == np.bincount(series).argmax()]
    nearest = np.argsort(np.abs(np.arange(len(rows)) - len(rows) // 2), kind="stable")
    return np.asarray(rows[nearest][:_TRIES])


def _read_first(
    root: Path, table: pd.DataFrame, rows: NDArray[np.int64]
) -> tuple[int, NDArray[np.int16]] | None:
    for row in rows:
        hu = _read(root, table["path"].iloc[row], table["frame"].iloc[row])
        if hu is not None:
            return int(row), hu
    return None


def _read(root: Path, path: str, frame: int) -> NDArray[np.int16] | None:
    try:
        return read_hu(root / path, frame)
    except ReadError:
        return None


def choose_series(table: pd.DataFrame, units: pd.DataFrame, labels: LabelSet) -> NDArray[np.int64]:
    """Chooses the series with the most subtypes, and among these the one with the most slices.

    Returns:
        Its rows of the index, in order of position.
    """
    series = units["series"].to_numpy()
    sizes = np.bincount(series)
    richness = np.zeros(len(sizes))
    if labels.names[0] in table:
        for subtype in labels.averaged:
            richness[np.unique(series[(table[subtype] == 1).to_numpy()])] += 1
    best = np.lexsort((-sizes, -richness))[0]
    return np.flatnonzero(series == best)


def draw_series(
    root: Path, table: pd.DataFrame, rows: NDArray[np.int64], labels: LabelSet
) -> Picture | Missing:
    """Draws a series from bottom to top through the brain window; a long one at even distances."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(_MOST, len(rows))).round().astype(int))]
    slices, titles, unread = [], [], 0
    for row in chosen:
        found = table.iloc[row]
        hu = _read(root, found["path"], found["frame"])
        if hu is None:
            unread += 1
            continue
        slices.append(hu)
        where = f"{found['position']:.1f} mm" if np.isfinite(found["position"]) else "no position"
        titles.append("\n".join([where, *_list_subtypes(found, labels)]))
    if not slices:
        return Missing("A series from bottom to top", "None of its slices can be read.")
    lines = max(title.count("\n") for title in titles)
    titles = [title + "\n" * (lines - title.count("\n")) for title in titles]
    return Picture(
        "series",
        encode_png(draw_contact_sheet(slices, ["brain"] * len(slices), titles)),
        f"{len(slices)} of the {len(rows)} slices of a series, from bottom to top, through the brain "
        "window, with position and subtypes. The patient's left is on the right of a picture, if the files "
        f"give it. Rows {rows[0]} to {rows[-1]} of the index"
        + (f"; {unread} slices could not be read." if unread else "."),
        "Slices of one series in order of position",
    )


def _list_subtypes(slice_: pd.Series[float], labels: LabelSet) -> list[str]:
    return [subtype for subtype in labels.averaged if subtype in slice_ and slice_[subtype] == 1]
