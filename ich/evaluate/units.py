"""The units of a level, slices or pooled series, studies or patients, and the columns of their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision, NotFitted
from ich.evaluate.decisions import HeldOut
from ich.evaluate.estimate import say_too_few
from ich.evaluate.figures import Counts
from ich.evaluate.pooling import pool
from ich.evaluate.roc import Ranking, Statistic, find_auroc, find_average_precision
from ich.tables import find_names, name_columns

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

NO_DECISION = "neither a validation set nor a stored calibration was given"


class Patients:
    """The patients of a table, and how often each sample draws them; the same for all levels.

    Args:
        predictions: A predictions table.
    """

    def __init__(self, predictions: pd.DataFrame) -> None:
        self._names = pd.Index(predictions["PatientID"].unique())

    def __len__(self) -> int:
        return len(self._names)

    def locate(self, table: pd.DataFrame) -> Ints:
        """Returns the (N,) place of each row's patient."""
        return np.asarray(self._names.get_indexer(pd.Index(table["PatientID"])), np.intp)


@dataclass(frozen=True)
class Column:
    """One label over the units where it is known.

    Attributes:
        label: Its name.
        target: (K,) 0 or 1.
        prob: (K,) raw probabilities.
        calibrated: (K,) calibrated probabilities.
        called: (K,) whether a unit reaches its operating point.
        codes: (K,) place of each unit's patient.
        unknown: Units left out.
        level: Level of the units.
        uncalibrated: Why there are no calibrated probabilities; empty if there are.
        undecided: Why there is no operating point; empty if there is one.
    """

    label: str
    target: Floats
    prob: Floats
    calibrated: Floats
    called: NDArray[np.bool_]
    codes: Ints
    unknown: int
    level: str
    uncalibrated: str
    undecided: str

    @cached_property
    def counts(self) -> Counts:
        """Counts behind its figures."""
        positive = self.target == 1
        patients, with_label, without = (
            len(np.unique(codes)) for codes in (self.codes, self.codes[positive], self.codes[~positive])
        )
        hits = int(positive.sum())
        return Counts(len(positive), hits, len(positive) - hits, self.unknown, patients, with_label, without)

    @property
    def shortages(self) -> tuple[str, str]:
        """Why figures from positives, and from negatives, have no interval; empty if they have one."""
        if not len(self.target):
            return ("its targets are unknown",) * 2
        found = self.counts
        return (
            say_too_few(found.positive_patients, f"with a positive {self.level}"),
            say_too_few(found.negative_patients, f"with a negative {self.level}"),
        )

    @property
    def shortage(self) -> str:
        """Why figures from both have no interval."""
        with_label, without = self.shortages
        return with_label or without

    def score(self, counts: NDArray[np.int32], statistics: Sequence[Statistic]) -> list[Floats]:
        """As ``Ranking.score``, of the raw probabilities."""
        return Ranking(self.target, self.prob, self.codes).score(counts, statistics)

    def score_areas(self, counts: NDArray[np.int32]) -> tuple[Floats, Floats]:
        """Returns the (R,) AUROC and average precisions of samples, of the raw probabilities."""
        area, precision = self.score(counts, [find_auroc, find_average_precision])
        return area, precision


class Units:
    """The units of one level, with their probabilities before and after calibration.

    Args:
        predictions: A checked predictions table.
        patients: The patients in that table.
        level: One of ``ich.evaluate.pooling.LEVELS``.
        pooling: One of ``ich.evaluate.pooling.METHODS``.
        decision: The decision with the calibration and the operating points, if there is one.
        held_out: Decisions for the patients of each fold, which apply in place of ``decision``.
    """

    def __init__(
        self,
        predictions: pd.DataFrame,
        patients: Patients,
        level: str,
        pooling: str,
        decision: Decision | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        table = pool(predictions, level, pooling)
        self.level = level
        self.names = find_names(table)
        self.target = table[name_columns("target", self.names)].to_numpy(np.float64)
        self.probs = table[name_columns("prob", self.names)].to_numpy(np.float64)
        self.codes = patients.locate(table)
        self.calibrated = self.probs.copy()
        self._thresholds = np.full_like(self.probs, np.nan)
        self._decisions = [decision]
        applied = [(decision, np.ones(len(table), np.bool_))]
        if held_out is not None:
            applied = held_out.select(table["PatientID"])
            self._decisions += [each for each, _ in applied]
        for each, rows in applied:
            if each is not None:
                self.calibrated[rows] = each.calibrate(self.probs[rows])
                points = [each.find_point(label) for label in self.names]
                self._thresholds[rows] = [np.nan if point is None else point.threshold for point in points]

    def column(self, label: str) -> Column:
        """Selects one label, over the units where it is known."""
        i = self.names.index(label)
        known = ~np.isnan(self.target[:, i])
        return Column(
            label=label,
            target=self.target[known, i],
            prob=self.probs[known, i],
            calibrated=self.calibrated[known, i],
            called=self.calibrated[known, i] >= self._thresholds[known, i],
            codes=self.codes[known],
            unknown=int((~known).sum()),
            level=self.level,
            uncalibrated=self._find_reason(_find_uncalibrated, label),
            undecided=self._find_reason(_find_undecided, label),
        )

    def _find_reason(self, find: Callable[[Decision | None, str], str], label: str) -> str:
        """Returns the first reason among the decisions that apply; empty if there is none."""
        own, *held_out = (find(each, label) for each in self._decisions)
        return own or next((f"without one of the folds {reason}" for reason in held_out if reason), "")


def _find_uncalibrated(decision: Decision | None, label: str) -> str:
    if decision is None:
        return NO_DECISION
    found = decision.calibration[label]
    return f"not calibrated: {found.missing}" if isinstance(found, NotFitted) else ""


def _find_undecided(decision: Decision | None, label: str) -> str:
    if decision is None:
        return NO_DECISION
    found = decision.operating_points[label]
    return f"no operating point was chosen: {found.missing}" if isinstance(found, NotFitted) else ""
