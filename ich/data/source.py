"""From a folder of DICOM files and a label file to one table, with labels and part of each slice."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ich.data.parts import GROUPS, SplitSpec, group_slices
from ich.data.shards import read_shards
from ich.index import build_index, find_labels, locate_index, read_labels, read_study_labels
from ich.index.columns import NO_COLUMNS, check_columns, share_columns
from ich.index.csv_files import read_columns
from ich.index.files import require_folder
from ich.index.identical import find_identical
from ich.index.joining import join_labels, join_study_labels
from ich.index.split import sample_patients
from ich.phantom import write_phantom
from ich.remote import AnyPath, RemotePath, parse_path
from ich.schema import UserError
from ich.schema.labels import MIN_PREVALENCE, LabelSet
from ich.tables import SETS, SLAB_COLUMN, STUDY_TARGET, find_study_targets
from ich.tables.slabs import find_middles, number_slabs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Places of slices and labels, and their split; the fields are arguments of ``HeadCTDataModule``.

    Raises:
        UserError: If there is no such group, or a column is renamed that is not known.
    """

    root: AnyPath
    labels: str | None
    study_labels: str | None
    columns: Mapping[str, str]
    label_set: LabelSet
    index_dir: Path | None
    pseudonyms: bool
    trust_folders: bool
    phantom: Mapping[str, Any] | None
    group: str
    split: SplitSpec
    check_pixels: bool
    limit_slices: int | None
    thickness: float | None
    unlabeled: bool
    shards: bool

    def __post_init__(self) -> None:
        if self.shards and self.check_pixels:
            raise UserError(
                "data.check_pixels=true with shards: it compares the files of slices. Run it on the "
                "files first, and give that run's split.csv as data.split"
            )
        if self.group not in GROUPS:
            raise UserError(f"data.group={self.group}: expected one of {', '.join(GROUPS)}")
        check_columns(self.columns, self.label_set.names)

    def write_phantom(self) -> None:
        """Writes the phantom, if one is asked for.

        Raises:
            UserError: If it has no such arguments, or the data are at an address.
        """
        if self.phantom is None:
            return
        if isinstance(self.root, RemotePath):
            raise UserError(
                f"data.phantom with data.root={self.root}: the phantom is written to a disk; name a "
                "folder, or choose data=rsna"
            )
        try:
            write_phantom(self.root, **self.phantom)
        except TypeError as error:
            raise UserError(f"data.phantom={dict(self.phantom)}: {error}") from error

    def check_files(self) -> None:
        """Looks for the folder and the label files, which takes a moment. Headers take minutes to read.

        At an address and of shards it looks only for the columns that are named.

        Raises:
            UserError: If the folder or a label file is not there, or lacks the columns that are named.
        """
        if isinstance(self.root, RemotePath) or self.shards:  # reading these says best what is wrong
            if self.columns:
                self._find_files()
            return
        require_folder(self.root)
        for file in self._find_files().values():
            read_columns(file.path, self.label_set.names, file.columns)

    def read_index(self) -> pd.DataFrame:
        """Updates the index of the folder, or reads that of shards, and returns it: one row per slice.

        Raises:
            UserError: If there are no slices or label files, or shards do not have the pseudonyms that are
                asked for.
        """
        self.check_files()
        if self.shards:
            state, table = read_shards(self.root)
            if self.pseudonyms and not state.pseudonyms:
                raise UserError(
                    f"data.pseudonyms=true, and the shards in data.root={self.root} hold PatientIDs: "
                    "write them again with ich shard --pseudonyms"
                )
            return table
        index = build_index(
            self.root,
            index_dir=self.index_dir,
            pseudonyms=self.pseudonyms,
            trust_folders=self.trust_folders,
        )
        if len(index.unread):
            codes = index.unread["code"].value_counts()
            log.warning("%d files refused: %s", len(index.unread), codes.to_dict())
        return index.table

    def make_table(self, index: pd.DataFrame) -> pd.DataFrame:
        """Joins the index to the labels and splits it.

        Args:
            index: From ``read_index``.

        Returns:
            The index with the label columns and ``part``, which is ``unlabeled`` for slices in no set.
            With ``thickness`` it has ``SLAB_COLUMN`` too, and a slab's labels are those of its middle slice.

        Raises:
            UserError: If labels and slices do not belong together, or cannot be split as requested.
        """
        names = self.label_set.names
        table = group_slices(self._join_labels(index), self.group)
        if self.thickness is not None:
            table = _label_slabs(table, self.thickness, names)
        labeled = _take_labeled(table, names)
        if self.limit_slices is not None:
            labeled = sample_patients(labeled, self.limit_slices, self.split.shares.seed)
            table = table[table["PatientID"].isin(labeled["PatientID"])]
        parts = self.split.divide(labeled, names, self._find_twins(labeled) if self.check_pixels else None)
        self.split.check(parts, labeled, names)
        table["part"] = parts.reindex(table.index).fillna("unlabeled")
        if self.unlabeled:
            free = _find_free(table)
            table.loc[free, "part"] = "train"
            log.info("%d slices without a label are in the training set", free.sum())
        return table.reset_index(drop=True)

    def _join_labels(self, index: pd.DataFrame) -> pd.DataFrame:
        """Adds the labels of slices, and those of studies if they are given."""
        files = self._find_files()
        of_slices, of_studies = files.get("slices"), files.get("studies")
        names = list(self.label_set.names)
        labels = pd.DataFrame(columns=names, index=pd.Index([], dtype="str"), dtype="float32")
        if of_slices is not None:
            labels = read_labels(of_slices.path, self.label_set, of_slices.columns)
            unknown = [name for name in names if labels[name].isna().all()]
            if unknown and of_studies is None:
                log.warning("%s", _describe_unknown(of_slices.path.name, unknown))
        table, counts = join_labels(index, labels)
        if len(labels):
            log.info(
                "%d slices with labels, %d files without a label, %d labels without a file",
                counts.slices - counts.unlabeled,
                counts.unlabeled,
                counts.without_file,
            )
            if counts.warning:
                log.warning("%s", counts.warning)
        if of_studies is None:
            return table
        by_study = read_study_labels(of_studies.path, self.label_set, of_studies.columns)
        table = join_study_labels(table, by_study)
        studies = table.drop_duplicates("StudyInstanceUID")[find_study_targets(table)]
        labeled, count = studies.notna().any(axis=1).sum(), len(studies)
        log.info("%d of %d studies with labels; the epoch is chosen by figures of studies", labeled, count)
        return table

    def _find_files(self) -> dict[str, _LabelFile]:
        """Finds the files with labels of ``slices`` and of ``studies``, with their own names of columns."""
        given = {"slices": self.labels, "studies": self.study_labels}
        paths = {unit: parse_path(file) for unit, file in given.items() if file}
        if not paths:
            paths["slices"] = find_labels(self.root, self.label_set, self.columns)
        own: Sequence[Mapping[str, str]] = [NO_COLUMNS] * len(paths)
        if self.columns:
            held = [(path, read_columns(path, self.label_set.names)) for path in paths.values()]
            own = share_columns(self.columns, held)
        return {unit: _LabelFile(paths[unit], names) for unit, names in zip(paths, own, strict=True)}

    def _find_twins(self, table: pd.DataFrame) -> pd.Series[int]:
        folder = self.index_dir or locate_index(self.root)
        twins = pd.Series(find_identical(self.root, table, folder), table.index)
        if count := int((twins >= 0).sum()):
            log.warning("%d slices have the pixels of a slice of another patient", count)
        return twins


def _describe_unknown(file: str, unknown: Sequence[str]) -> str:
    return (
        f"{file} has no label of {', '.join(unknown)}, so the model cannot learn them; if its columns have "
        f"other names, give data.columns={{{unknown[0]}: COLUMN}}"
    )


class _LabelFile(NamedTuple):
    path: AnyPath
    columns: Mapping[str, str]  # what it calls some of the known columns


def _take_labeled(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns the rows with a label of their own or of their study; the second fills in for the first.

    A split then shares out positive studies, although nobody knows which of their slices are positive.
    """
    columns = {name: table[name] for name in names}
    if find_study_targets(table):
        columns = {name: own.fillna(table[f"{STUDY_TARGET}_{name}"]) for name, own in columns.items()}
    filled = table.assign(**columns)
    return filled[filled[list(names)].notna().any(axis=1)]


def _find_free(table: pd.DataFrame) -> pd.Series[bool]:
    """Finds slices without a label that may be trained on: their patient is known and not held out."""
    held_out = table.loc[table["part"].isin(["val", "test"]), "PatientID"]
    free = (table["part"] == "unlabeled") & ~table["PatientID"].isin(["", *held_out])
    if SLAB_COLUMN in table:
        free &= find_middles(table[SLAB_COLUMN].to_numpy(np.int32))
    return free


def measure_prevalences(table: pd.DataFrame, names: Sequence[str], *, by_study: bool) -> tuple[float, ...]:
    """Measures the share of positives among known targets of slices or studies, one per label.

    It is at least ``MIN_PREVALENCE``, so that a label without positives is not ruled out; NaN if nothing is
    known.
    """
    targets = table[list(names)]
    if by_study:
        targets = table.drop_duplicates("StudyInstanceUID")[find_study_targets(table)]
    return tuple(map(float, targets.mean().clip(MIN_PREVALENCE, 1 - MIN_PREVALENCE)))


def require_windows(table: pd.DataFrame) -> None:
    """Refuses slices without a window in their header, for an input that uses it.

    Raises:
        UserError: If there are some.
    """
    if lacking := int((table["WindowCenter"].isna() | ~(table["WindowWidth"] > 0)).sum()):
        raise UserError(
            f"input.windows holds dicom, but {lacking} of {len(table)} slices have no WindowCenter, or "
            "no WindowWidth above 0; use named windows"
        )


def require_positions(table: pd.DataFrame) -> None:
    """Refuses sets without any series in order of position, and warns of slices that are in none.

    Raises:
        UserError: If the training or the validation set has no slice with a position.
    """
    labeled = table[table["part"].isin(["train", "val"])]
    known = labeled["position"].notna()
    for part in ("train", "val"):
        if not known[labeled["part"] == part].any():
            raise UserError(
                f"series.end_to_end=true: no slice of the {SETS[part]} set has an ImagePositionPatient, so "
                "there is no series to train on; use series=none"
            )
    if not known.all():
        log.warning("%d slices without a position are in no series: they are left out", (~known).sum())


def _label_slabs(table: pd.DataFrame, thickness: float, names: Sequence[str]) -> pd.DataFrame:
    """Gives the labels of each slab and its study to its middle slice, and none to its others.

    A label of a slab is 1 if one of the slices has it. Otherwise it is unknown if one is unknown, and else 0.
    """
    slab = number_slabs(table, thickness)
    by_slab = table[list(names)].groupby(slab)
    highest = by_slab.transform("max")
    known = by_slab.transform("count").eq(by_slab.transform("size"), axis=0)
    labels = pd.concat([highest.where((highest == 1) | known), table[find_study_targets(table)]], axis=1)
    is_middle = find_middles(slab)
    labels[~is_middle] = np.nan
    if is_middle.all():
        log.info("data.thickness=%g: no series is so thin that its slices are averaged", thickness)
    else:
        log.info("thin slices are averaged: %d slices become %d", len(table), is_middle.sum())
    return table.assign(**{SLAB_COLUMN: slab}, **{str(name): labels[name] for name in labels})
