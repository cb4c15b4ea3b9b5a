"""Slices that each name a study of their own, though they are one series."""

from __future__ import annotations

from collections import Counter

import pandas as pd


def join_slices(table: pd.DataFrame) -> tuple[pd.DataFrame, Counter[str]]:
    """Puts the slices of a series into one study where each of them names another.

    SimpleITK's example of writing a series gives no StudyInstanceUID, and GDCM makes one up for each file.
    A series belongs to one study (PS3.3 A.1.2), so its UID tells that the slices belong together, if they
    also share patient and frame of reference (or name none), and no two lie at one position.

    Args:
        table: A row a file, with columns of ``ich.studies.reading.FILE_DTYPES``.

    Returns:
        The table, with the least of the StudyInstanceUIDs for all slices of such a series, and how many
        slices each of these has.
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
