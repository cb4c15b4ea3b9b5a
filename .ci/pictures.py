"""Draws the pictures of the pages on concepts, from the phantom.

python .ci/pictures.py PHANTOM         windows and orientation
python .ci/pictures.py PHANTOM RUN     distances of studies too, by the model of a run on the phantom

PHANTOM is a folder of `ich phantom`. The pictures go to docs/pictures. Others there come from commands, and
were made smaller with fewer colors: evaluation.png (timelines.png), histograms.png and reliability.png from
`ich evaluate`, the pages from `ich predict --write page`, and result.png from `ich explain`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ich.dicom import read_hu
from ich.index import build_index
from ich.report.figures import OKABE_ITO, SMALL, draw_slice, encode_png
from ich.schema import WINDOWS
from ich.tables import read_predictions

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
STUDIES = 12
"""Number of studies in the picture of distances."""


def save(figure: Figure, name: str) -> None:
    """Writes a picture with few colors, which is small."""
    with Image.open(io.BytesIO(encode_png(figure, 100))) as picture:
        picture.quantize(64, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)


def choose_slice(root: Path, table: pd.DataFrame) -> NDArray[np.int16]:
    """A slice with an epidural and another hemorrhage, in LPS."""
    labels = pd.read_csv(root / "stage_2_train.csv")
    labels[["slice", "label"]] = labels["ID"].str.rsplit("_", n=1, expand=True)
    wide = labels.pivot_table(index="slice", columns="label", values="Label")
    wide["several"] = wide.drop(columns="any").sum(axis=1)
    name = wide.sort_values(["epidural", "several"], kind="stable").index[-1]
    return read_hu(root / str(table.set_index("SOPInstanceUID")["path"][name]))


def draw_windows(hu: NDArray[np.int16]) -> Figure:
    """The presets, and how each maps HU to gray."""
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots(2, 4, height_ratios=(2, 1))
    values = np.arange(-200, 1001)
    for column, (name, (center, width)) in enumerate(WINDOWS.items()):
        draw_slice(axes[0, column], hu, name)
        axes[0, column].set_title(f"{name}\ncenter {center:g}, width {width:g}", fontsize=SMALL)
        axes[1, column].plot(values, np.clip((values - center) / width + 0.5, 0, 1), color=OKABE_ITO[0])
        axes[1, column].axvspan(50, 80, color=OKABE_ITO[5], alpha=0.35)
        axes[1, column].set(
            xlabel="HU; fresh blood is shaded", ylabel="gray" if column == 0 else "", yticks=(0, 1)
        )
    return figure


def draw_orientations(hu: NDArray[np.int16]) -> Figure:
    """The same slice as three programs may store it, and as it is read."""
    shown = {
        "rows run to the patient's right": hu[:, ::-1],
        "columns run to the front": hu[::-1],
        "rows run to the back": hu.T,
        "as it is read: LPS": hu,
    }
    figure = Figure(figsize=(8.4, 2.35), layout="constrained")
    for axes, (title, slice_) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        draw_slice(axes, np.ascontiguousarray(slice_), "brain")
        axes.set_title(title, fontsize=SMALL)
        if slice_ is hu:
            for x, letter in ((0.04, "R"), (0.9, "L")):
                axes.text(x, 0.9, letter, color="white", weight="bold", transform=axes.transAxes)
    return figure


def draw_distances(root: Path, run: Path, table: pd.DataFrame) -> Figure:
    """Distances of held-out studies: as they are, shifted, turned, and noise in their place."""
    from ich.predict import Predictor

    predictor = Predictor.load(run, gpus=0, threads=1)
    held_out = read_predictions(run / "predictions_test.csv")["StudyInstanceUID"].unique()[:STUDIES]
    rng = np.random.default_rng(0)
    changes = {
        "unchanged": lambda hu: hu,
        "HU lower by 30": lambda hu: hu - 30,
        "HU scaled by 1.5": lambda hu: (hu * 1.5).astype(np.int16),
        "turned by 90°": lambda hu: np.ascontiguousarray(np.rot90(hu)),
        "noise, no head": lambda hu: rng.normal(0, 300, hu.shape).astype(np.int16),
    }
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for row, (name, change) in enumerate(changes.items()):
        distances = []
        for uid in held_out:
            rows = table[table["StudyInstanceUID"] == uid].sort_values("position")
            slices = [change(read_hu(root / path)) for path in rows["path"]]
            scores = predictor.predict_hu(slices, positions=rows["position"])
            distances.append(float(scores.distance[0]))
        print(name, np.round(sorted(distances), 2), "limit", scores.limit)
        axes.plot(distances, np.full(len(distances), row), "o", color=OKABE_ITO[0], alpha=0.5)
    axes.axvline(float(scores.limit[0]), color=OKABE_ITO[5], linestyle="--", label="limit")
    axes.set(xlabel="distance from the training data", yticks=range(len(changes)))
    axes.set_yticklabels(changes)
    axes.invert_yaxis()
    axes.legend(loc="upper right", fontsize=SMALL)
    return figure


def main(words: Sequence[str]) -> None:
    """Draws them."""
    root = Path(words[0])
    table = build_index(root, progress=False).table
    hu = choose_slice(root, table)
    save(draw_windows(hu), "window_curves.png")
    save(draw_orientations(hu), "orientation.png")
    if len(words) > 1:
        save(draw_distances(root, Path(words[1]), table), "distances.png")


if __name__ == "__main__":
    main(sys.argv[1:])
