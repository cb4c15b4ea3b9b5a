"""Splits a table into training, validation and test set, and checks the sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ich.index.split import (
    Shares,
    check_split,
    join_patients,
    labels_without_positives,
    read_split,
    split_patients,
    split_slices,
)
from ich.remote import parse_path
from ich.schema import UserError
from ich.tables import SETS

log = logging.getLogger(__name__)

SPLITS = ("patient", "slice")

GROUPS = ("PatientID", "StudyInstanceUID")
"""Columns that may group slices."""

_MOST = 0.5  # of the studies, under one PatientID: with more it can hardly be a patient's
_FEWEST = 5  # studies of which that is said


def group_slices(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Replaces PatientID by the group of the slices, and warns of leaks.

    The split, the sample, the predictions and all intervals then use the group like a patient.

    Args:
        table: Index.
        group: One of ``GROUPS``.
    """
    if group == "PatientID":
        studies = table.drop_duplicates("StudyInstanceUID")["PatientID"]
        most = int(studies.value_counts().max()) if len(studies) else 0
        if most >= _FEWEST and most > _MOST * len(studies):
            log.warning(
                "%d of %d studies have the same PatientID. If this is not one patient, "
                "data.group=StudyInstanceUID splits by study",
                most,
                len(studies),
            )
        return table
    log.warning(
        "data.group=StudyInstanceUID: each study counts as a patient. Studies of one patient may be in "
        "several sets. This is a leak: figures are then too good, and their intervals too narrow"
    )
    return table.assign(PatientID=table["StudyInstanceUID"])


@dataclass(frozen=True)
class SplitSpec:
    """The split of a table; the fields are arguments of ``HeadCTDataModule``.

    Raises:
        UserError: If a fold is requested although a file gives the split.
    """

    split: str
    shares: Shares

    def __post_init__(self) -> None:
        if self.shares.fold is not None and self.split not in SPLITS:
            raise UserError(
                f"data.fold={self.shares.fold} with data.split={self.split}: the file has no folds; leave "
                "out one of the two"
            )

    @property
    def leaks(self) -> bool:
        """Whether slices of one patient are in several sets."""
        return self.split == "slice"

    def divide(
        self, labeled: pd.DataFrame, names: Sequence[str], twins: pd.Series[int] | None
    ) -> pd.Series[str]:
        """Splits a table.

        Args:
            labeled: Rows of the index with label columns.
            names: The label columns.
            twins: Groups of slices with the same pixels, -1 for none; such patients stay together.

        Returns:
            The part of each row.

        Raises:
            UserError: If sets share patients, studies or identical pixels, or the file is not a split.
        """
        parts = self._divide(labeled, names, twins)
        if not self.leaks:
            check_split(labeled, parts, twins)
        return parts

    def _divide(
        self, table: pd.DataFrame, names: Sequence[str], twins: pd.Series[int] | None
    ) -> pd.Series[str]:
        if self.split not in SPLITS:
            return read_split(parse_path(self.split), table)
        if twins is not None:
            table = table.assign(PatientID=join_patients(table, twins))
        return (split_slices if self.leaks else split_patients)(table, self.shares, names)

    def check(self, parts: pd.Series[str], labeled: pd.DataFrame, names: Sequence[str]) -> None:
        """Refuses sets that do not allow training, and warns of figures that will be missing.

        Raises:
            UserError: If the training or the validation set is empty.
        """
        if empty := [SETS[part] for part in ("train", "val") if not (parts == part).any()]:
            raise UserError(
                f"the {' and the '.join(empty)} set has no slice; see data.split={self.split} and "
                f"data.val_fraction={self.shares.val_fraction}"
            )
        for part, labels in labels_without_positives(labeled, parts, names).items():
            log.warning(
                "no positive slice of %s in the %s set, so its metrics are not available",
                ", ".join(labels),
                SETS[part],
            )
        if self.leaks:
            log.warning(
                "data.split=slice: slices of one patient are in several sets, so the figures are too good"
            )
