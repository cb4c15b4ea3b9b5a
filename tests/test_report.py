"""Pictures are PNG files, and the lines in them are the logged figures."""

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ich.image.window import apply_window
from ich.report.curves import draw_curves, write_curves
from ich.report.figures import write_png
from ich.report.sheets import draw_contact_sheet
from ich.schema import LABELS, WINDOWS, UserError


def make_metrics(epochs=4):
    """Rows as Lightning's CSVLogger spreads them: learning rate, validation and training apart."""
    rows = []
    for epoch in range(epochs):
        step = 10 * epoch + 9
        rows.append({"step": step - 5, "lr-AdamW": 1e-3 * 0.5**epoch})
        areas = {f"val_auroc_{label}": 0.5 + 0.1 * epoch for label in (*LABELS, "mean")}
        loss = 0.3 + 0.05 * abs(epoch - 2)
        rows.append({"epoch": epoch, "step": step, "val_loss": loss, "val_weighted_log_loss": loss} | areas)
        rows.append({"epoch": epoch, "step": step, "train_loss": 0.5 - 0.1 * epoch})
    return pd.DataFrame(rows)


def read_lines(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def read_png(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return cv2.imread(str(path))


def test_curves_show_what_was_logged():
    losses, areas, rate = map(read_lines, draw_curves(make_metrics()).axes)
    assert losses["training loss"] == ([0, 1, 2, 3], pytest.approx([0.5, 0.4, 0.3, 0.2]))
    assert losses["validation weighted log loss"] == ([0, 1, 2, 3], pytest.approx([0.4, 0.35, 0.3, 0.35]))
    assert set(areas) == {*LABELS, "mean", "best epoch (2)"}
    assert areas["subdural"] == ([0, 1, 2, 3], pytest.approx([0.5, 0.6, 0.7, 0.8]))
    assert rate["lr-AdamW"] == ([4, 14, 24, 34], pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4]))
    assert losses["best epoch (2)"][0] == areas["best epoch (2)"][0] == [2, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m,
        lambda m: m.iloc[:3],
        lambda m: m.drop(columns=["val_weighted_log_loss", "lr-AdamW", "val_auroc_epidural"]),
        lambda m: m[["epoch", "step", "train_loss"]],
        lambda m: m.assign(val_auroc_epidural=np.nan, val_loss=np.nan, val_weighted_log_loss=np.nan),
        lambda m: m.iloc[:0],
        lambda m: m[["step", "lr-AdamW"]],
    ],
    ids=["whole", "one epoch", "columns lack", "train only", "NaN", "no rows", "no epochs"],
)
def test_curves_are_written_from_a_file_whatever_lacks(tmp_path, change):
    backend = mpl.rcParams._get("backend")
    change(make_metrics()).to_csv(tmp_path / "metrics.csv", index=False)
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    picture = read_png(tmp_path / "curves.png")
    height, width = picture.shape[:2]
    assert 1200 <= width <= 2400
    assert 0.25 <= height / width <= 0.6
    assert picture.std() > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.csv"]
    assert mpl.rcParams._get("backend") == backend


def test_best_epoch_falls_back_on_the_loss():
    lines = read_lines(draw_curves(make_metrics().drop(columns="val_weighted_log_loss")).axes[0])
    assert "best epoch (2)" in lines


@pytest.mark.parametrize("content", [None, ""])
def test_metrics_that_cannot_be_read_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.csv"):
        write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_contact_sheet_shows_every_slice_in_its_place(tmp_path):
    windows = ["brain", "brain", "subdural", "brain", "bone"]
    slices = [
        np.full((40, side), level, np.int16)
        for level, side in zip((16, 32, 80, 64, 2500), (40, 40, 44, 40, 48), strict=True)
    ]
    titles = [f"slice {i}" for i in range(5)]
    figure = draw_contact_sheet(slices, windows, titles, columns=3)
    write_png(figure, tmp_path / "sheet.png")
    gray = read_png(tmp_path / "sheet.png")[..., 0]
    height, width = gray.shape
    for i, (hu, window) in enumerate(zip(slices, windows, strict=True)):
        row, column = divmod(i, 3)
        center = gray[int((row + 0.55) * height / 2), int((column + 0.5) * width / 3)]
        shade = apply_window(torch.from_numpy(hu), *WINDOWS[window])[0, 0]
        assert center == pytest.approx(255 * float(shade), abs=2)
    assert gray[int(0.75 * height), int(2.5 * width / 3)] == 0

    assert [axes.get_title() for axes in figure.axes] == [*titles, ""]


@pytest.mark.parametrize("lines", [1, 2, 4, 6])
def test_titles_on_a_contact_sheet_touch_neither_its_edge_nor_a_slice(lines):
    slices = [np.zeros((side, 40), np.int16) for side in (40, 40, 50, 40, 50)]
    title = "\n".join(["intraparenchymal"] * lines)
    figure = draw_contact_sheet(slices, ["brain"] * 5, [title] * 5)
    FigureCanvasAgg(figure).draw()
    drawn = figure.axes[:5]
    room = [figure.bbox.ymax - axes.title.get_window_extent().ymax for axes in drawn[:4]]
    room += [axes.title.get_window_extent().ymin - axes.get_window_extent().ymax for axes in drawn]
    room += [drawn[0].get_window_extent().ymin - drawn[4].title.get_window_extent().ymax]
    assert min(room) > 0.02 * figure.dpi


@pytest.mark.parametrize(
    ("shape", "windows", "titles"),
    [((2, 8, 8), 2, 1), ((2, 8, 8), 1, 2), ((8, 8), 8, 8), ((0, 8, 8), 0, 0)],
)
def test_contact_sheet_refuses_what_does_not_match(shape, windows, titles):
    with pytest.raises(ValueError, match="expected"):
        draw_contact_sheet(np.zeros(shape, np.int16), ["brain"] * windows, ["a"] * titles)
