"""The images of a series beside the slices that are read: scouts, pages, another scan of the same head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.kind import CT_IMAGES
from ich.schema.codes import Note, Odd, Refusal
from ich.schema.results import Remark
from ich.tables.stacks import KEYS, NO_STACK, TIMES, describe_odd, find_odd, find_stacks


def find_others(files: pd.DataFrame) -> NDArray[np.bool_]:
    """Finds refused files that lie beside slices of their series and are not slices.

    These are color pages, and objects that are not CT images by their Modality or SOPClassUID.

    Args:
        files: Columns as in ``ich.studies.series.rank_series``.

    Returns:
        (files,); false for all files of a series without a readable file.
    """
    is_readable = files["code"] == ""
    has_slices = is_readable.groupby(files["SeriesInstanceUID"]).transform("any")
    is_other = files["code"].isin([Refusal.NOT_CT, Refusal.COLOR]) | ~files["SOPClassUID"].isin(CT_IMAGES)
    return np.asarray(has_slices & ~is_readable & is_other, dtype=bool)


def list_stacks(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Lists the stacks of a series, the largest first, each with damaged files that may belong to it.

    Args:
        rows: The files of one series.
    """
    slices = rows[rows["code"] == ""]
    if slices.empty:
        return [rows]
    stacks = find_stacks(slices)
    lost = rows[(rows["code"] != "") & ~find_others(rows)]
    return [pd.concat([slices[stacks == number], lost]).sort_index() for number in range(stacks.max() + 1)]


def describe_parts(rows: pd.DataFrame, read: pd.DataFrame) -> Iterator[Remark]:
    """Describes the images of a series that are not read: those that are not slices, and other stacks.

    Args:
        rows: The files of the series.
        read: Its slices that are read.
    """
    slices = rows[rows["code"] == ""]
    odd = [*find_odd(slices), *np.where(find_others(rows), Odd.NO_CT_IMAGE, "")]
    if any(odd):
        yield Remark(Note.MIXED_IMAGES, describe_odd(np.array(odd, dtype=object)))
    stacks = find_stacks(slices)
    if (count := int(stacks.max()) + 1) > 1:
        others = slices[(stacks != NO_STACK) & ~slices.index.isin(read.index)]
        yield Remark(
            Note.SEVERAL_STACKS,
            f"{count} scans or reconstructions at the same places, distinguished by {_tell(read, others)}, "
            f"with {len(read)} slices, is read; {len(others)} other slices are not",
        )


def list_displaced(rows: pd.DataFrame) -> pd.DataFrame:
    """Lists images that are set aside only for their geometry; they may be slices of the head.

    Args:
        rows: The files of one series.

    Returns:
        Their rows, with a code of ``Odd`` in the column ``odd``.
    """
    slices = rows[rows["code"] == ""]
    slices = slices.assign(odd=find_odd(slices))
    return slices[slices["odd"].isin([Odd.ACROSS, Odd.NO_GEOMETRY])]


def _tell(read: pd.DataFrame, others: pd.DataFrame) -> str:
    """Names the difference between the stack that is read and the others."""
    for key in KEYS:
        values = set(read[key])
        if not values & set(others[key]):
            named = f" {min(values)!r}" if len(values) == 1 else ""
            return f"{key}; that of {key}{named}" if named else f"{key}; the one"
    return f"{next((time for time in TIMES if not set(read[time]) & set(others[time])), 'time')}; the one"


def close_numbers(read: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Renumbers slices, so that images of their series that are not read leave no gap.

    Args:
        read: The slices of a series that are read.
        rows: The files of the series.

    Returns:
        ``read`` with InstanceNumber reduced by the number of such images before each slice.
    """
    numbers = read["InstanceNumber"].to_numpy(np.float64)
    is_set_aside = (rows["code"] == "") | find_others(rows)
    others = rows["InstanceNumber"][is_set_aside & ~rows.index.isin(read.index)].to_numpy(np.float64)
    others = np.unique(others[np.isfinite(others) & ~np.isin(others, numbers)])
    return read.assign(InstanceNumber=numbers - np.searchsorted(others, numbers))
