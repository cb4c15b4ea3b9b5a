"""The slices that a study's page shows: the choice, their pixels and their heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.dicom.orientation import UNKNOWN
from ich.schema import ReadError, UserError
from ich.schema.results import StudyResult, list_middles
from ich.tables import SLAB_COLUMN

if TYPE_CHECKING:  # importing torch takes seconds, and a page without heat maps does not need it
    from ich.explain.heatmaps import Heat
    from ich.models import SliceNet

COUNT = 3
"""Number of slices shown for a study without key slices."""

NO_MODEL = "An exported model (ONNX) has no gradients for heat maps; a checkpoint or bundle has."


@dataclass(frozen=True)
class SliceView:
    """A slice to show.

    Attributes:
        number: Place in the result's ``slices``.
        hu: (Rows, Columns) HU.
        spacing: Distance between rows and between columns, mm; 1, 1 if unknown.
        heat: (Rows, Columns) in [0, 1], evidence for ``StudyResult.headline``; or why there is no map.
        knows_sides: Whether the slice lies in LPS, without contradiction in its pixels.
        strays: Whether most of the evidence lies where it cannot, so that the map says little.
    """

    number: int
    hu: NDArray[np.int16]
    spacing: tuple[float, float]
    heat: NDArray[np.float32] | str
    knows_sides: bool
    strays: bool = False


def choose_slices(result: StudyResult) -> tuple[int, ...]:
    """Chooses the slices to show: the key slices, or the ``COUNT`` of the highest probability.

    A study without key slices is not POSITIVE. It shows the slices where a reader would look first for a
    missed hemorrhage.
    """
    if result.key_slices:
        return result.key_slices
    seen = np.array(list_middles(result.slices))
    slices = [result.slices[place] for place in seen]
    prob = np.array([-1.0 if each.left_out else each.probs[result.headline] for each in slices])
    return tuple(seen[np.argsort(-prob, kind="stable")[:COUNT]].tolist())


def make_views(
    result: StudyResult, root: Path, slices: pd.DataFrame, net: SliceNet | None
) -> list[SliceView]:
    """Reads the slices that ``choose_slices`` names, and computes their heat maps.

    Args:
        result: The study's result.
        root: Folder that the paths of ``slices`` are relative to.
        slices: Rows of an index for the series that was read, one per slice.
        net: The model, in evaluation mode; None for an exported one.

    Returns:
        One view per slice, in the order of ``choose_slices``, without slices whose files can no longer be
        read.
    """
    table = find_rows(result, slices)
    slabs = [each.slab for each in result.slices]
    table[SLAB_COLUMN] = [place if slab is None else slab for place, slab in enumerate(slabs)]
    chosen = choose_slices(result)
    counted = [
        number for number, each in enumerate(result.slices) if each.left_out is None or number in chosen
    ]
    heat = NO_MODEL if net is None else _explain(net, root, table.iloc[counted], chosen, result.headline)
    views = []
    for number in chosen:
        row = table.iloc[number]
        try:
            hu = read_hu(root / row["path"], row["frame"])
        except ReadError:
            continue
        knows_sides = result.knows_sides and bool(row["orientation"] != UNKNOWN)
        spacing = find_spacing(row)
        if isinstance(heat, str) or number not in heat:
            why = heat if isinstance(heat, str) else "The slice could not be explained."
            views.append(SliceView(number, hu, spacing, why, knows_sides))
        else:
            found, label = heat[number], result.headline
            views.append(SliceView(number, hu, spacing, found.heat[label], knows_sides, found.strays[label]))
    return views


def find_rows(result: StudyResult, slices: pd.DataFrame) -> pd.DataFrame:
    """Finds the rows of an index for a result's ``slices``, in their order."""
    by_uid = slices.set_index("SOPInstanceUID", drop=False)
    return by_uid.loc[[each.SOPInstanceUID for each in result.slices]].reset_index(drop=True)


def find_spacing(row: pd.Series[Any]) -> tuple[float, float]:
    """Finds the distance between rows and between columns of a slice, mm; 1, 1 if unknown."""
    sides = (float(row["row_spacing"]), float(row["column_spacing"]))
    return sides if np.isfinite(sides).all() else (1.0, 1.0)


def _explain(
    net: SliceNet, root: Path, table: pd.DataFrame, numbers: Sequence[int], label: str
) -> dict[int, Heat] | str:
    """Explains slices with the same slabs and neighbors as in prediction: those that count, in one stack."""
    # It imports torch, which takes seconds; a page without heat maps does not need it.
    from ich.explain.heatmaps import explain_slices

    try:
        rows = [table.index.tolist().index(number) for number in numbers]
        found = list(explain_slices(net, root, table.assign(stack=0).reset_index(drop=True), rows, [label]))
    except UserError as error:  # of the network, which has no grid of features
        return f"The network cannot be explained: {error.kept}"
    return {int(table.index[each.row]): each for each in found if not isinstance(each, ReadError)}
