"""The worst false negatives and false positives of a model: the slices, and heat maps of its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision
from ich.dicom import read_hu
from ich.dicom.orientation import UNKNOWN
from ich.evaluation_report.pictures.cases import Case, describe_target, draw_cases
from ich.progress import map_in_threads
from ich.report.document import Block, Missing, Picture
from ich.report.figures import encode_png
from ich.schema import ReadError
from ich.schema.labels import LabelSet, say_label
from ich.schema.shares import show_number, show_prob
from ich.tables import UIDS, name_columns

if TYPE_CHECKING:  # importing torch takes seconds
    from ich.models import SliceNet

COUNT = 6
"""Number of slices in a gallery, each from another study."""

PER_PICTURE = 3

KINDS = {1: "false negatives", 0: "false positives"}
"""By target: positive slices with the lowest probabilities, and negative slices with the highest."""


@dataclass(frozen=True)
class Galleries:
    """Galleries of a report.

    Attributes:
        blocks: Pictures, and what is not available.
        slices: The slices shown, one row each. This table names them and their patients.
    """

    blocks: list[Block]
    slices: pd.DataFrame


def choose_worst(
    predictions: pd.DataFrame, value: int, decision: Decision | None, labels: LabelSet
) -> NDArray[np.intp]:
    """Chooses the slices on which a model was most wrong, one per study.

    Args:
        predictions: A predictions table.
        value: 1 for false negatives, 0 for false positives.
        decision: Decision by slice; with it, only slices on the wrong side of the threshold are chosen.
        labels: The labels of the table; it is about the headline.

    Returns:
        Rows of the table, the worst first; at most ``COUNT``.
    """
    wrong = predictions[f"target_{labels.headline}"].to_numpy() == value
    prob = _find_probs(predictions, decision, labels)
    point = None if decision is None else decision.find_point(labels.headline)
    if decision is not None and point is not None:
        wrong &= (prob >= point.threshold) != value
    rows = np.flatnonzero(wrong)
    rows = rows[np.argsort(prob[rows] if value else -prob[rows], kind="stable")]
    studies = predictions["StudyInstanceUID"].iloc[rows]
    return np.asarray(rows[(~studies.duplicated() | (studies == "")).to_numpy()][:COUNT])


def _find_probs(
    predictions: pd.DataFrame, decision: Decision | None, labels: LabelSet
) -> NDArray[np.float64]:
    """Returns (N,) probabilities of the headline on the scale of its threshold."""
    probs = predictions[name_columns("prob", labels.names)].to_numpy(np.float64)
    return (probs if decision is None else decision.calibrate(probs))[:, labels.index(labels.headline)]


def make_galleries(
    predictions: pd.DataFrame,
    root: Path,
    index: pd.DataFrame,
    *,
    decision: Decision | None,
    labels: LabelSet,
    heat: Mapping[int, NDArray[np.float32]] | None,
) -> Galleries:
    """Draws the slices on which a model was most wrong.

    Args:
        predictions: A predictions table.
        root: Folder of the DICOM files.
        index: The index of that folder.
        decision: As in ``choose_worst``.
        labels: As in ``choose_worst``.
        heat: Heat maps by row of ``predictions``, from ``compute_heat``; None without a model.
    """
    files = index.set_index("SOPInstanceUID")[["path", "frame", "orientation"]].reindex(
        predictions["SOPInstanceUID"]
    )
    paths = files["path"].to_numpy()
    blocks: list[Block] = []
    listed: list[pd.DataFrame] = []
    for value, kind in KINDS.items():
        rows = choose_worst(predictions, value, decision, labels)
        rows = rows[pd.notna(paths[rows])]
        if not len(rows):
            blocks.append(
                Missing(f"Worst {kind}", "There are none among the slices whose file is in the index.")
            )
            continue
        blocks += _draw(
            kind,
            _read_cases(predictions, root, files, rows, heat or {}, decision, labels),
            labels,
            decision,
            heat is not None,
        )
        slices = predictions.iloc[rows][list(UIDS)].assign(gallery=kind, row=rows, path=paths[rows])
        listed.append(slices[["gallery", "row", *UIDS, "path"]])
    return Galleries(blocks, pd.concat(listed, ignore_index=True) if listed else pd.DataFrame())


def compute_heat(
    net: SliceNet, predictions: pd.DataFrame, root: Path, index: pd.DataFrame, rows: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Computes heat maps of the slices that can be read.

    Args:
        net: The model, in evaluation mode.
        predictions: A predictions table.
        root: Folder of the DICOM files.
        index: The index of that folder.
        rows: Rows of ``predictions``.

    Returns:
        (Rows, Columns) heat in [0, 1], by row; see ``ich.explain.explain``.

    Raises:
        UserError: If the network has no grid of features.
    """
    # It imports torch, which takes seconds; an evaluation without a checkpoint does not need it.
    from ich.explain.heatmaps import explain_slices

    places = pd.Index(index["SOPInstanceUID"]).get_indexer(predictions["SOPInstanceUID"].iloc[list(rows)])
    row_at = {int(place): int(row) for place, row in zip(places, rows, strict=True) if place >= 0}
    label = net.metadata.labels.headline
    found = explain_slices(net, root, index, list(row_at), [label])
    return {row_at[each.row]: each.heat[label] for each in found if not isinstance(each, ReadError)}


def _read_cases(
    predictions: pd.DataFrame,
    root: Path,
    files: pd.DataFrame,
    rows: NDArray[np.intp],
    heat: Mapping[int, NDArray[np.float32]],
    decision: Decision | None,
    labels: LabelSet,
) -> list[Case]:
    targets = predictions[name_columns("target", labels.averaged)].to_numpy(np.float64)
    probs = _find_probs(predictions, decision, labels)

    def read(row: int) -> Case:
        present = describe_target(labels, targets[row])
        title = f"row {row} · {labels.headline} {show_prob(probs[row], 3)} · target: {present}"
        path, frame, orientation = files.iloc[row]
        try:
            return Case(title, read_hu(root / path, frame), heat.get(row), in_lps=orientation != UNKNOWN)
        except ReadError as error:
            return Case(title, None, problem=f"cannot be read: {error.code}")

    return list(map_in_threads(read, rows.tolist(), "reading slices", shown=False))


def _draw(
    kind: str, cases: list[Case], labels: LabelSet, decision: Decision | None, has_heat: bool
) -> list[Block]:
    label = labels.headline
    point = None if decision is None else decision.find_point(label)
    threshold = (
        "" if point is None else f", on the wrong side of the threshold ({show_number(point.threshold)})"
    )
    signs = (
        f" Right: heat map of the evidence for {say_label(label, labels.names)}. Lines mark a quarter "
        "(dotted), half (dashed) and three quarters (solid) of its peak, and the cross marks the peak."
        if has_heat
        else ""
    )
    scale = "as predicted" if decision is None else "calibrated"
    blocks: list[Block] = []
    for start in range(0, len(cases), PER_PICTURE):
        part = cases[start : start + PER_PICTURE]
        caption = (
            f"Worst {kind}, {start + 1} to {start + len(part)}. One slice per study, sorted by the "
            f"probability of {label}, {scale}{threshold}. Rows are rows of the predictions table, counted "
            f"from 0.{signs}"
        )
        alt = f"{len(part)} slices of CT through three windows: {'; '.join(case.title for case in part)}"
        name = f"{kind.replace(' ', '_')}_{start // PER_PICTURE + 1}"
        blocks.append(Picture(name, encode_png(draw_cases(part)), caption, alt))
    return blocks
