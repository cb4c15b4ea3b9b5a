"""Joins slices of an index, or of any table, to their labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ich.schema import UserError
from ich.schema.shares import show_percent
from ich.tables import INDEX_DTYPES, SLAB_COLUMN, STUDY_TARGET, name_columns

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
        share = f"{self.matched} of {self.slices} slices ({show_percent(self.matched / self.slices)})"
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
    return np.asarray(places.fill_null(-1)).astype(np.int32)  # a copy, as what Arrow shares is read-only


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


def match_studies(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Finds the targets of studies, by their own rows or by those of their patients.

    Args:
        table: Rows with StudyInstanceUID and PatientID.
        labels: From ``ich.index.read_study_labels``.

    Returns:
        One row per study of the table, indexed by StudyInstanceUID, with the columns of ``labels``, NaN where
        unknown.

    Raises:
        UserError: If no study has labels, or a patient's labels could be those of several studies.
    """
    studies = table[["StudyInstanceUID", "PatientID"]].drop_duplicates("StudyInstanceUID")
    key = str(labels.index.name)
    named = studies[studies[key].isin(labels.index)]
    if named.empty:
        raise UserError(
            f"none of {len(studies)} studies is among the {len(labels)} rows of the labels: check that their "
            f"{key} is that of the files; to match pseudonyms, name the studies by StudyInstanceUID"
        )
    if several := int(named[key].duplicated().sum()):
        raise UserError(
            f"the labels are those of patients, and {several} patients have several studies: label the "
            "studies, by a column StudyInstanceUID"
        )
    return labels.reindex(studies[key]).set_axis(pd.Index(studies["StudyInstanceUID"]), axis=0)


def join_study_labels(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Adds the targets of studies to an index with labels of slices.

    The slices of a negative study are negative. Those of a positive study keep their own labels. A study
    without a label of its own has that of its slices: 1 if one of them is 1, else unknown if one is unknown.

    Args:
        table: From ``join_labels``.
        labels: From ``ich.index.read_study_labels``, with the same labels.

    Returns:
        The table with more known labels of slices, and with the columns of ``STUDY_TARGET``.

    Raises:
        UserError: As ``match_studies``, or if labels of slices contradict those of their study.
    """
    names = list(map(str, labels))
    known = table[names].to_numpy(np.float32)  # (rows, L)
    codes, uids = pd.factorize(table["StudyInstanceUID"])
    given = match_studies(table, labels).loc[uids].to_numpy(np.float32)  # (S, L)
    positive, negative = (_count(codes, known == value) for value in (1, 0))  # each (S, L)
    of_slices = np.where(positive > 0, 1, np.where(negative == np.bincount(codes)[:, None], 0, np.nan))
    _refuse_contradictions(given, of_slices, uids, names)
    target = np.where(np.isnan(given), of_slices, given)[codes].astype(np.float32)
    joined = table.copy(deep=False)
    joined[names] = np.where(np.isnan(known) & (target == 0), np.float32(0), known)
    joined[name_columns(STUDY_TARGET, names)] = target
    return joined


def _count(codes: NDArray[np.intp], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(S, L) how many slices of each study are marked in (N, L)."""
    return np.stack([np.bincount(codes, column) for column in found.T], axis=1)


def _refuse_contradictions(
    given: NDArray[np.float32], of_slices: NDArray[np.float64], uids: pd.Index[str], names: list[str]
) -> None:
    """Refuses a positive slice in a negative study, and a positive study whose slices are all negative.

    Args:
        given: (S, L) targets of studies.
        of_slices: (S, L) targets that follow from their slices.
        uids: (S,) StudyInstanceUID.
        names: The L labels.
    """
    wrong = (given == 0) & (of_slices == 1) | (given == 1) & (of_slices == 0)
    if not wrong.any():
        return
    study, label = np.argwhere(wrong)[0]
    says, but = ("positive", "all of its slices are negative")
    if given[study, label] == 0:
        says, but = ("negative", "one of its slices is positive")
    raise UserError(
        f"the labels of slices contradict those of {int(wrong.any(axis=1).sum())} of {len(uids)} studies: "
        f"for example, {uids[study]} is {says} for {names[label]}, but {but}; correct one of the two files"
    )
