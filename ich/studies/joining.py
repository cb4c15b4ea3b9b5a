"""Joins slices that each name their own study, although they are one series."""

from __future__ import annotations

from collections import Counter

import pandas as pd


def join_slices(table: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """Joins the slices of a series into one study if each of them names another.

    SimpleITK's example of writing a series gives no StudyInstanceUID, and GDCM invents one for each file. A
    series belongs to one study (PS3.3 A.1.2). Its UID therefore shows that the slices belong together, if
    they also share patient and frame of reference (or name none), and no two lie at one position.

    Args:
        table: One row per file, with columns of ``ich.studies.reading.FILE_DTYPES``.

    Returns:
        The table, with the smallest StudyInstanceUID for all slices of such a series, and the number of
        slices of each.
    """
    alone = table[~table["StudyInstanceUID"].duplicated(keep=False) & (table["code"] == "")]
    alone = alone[alone["position"].notna()]
    joined: Counter[str] = Counter()
    study = table["StudyInstanceUID"].copy()
    for _, rows in alone.groupby(["SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"]):
        if len(rows) > 1 and not rows["position"].duplicated().any():
            uid = str(rows["StudyInstanceUID"].min())
            study[rows.index] = uid
            joined[uid] = len(rows)
    return table.assign(StudyInstanceUID=study), joined
