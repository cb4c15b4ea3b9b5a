"""Joins slices of an index, or of any table, to their labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ich.schema import UserError
from ich.tables import INDEX_DTYPES, SLAB_COLUMN

USUAL_SHARE, LEAST_SHARE = 0.9, 0.1
"""Shares of the slices that have a row in the label file. Below the first, the user is warned. Below the
second, the file is refused because it is for other slices; with fewer slices it is a share of those."""


class JoinCounts(NamedTuple):
    """Counts from joining an index to labels.

    Attributes:
        slices: Rows of the index.
        matched: How many of these slices the label file names.
        unlabeled: How many of all slices have no known label.
        without_file: Number of slices that the label file names but the index lacks.
    """

    slices: int
    matched: int
    unlabeled: int
    without_file: int

    @property
    def warning(self) -> str:
        """Warning about labels that may belong to another data set; empty if there is none."""
        if self.matched >= USUAL_SHARE * self.slices:
            return ""
        share = f"{self.matched} of {self.slices} slices ({self.matched / self.slices:.0%})"
        return (
            f"the label file names {share}, and {self.without_file} slices that do not exist: check that it "
            "belongs to these files"
        )


def find_places(
    texts: pd.Series[str] | pd.Index[str], among: pd.Series[str] | pd.Index[str]
) -> NDArray[np.int32]:
    """Finds the first place of each text among others, or -1; pandas' ``get_indexer`` is half as fast."""
    kind = pa.large_string()
    places = pc.index_in(pa.array(texts, kind), value_set=pa.array(among, kind))
    return np.array(places.fill_null(-1), dtype=np.int32)


def match_slices(uids: pd.Series[str], labels: pd.DataFrame) -> NDArray[np.int32]:
    """Finds the row of each slice in a label table.

    UIDs match in any case if this is unambiguous: neither the slices nor the labels have two that differ only
    in case.

    Args:
        uids: SOPInstanceUIDs.
        labels: From ``ich.index.read_labels``.

    Returns:
        (N,) the row of each, -1 if there is none.
    """
    names = labels.index.to_series().astype("str")
    places = find_places(uids, names)
    if (places < 0).any():
        folded, among = uids.str.lower(), names.str.lower()
        candidates = np.flatnonzero(~among.duplicated(keep=False))
        left = np.flatnonzero((places < 0) & ~folded.duplicated(keep=False).to_numpy())
        found = find_places(folded.iloc[left], among.iloc[candidates])
        places[left[found >= 0]] = candidates[found[found >= 0]]
    return places


def require_matches(places: NDArray[np.int32], uids: pd.Series[str], labels: pd.DataFrame) -> None:
    """Refuses labels if hardly any of them belongs to a slice.

    Args:
        places: From ``match_slices``.
        uids: SOPInstanceUIDs of the slices.
        labels: From ``ich.index.read_labels``.

    Raises:
        UserError: If their share is below ``LEAST_SHARE``, or if there is none at all.
    """
    matched, most = int((places >= 0).sum()), min(len(uids), len(labels))
    if most and matched < max(1, LEAST_SHARE * most):
        found = f"only {matched} of {len(uids)} slices have" if matched else "no slice has"
        raise UserError(
            f"{found} a label: for example, the label file names {labels.index[0]}, but not "
            f"{uids.iloc[int(np.argmin(places))]}; give another label file (data.labels=FILE, --labels FILE)"
        )


def join_labels(table: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, JoinCounts]:
    """Adds the label columns to an index, without changing its rows and their order.

    Args:
        table: Index.
        labels: From ``ich.index.read_labels``.

    Returns:
        The index with a column for each label, float32, NaN where unknown; and counts.

    Raises:
        UserError: If a label has the name of a column of the index, or if hardly any slice of the index has a
            label; see ``LEAST_SHARE``.
    """
    names = list(map(str, labels))
    if taken := [name for name in names if name in (*INDEX_DTYPES, SLAB_COLUMN)]:
        raise UserError(f"labels.names holds {taken[0]}, a column of the index: give it another name")
    places = match_slices(table["SOPInstanceUID"], labels)
    require_matches(places, table["SOPInstanceUID"], labels)
    found = places >= 0
    values = np.full((len(table), len(names)), np.nan, dtype=np.float32)
    values[found] = labels.to_numpy(dtype=np.float32)[places[found]]
    joined = table.copy(deep=False)
    joined[names] = values
    matched, unlabeled = int(found.sum()), int(np.isnan(values).all(axis=1).sum())
    return joined, JoinCounts(len(table), matched, unlabeled, len(labels) - matched)
