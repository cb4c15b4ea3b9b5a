"""All content of a page about a data set, as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.explore.sample import Sample, draw_sample, read_sample
from ich.explore.units import LEVELS, LabelCounts, count_conflicts, count_labels, number_units
from ich.index import build_index, count_repeats, find_labels, list_labels, locate_index, read_labels
from ich.index.columns import check_columns
from ich.index.encodings import Encoding, list_encodings
from ich.index.identical import find_identical
from ich.index.joining import JoinCounts, join_labels
from ich.index.quality import check_series
from ich.remote import AnyPath
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables.stacks import SAME_POSITION


@dataclass(frozen=True)
class Labeling:
    """The content of a label file for the slices.

    Attributes:
        join: Counts from joining it to the index.
        repeats: Number of its rows that repeat a slice and label.
        conflicts: Number of slices whose labels contradict each other; see ``count_conflicts``.
        counts: Counts of labels for each of ``LEVELS``.
    """

    join: JoinCounts
    repeats: int
    conflicts: int
    counts: dict[str, LabelCounts]


@dataclass(frozen=True)
class Identical:
    """Slices with the same pixels as a slice of another patient.

    Attributes:
        slices: Number of such slices.
        patients: Number of their patients.
        among: Number of compared slices.
    """

    slices: int
    patients: int
    among: int


@dataclass(frozen=True)
class Facts:
    """A data set in numbers.

    Attributes:
        labels: Labels to read from the label file.
        table: Its index, with a column for each label where labels are known.
        units: Series, study and patient of each slice; see ``number_units``.
        refused: Counts of refused files by code.
        labeling: Content of the label file; None without one.
        encodings: The encodings, the most frequent first.
        encoding: (slices,) number of each slice's encoding.
        series: One row per series: ``slices``, ``step`` (median, mm) and ``tilt`` (median, degrees).
        problems: Counts of series by code of ``Quality``.
        sample: Measures of the pixels of some slices.
        identical: Slices with the same pixels as others.
    """

    labels: LabelSet
    table: pd.DataFrame
    units: pd.DataFrame
    refused: Counter[str]
    labeling: Labeling | None
    encodings: list[Encoding]
    encoding: NDArray[np.int64]
    series: pd.DataFrame
    problems: Counter[str]
    sample: Sample
    identical: Identical

    def count(self, unit: str) -> int:
        """Counts the slices, series, studies or patients."""
        return int(self.units[unit].max()) + 1

    def count_per(self, unit: str, owner: str) -> NDArray[np.int64]:
        """Counts the units of each owner, such as the series of each study."""
        pairs = self.units[[unit, owner]].drop_duplicates()
        return np.bincount(pairs[owner])


def collect_facts(
    root: Path,
    labels: AnyPath | None,
    columns: Mapping[str, str],
    label_set: LabelSet,
    index_dir: Path | None,
    slices: int,
    compare_all: bool,
    progress: bool,
) -> Facts:
    """Reads headers, labels and a sample of pixels; see ``ich.explore.explore``."""
    if slices < 1:
        raise UserError(f"slices={slices}: expected 1 or more")
    check_columns(columns, label_set.names)
    labels = labels or _find_labels(root, label_set, columns)
    index = build_index(root, index_dir=index_dir, progress=progress)
    table, labeling = index.table, None
    units = number_units(table)
    if labels is not None:
        table, join = join_labels(table, read_labels(labels, label_set, columns))
        targets = table[list(label_set.names)].to_numpy()
        counts = {level: count_labels(targets, units[level].to_numpy(), label_set) for level in LEVELS}
        repeats, conflicts = count_repeats(labels, label_set, columns), count_conflicts(targets, label_set)
        labeling = Labeling(join, repeats, conflicts, counts)
    numbers, encodings = list_encodings(table)
    rows = draw_sample(table, units["patient"].to_numpy(), slices, label_set)
    sample = read_sample(root, table, rows, numbers, progress)
    compared = np.arange(len(table)) if compare_all else rows
    folder = index_dir or locate_index(root)
    groups = find_identical(root, table.iloc[compared], folder, progress)
    twins = compared[groups >= 0]
    return Facts(
        labels=label_set,
        table=table,
        units=units,
        refused=Counter(index.unread["code"]),
        labeling=labeling,
        encodings=encodings,
        encoding=numbers,
        series=_describe_series(table, units["series"]),
        problems=Counter(check_series(table)["code"]),
        sample=sample,
        identical=Identical(len(twins), units["patient"].iloc[twins].nunique(), len(compared)),
    )


def _find_labels(root: Path, labels: LabelSet, columns: Mapping[str, str]) -> AnyPath | None:
    if columns:  # they say that there are labels
        return find_labels(root, labels, columns)
    found = list_labels(root, labels)
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(f"{root} holds several label files ({names}); name the one with --labels")
    return found[0] if found else None


def _describe_series(table: pd.DataFrame, series: pd.Series[int]) -> pd.DataFrame:
    """Describes each series: number of slices, median step between positions, and median tilt."""
    ordered = pd.DataFrame({"series": series, "position": table["position"]}).sort_values(
        ["series", "position"]
    )
    steps = ordered.groupby("series")["position"].diff()
    apart = steps > SAME_POSITION
    return pd.DataFrame(
        {
            "slices": series.groupby(series).size(),
            "step": steps[apart].groupby(ordered["series"][apart]).median(),
            "tilt": table["tilt"].groupby(series).median(),
        }
    )
