"""Heat maps of slices in LPS, as pictures and as arrays in the slices' own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import MofNCompleteColumn, Progress

from ich.data.resize import restore_size
from ich.data.slices import SliceDataset, SliceReader, to_arrays
from ich.dicom import read_geometry, read_hu
from ich.dicom.orientation import UNKNOWN
from ich.explain import explain
from ich.explain.drawing import draw_heat
from ich.explain.grids import find_grid
from ich.files import escape_path, for_owner_alone
from ich.index import index_paths
from ich.models import SliceClassifier
from ich.progress import make_bar
from ich.report.figures import write_png
from ich.schema import LABELS, ReadError, UserError
from ich.tables import write_table
from ich.window import Window, window_batch

_BATCH = 16  # slices that are explained at a time


class Explained(NamedTuple):
    """What was written.

    Attributes:
        slices: How many were explained.
        refused: A row a file that was not: ``path``, ``code`` and ``detail``.
    """

    slices: int
    refused: pd.DataFrame


class Heat(NamedTuple):
    """A slice's maps.

    Attributes:
        row: Of the slice in its table.
        probs: (6,) float32 in the order of ``LABELS``.
        heat: By label (Rows, Columns) float32 in LPS, as ``ich.explain.explain`` gives it.
    """

    row: int
    probs: NDArray[np.float32]
    heat: dict[str, NDArray[np.float32]]


def write_heatmaps(
    model: SliceClassifier, paths: Sequence[Path], out: Path, labels: Sequence[str], window: str
) -> Explained:
    """Explains slices and writes what comes of it, for its owner alone.

    A slice is prepared as in training and prediction. Its neighbours are those of its series among all that
    is given; at an end, and so for a slice on its own, the slice itself repeats.

    ``out`` then holds, with the slice's number in place of 0000,

    - ``0000_any.png``: the slice, its map for the label ``any``, its probability;
    - ``0000.npz``: under each label asked for the map, (Rows, Columns) float32, 0 where nothing speaks for
      the label and 1 at the slice's peak; ``probs`` (6,) float32 in the order of ``LABELS``; ``spacing`` (2,)
      mm between rows, between columns; ``orientation`` (6,) and ``position`` (3,) as in
      ImageOrientationPatient and ImagePositionPatient. All of these are of the slice in LPS, as
      ``ich.dicom.read_hu`` gives it, whatever way it is stored. NaN where the file lacks them;
    - ``slices.csv``: which slice and file each number is, and its probabilities;
    - ``refused.csv``: the files that could not be read, and why.

    Args:
        model: In evaluation mode.
        paths: DICOM files and folders of them.
        out: New or empty folder.
        labels: Some of ``LABELS``.
        window: Of the pictures: one of ``WINDOWS``.

    Raises:
        UserError: If nothing can be read, the folder is in use, or the network cannot be explained.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty; name a new folder with --out")
    root, (table, refused) = index_paths(paths)
    lacking = int((table["WindowCenter"].isna() | ~(table["WindowWidth"] > 0)).sum())
    if "dicom" in model.input.windows and lacking:
        raise UserError(f"the model wants the window of the header, which {lacking} of the slices lack")
    unread: list[tuple[str, str, str]] = []
    rows: list[int] = []
    probs: list[NDArray[np.float32]] = []
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with for_owner_alone(), make_bar(columns, shown=True) as bar:
        out.mkdir(parents=True, exist_ok=True)
        task = bar.add_task("Explaining", total=len(table))
        for found in explain_slices(model, root, table, range(len(table)), labels):
            bar.advance(task)
            if isinstance(found, ReadError):
                unread.append((found.path, str(found.code), found.detail))
                continue
            _write_slice(found, root, table.iloc[found.row], out, window)
            rows.append(found.row)
            probs.append(found.probs)
        names = ["path", "code", "detail"]
        refused = refused[names].assign(path=f"{escape_path(root)}/" + refused["path"])
        refused = pd.concat([refused, pd.DataFrame(unread, columns=names).drop_duplicates()])
        listed = table.iloc[rows][["SOPInstanceUID", "SeriesInstanceUID", "path"]]
        listed["path"] = f"{escape_path(root)}/" + listed["path"]
        listed.insert(0, "number", rows)
        listed[[f"prob_{label}" for label in LABELS]] = np.reshape(probs, (-1, len(LABELS)))
        write_table(listed, out / "slices.csv")
        write_table(refused, out / "refused.csv")
    if not rows:
        raise UserError(f"none of {len(table)} slices can be read: see {out / 'refused.csv'}")
    return Explained(len(rows), refused)


def explain_slices(
    model: SliceClassifier, root: Path, table: pd.DataFrame, rows: Sequence[int], labels: Sequence[str]
) -> Iterator[Heat | ReadError]:
    """Yields the maps of slices, or why one cannot be read.

    Args:
        model: In evaluation mode; it is moved to a GPU if there is one.
        root: Folder of the DICOM files.
        table: Their index, with the slices' neighbours in it.
        rows: Of the table.
        labels: Some of ``LABELS``.

    Raises:
        UserError: If the network cannot be explained.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    arrays = to_arrays(table.assign(**dict.fromkeys(LABELS, np.nan)))
    dataset = SliceDataset(SliceReader(root, arrays), arrays, model.input)
    window = Window(model.input).to(device)
    grid = None
    sizes = table[["Rows", "Columns"]].to_numpy()
    for start in range(0, len(rows), _BATCH):
        items = [(0, row, 0) for row in rows[start : start + _BATCH]]
        batch: dict[str, Any] = dataset.__getitems__(items)
        yield from (error for _, error in batch["unread"])
        if "hu" not in batch:
            continue
        x = batch["hu"].to(device)
        if not model.input.learnable:
            header = batch["window"].to(device) if "window" in batch else None
            x = window_batch(window, x, header)
        grid = grid or find_grid(model, x)
        with torch.no_grad():
            probs = model.to_probs(model(x)).cpu().numpy()
        maps = {label: explain(model, x, label, grid=grid).cpu().numpy() for label in labels}
        for number, row in enumerate(batch["row"].tolist()):
            heat = {label: restore_size(each[number], *sizes[row].tolist()) for label, each in maps.items()}
            yield Heat(row, probs[number], heat)


def _write_slice(found: Heat, root: Path, row: Any, out: Path, window: str) -> None:
    path, number = root / row["path"], f"{found.row:04d}"
    hu, geometry = read_hu(path, row["frame"]), read_geometry(path, row["frame"])
    spacing = np.array([row["row_spacing"], row["column_spacing"]])
    np.savez_compressed(
        out / f"{number}.npz",
        allow_pickle=False,
        **found.heat,
        probs=found.probs,
        spacing=spacing,
        orientation=np.array(geometry.orientation),
        position=np.array(geometry.position),
    )
    shown = (float(spacing[0]), float(spacing[1])) if np.isfinite(spacing).all() else (1.0, 1.0)
    for label, heat in found.heat.items():
        title = f"slice {found.row}: {label}, probability {found.probs[LABELS.index(label)]:.3f}"
        in_lps = bool(row["orientation"] != UNKNOWN)
        figure = draw_heat(hu, heat, title, window=window, spacing=shown, in_lps=in_lps)
        write_png(figure, out / f"{number}_{label}.png", dpi=110)
