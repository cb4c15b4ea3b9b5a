"""A folder of heat maps: the list of slices first, then pictures and arrays in the slices' own size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_geometry, read_hu
from ich.dicom.orientation import UNKNOWN
from ich.explain.drawing import draw_heat
from ich.explain.heatmaps import Heat, explain_slices, find_first_grid, score_slices
from ich.files import escape_path, for_owner_only, open_locked, replacing
from ich.folders import prepare_folder, refusing_unwritable
from ich.index import index_paths
from ich.models import SliceNet
from ich.progress import track
from ich.report.figures import write_png
from ich.schema import ReadError, UserError
from ich.schema.results import KEY_SLICES
from ich.schema.shares import show_prob
from ich.tables import (
    REFUSED_COLUMNS,
    SLAB_COLUMN,
    STAMP,
    find_names,
    name_columns,
    restore_texts,
    write_table,
)
from ich.tables.slabs import find_middle, number_slabs

Choice = int | Literal["key", "all"]
"""Slices to explain: a number of the most probable ones, the key slices of each study, or all."""

LIST, REFUSED = "slices.csv", "refused.csv"

_LOCK = ".lock"


class Explained(NamedTuple):
    """Counts of a call.

    Attributes:
        slices: Number of listed slices.
        explained: Number of them with pictures, including earlier calls.
        now: Number of pictures of this call.
        refused: One row per unreadable file: ``path``, ``code`` and ``detail``.
    """

    slices: int
    explained: int
    now: int
    refused: pd.DataFrame


def write_heatmaps(
    net: SliceNet,
    sha256: str,
    paths: Sequence[Path],
    out: Path,
    labels: Sequence[str] | None,
    window: str,
    choice: Choice = "key",
) -> Explained:
    """Lists slices with their probabilities, then explains some. Only the owner can read the files.

    A slice is prepared as in training and prediction. Its neighbors come from its series among all given
    slices. At an end, and so for a single slice, the slice itself repeats. Thin slices are averaged as in
    prediction. The middle slice of a mean then stands for it, and the column ``averaged`` names all of them.

    ``out`` then holds these files, with the slice's number instead of 0000:

    - ``slices.csv``, written before any picture: slice, file and probabilities of each number. The column
      ``explained`` is ``yes``, ``no``, or ``to do`` for slices that this call has still to explain.
    - ``refused.csv``: the files that could not be read, and why.
    - ``0000_any.png``: the slice, its map for the label ``any``, and its probability.
    - ``0000.npz``: the map under the name of each label, (Rows, Columns) float32, from 0 without evidence
      to 1 at the slice's peak. ``probs`` is (L,) float32, one for each label of the network, and ``spacing``
      (2,) mm between rows and between columns. ``orientation`` (6,) and ``position`` (3,) are as in
      ImageOrientationPatient and ImagePositionPatient, or NaN if the file lacks them. All of these describe
      the slice in LPS, as ``ich.dicom.read_hu`` gives it.
    - ``settings.json``: the settings of the results. A later call with the same settings continues where an
      earlier one stopped, or adds the slices of another ``choice``.

    Args:
        net: In evaluation mode.
        sha256: SHA-256 of the model's file.
        paths: DICOM files and folders.
        out: New or empty folder, or the folder of an earlier call.
        labels: Some of the network's labels; None takes the one that decides.
        window: Window for the pictures: one of ``WINDOWS``.
        choice: ``key`` takes from each study the ``KEY_SLICES`` slices with the highest probability of each
            label. A number takes this many of all slices, by the highest of these probabilities.

    Raises:
        UserError: If a label is not known, nothing can be read, the folder holds something else, or the
            network cannot be explained.
    """
    names = net.metadata.labels.names
    if unknown := set(labels or ()) - set(names):
        raise UserError(f"label={min(unknown)}: the model predicts {', '.join(names)}")
    labels = [label for label in names if label in (labels or (net.metadata.labels.headline,))]
    root, (table, refused) = index_paths(paths)
    lacking = int((table["WindowCenter"].isna() | ~(table["WindowWidth"] > 0)).sum())
    if "dicom" in net.input.windows and lacking:
        raise UserError(
            f"the model needs the window of the header, which is missing in {lacking} of the slices"
        )
    refused = refused[REFUSED_COLUMNS].assign(path=f"{escape_path(root)}/" + refused["path"])
    settings = {"files": _hash_files(root, table), "labels": labels, "model": sha256, "window": window}
    table[SLAB_COLUMN] = number_slabs(table, net.metadata.thickness)
    with for_owner_only():
        with refusing_unwritable(out):
            prepare_folder(out, settings)
            lock = open_locked(out / _LOCK)
        with lock:
            return _fill(net, root, table, refused, out, labels, window, choice)


def _fill(
    net: SliceNet,
    root: Path,
    table: pd.DataFrame,
    refused: pd.DataFrame,
    out: Path,
    labels: Sequence[str],
    window: str,
    choice: Choice,
) -> Explained:
    """Writes the files that an earlier call did not write."""
    grid = find_first_grid(net, root, table)
    if (out / LIST).exists():
        listed, refused = _read(out / LIST), _read(out / REFUSED)
    else:
        listed, refused = _list_slices(net, root, table, refused, out)
    studies = table["StudyInstanceUID"].iloc[listed["number"]].to_numpy()
    chosen = choose_slices(listed, studies, labels, choice)
    done = {number for number in listed["number"] if _is_done(out, number, labels)}
    waiting = [number for number in chosen if number not in done]
    _write_list(listed, out, done, waiting)
    unread: list[ReadError] = []
    try:
        found = explain_slices(net, root, table, waiting, labels, grid)
        for each in track(found, "Explaining", len(waiting), shown=True):
            if isinstance(each, ReadError):  # its file has changed since it was listed
                unread.append(each)
                continue
            _write_slice(each, root, table.iloc[each.row], out, window, net.metadata.labels.names)
            done.add(each.row)
    finally:
        _write_list(listed, out, done, waiting)
    if unread:
        refused = _add_refused(refused, unread)
        write_table(refused, out / REFUSED)
    return Explained(len(listed), len(done), len(done & set(waiting)), refused)


def choose_slices(
    listed: pd.DataFrame, studies: NDArray[Any], labels: Sequence[str], choice: Choice
) -> list[int]:
    """Chooses the slices to explain, the most probable first.

    Args:
        listed: One row per slice: ``number`` and the probabilities.
        studies: (rows,) the slice's study.
        labels: The probabilities that count.
        choice: See ``write_heatmaps``.

    Returns:
        Numbers of the slices.
    """
    probs = listed[[f"prob_{label}" for label in labels]]
    order = np.argsort(-probs.max(axis=1).to_numpy(), kind="stable")
    if choice == "key":
        ranks = probs.groupby(studies, sort=False).rank(method="first", ascending=False)
        order = order[(ranks <= KEY_SLICES).any(axis=1).to_numpy()[order]]
    elif choice != "all":
        order = order[:choice]
    return [int(number) for number in listed["number"].to_numpy()[order]]


def _list_slices(
    net: SliceNet, root: Path, table: pd.DataFrame, refused: pd.DataFrame, out: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs the network over all slices; returns those that could be read, and the files that could not."""
    rows: list[int] = []
    probs: list[NDArray[np.float32]] = []
    unread: list[ReadError] = []
    slabs = _list_slabs(table)
    for each in track(score_slices(net, root, table, list(slabs)), "Listing", len(slabs), shown=True):
        if isinstance(each, ReadError):
            unread.append(each)
        else:
            rows.append(each[0])
            probs.append(each[1])
    refused = _add_refused(refused, unread)
    write_table(refused, out / REFUSED)
    if not rows:
        raise UserError(f"none of {len(table)} slices can be read: see {out / REFUSED}")
    listed = table.iloc[rows][["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "path"]]
    listed = listed.reset_index(drop=True)
    listed["path"] = f"{escape_path(root)}/" + listed["path"]
    listed["averaged"] = [" ".join(table["SOPInstanceUID"].iloc[slabs[row]]) for row in rows]
    listed.insert(0, "number", rows)
    listed[name_columns("prob", net.metadata.labels.names)] = np.stack(probs)
    return listed, refused


def _list_slabs(table: pd.DataFrame) -> dict[int, list[int]]:
    """Lists the rows of each slab by the row of its middle slice; of a single slice there are none."""
    slabs = pd.Series(range(len(table))).groupby(table[SLAB_COLUMN].to_numpy()).agg(list)
    return {find_middle(slab): slab if len(slab) > 1 else [] for slab in slabs}


def _add_refused(refused: pd.DataFrame, unread: Sequence[ReadError]) -> pd.DataFrame:
    rows = [(error.path, str(error.code), error.detail) for error in unread]
    return pd.concat([refused, pd.DataFrame(rows, columns=REFUSED_COLUMNS)]).drop_duplicates()


def _write_list(listed: pd.DataFrame, out: Path, done: set[int], waiting: Sequence[int]) -> None:
    states = dict.fromkeys(waiting, "to do") | dict.fromkeys(done, "yes")
    explained = [states.get(number, "no") for number in listed["number"]]
    write_table(listed.assign(explained=explained), out / LIST)


def _read(path: Path) -> pd.DataFrame:
    """Reads a table of an earlier call; only probabilities and the slice's number are not text."""
    try:
        texts = pd.read_csv(path, dtype="str", keep_default_na=False)
        numbers = {"number": "int64", **dict.fromkeys(name_columns("prob", find_names(texts)), "float64")}
        return restore_texts(texts.astype({name: numbers[name] for name in texts if name in numbers}))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it and run the command again") from error


def _is_done(out: Path, number: int, labels: Sequence[str]) -> bool:
    names = [f"{number:04d}.npz", *(f"{number:04d}_{label}.png" for label in labels)]
    return all((out / name).is_file() for name in names)


def _hash_files(root: Path, table: pd.DataFrame) -> str:
    """Returns the SHA-256 of the slices, their files, and the sizes and times of these."""
    rows = table[["SOPInstanceUID", *STAMP]].itertuples(index=False, name=None)
    return hashlib.sha256(repr((escape_path(root), list(rows))).encode()).hexdigest()


def _write_slice(found: Heat, root: Path, row: Any, out: Path, window: str, names: Sequence[str]) -> None:
    path, number = root / row["path"], f"{found.row:04d}"
    hu, geometry = read_hu(path, row["frame"]), read_geometry(path, row["frame"])
    spacing = np.array([row["row_spacing"], row["column_spacing"]])
    with replacing(out / f"{number}.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            **found.heat,
            probs=found.probs,
            spacing=spacing,
            orientation=np.array(geometry.orientation),
            position=np.array(geometry.position),
        )
    shown = (float(spacing[0]), float(spacing[1])) if np.isfinite(spacing).all() else (1.0, 1.0)
    for label, heat in found.heat.items():
        title = f"slice {found.row}: {label}, probability {show_prob(found.probs[names.index(label)], 3)}"
        in_lps = bool(row["orientation"] != UNKNOWN)
        figure = draw_heat(hu, heat, title, window=window, spacing=shown, in_lps=in_lps)
        write_png(figure, out / f"{number}_{label}.png", dpi=110)
