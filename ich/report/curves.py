"""The curves of a run."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ich.report.figures import OKABE_ITO, write_png
from ich.schema import LABELS, MONITOR, UserError

LOSSES = {
    "train_loss": "training loss",
    "val_loss": "validation loss",
    MONITOR: "validation weighted log loss",
}
MONITORED = (MONITOR, "val_loss")


def draw_curves(metrics: pd.DataFrame) -> Figure:
    """Draws the losses, the AUROC of each label and the learning rate of a run.

    Args:
        metrics: Metrics from Lightning's CSVLogger: ``epoch``, ``step`` and one column per metric. The
            figures of one epoch spread over several rows, with NaN elsewhere. Columns may be missing.

    Returns:
        Three panels. The first two mark the epoch with the lowest ``val_weighted_log_loss``, or else
        ``val_loss``.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, areas, rate = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 0.7))
    epochs = metrics.groupby("epoch").last() if "epoch" in metrics else pd.DataFrame()
    best = _find_best(epochs)

    _draw_lines(losses, epochs, LOSSES, "loss")
    labels = [str(column).removeprefix("val_auroc_") for column in metrics if _is_auroc(str(column))]
    known = [label for label in LABELS if label in labels]
    ordered = [*known, *(label for label in labels if label not in LABELS), "mean"]
    names = {f"val_auroc_{label}": label for label in ordered}
    _draw_lines(areas, epochs, names, "AUROC (validation)")
    for axes in (losses, areas):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if best is not None:
            axes.axvline(best, color="0.5", linestyle=":", linewidth=1.2, label=f"best epoch ({best:g})")
        _place_legend(axes, columns=2)
    _draw_rates(rate, metrics)
    return figure


def write_curves(metrics: pd.DataFrame | str | Path, path: str | Path) -> None:
    """Writes the curves of a run as a PNG file; see ``draw_curves``.

    Args:
        metrics: The table, or the ``metrics.csv`` of Lightning's CSVLogger.
        path: The picture.

    Raises:
        UserError: If ``metrics`` is a file that is not such a table.
    """
    if not isinstance(metrics, pd.DataFrame):
        try:
            metrics = pd.read_csv(metrics)
        except (OSError, ValueError) as error:
            raise UserError(f"metrics cannot be read from {metrics}: {error}") from error
    write_png(draw_curves(metrics), path, dpi=160)


def _is_auroc(column: str) -> bool:
    return column.startswith("val_auroc_") and column != "val_auroc_mean"


def _find_best(epochs: pd.DataFrame) -> float | None:
    for name in MONITORED:
        if name in epochs and epochs[name].notna().any():
            return float(epochs.index[int(epochs[name].argmin())])
    return None


def _draw_lines(axes: Axes, epochs: pd.DataFrame, names: dict[str, str], quantity: str) -> None:
    axes.set_ylabel(quantity)
    for (column, name), color in zip(names.items(), cycle(OKABE_ITO), strict=False):
        if column not in epochs or not (values := epochs[column].dropna()).size:
            continue
        axes.plot(
            values.index,
            values,
            color="black" if name == "mean" else color,
            label=name,
            linewidth=2.4 if name in ("any", "validation loss") else 1.4,
            # The weighted log loss may be the loss itself: dashes let the line below it be seen.
            linestyle="--" if name in ("mean", "validation weighted log loss") else "-",
            marker="o",
            markersize=3 if len(values) <= 30 else 0,
        )


def _draw_rates(axes: Axes, metrics: pd.DataFrame) -> None:
    axes.set_ylabel("learning rate")
    axes.set_xlabel("step")
    rates = [column for column in metrics if str(column).startswith("lr") and "step" in metrics]
    for i, column in enumerate(rates):
        values = metrics.dropna(subset=[column])
        color = OKABE_ITO[i % len(OKABE_ITO)]
        marker = "o" if len(values) == 1 else None
        axes.plot(
            values["step"], values[column], color=color, marker=marker, linewidth=1.4, label=str(column)
        )
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    _place_legend(axes, columns=1)


def _place_legend(axes: Axes, columns: int) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=columns, frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="0.5")
