"""Two or more models on the same slices, and their ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.evaluate.checks import align, check_labels
from ich.evaluate.delong import DeLongTest, compare_delong
from ich.evaluate.estimate import REPLICATES, draw_patients, estimate
from ich.evaluate.figures import FEW, Areas, Estimate, to_plain
from ich.evaluate.levels import average_subtypes, estimate_areas, estimate_loss, sample_losses
from ich.evaluate.pooling import DEFAULT_POOLING
from ich.evaluate.units import Column, Patients, Units
from ich.schema import DISCLAIMER
from ich.schema.labels import LabelSet
from ich.tables import WEIGHTS_COLUMN, find_label_set, find_names, name_columns

__all__ = ["Comparison", "compare", "ensemble"]

SCHEMA = "ich comparison 1"
"""Format of ``Comparison.to_dict``; see ``ich.evaluate.figures``."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelFigures:
    """The compared figures of one model.

    Attributes:
        labels: AUROC and average precision of each label.
        auroc_mean_subtypes: Mean over the subtypes that have an AUROC.
        weighted_log_loss: The RSNA 2019 metric.
    """

    labels: dict[str, Areas]
    auroc_mean_subtypes: Estimate
    weighted_log_loss: Estimate


@dataclass(frozen=True)
class PairedFigures:
    """Differences ``a - b`` of one label.

    Attributes:
        auroc: Difference of the areas, with an interval from a bootstrap that draws each patient for both
            models.
        auroc_delong: The same from DeLong's test, for units that cluster within patients.
        average_precision: Difference of the average precisions, by the bootstrap.
    """

    auroc: Estimate
    auroc_delong: DeLongTest
    average_precision: Estimate


@dataclass(frozen=True)
class Pair:
    """Differences of two models, ``a - b``. P-values are not corrected for multiple testing.

    Attributes:
        a: Name of the first model.
        b: Name of the second model.
        labels: Differences of each label.
        auroc_mean_subtypes: Difference of the mean AUROC over the subtypes that have one.
        weighted_log_loss: Difference of the RSNA 2019 metric; below 0, ``a`` is better.
    """

    a: str
    b: str
    labels: dict[str, PairedFigures]
    auroc_mean_subtypes: Estimate
    weighted_log_loss: Estimate


@dataclass(frozen=True)
class Comparison:
    """Models on the same slices.

    Attributes:
        level: One of ``ich.evaluate.pooling.LEVELS``.
        pooling: Method that pools slices to its units.
        slices: Rows of each table.
        patients: Distinct PatientID.
        replicates: Bootstrap samples.
        seed: Random seed for the resampling.
        models: Figures of each model, by its name.
        pairs: Differences of each pair of models.
    """

    level: str
    pooling: str
    slices: int
    patients: int
    replicates: int
    seed: int
    models: dict[str, ModelFigures]
    pairs: tuple[Pair, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values fit for JSON."""
        return {"schema": SCHEMA, "note": DISCLAIMER, "few": FEW, **to_plain(vars(self))}


@dataclass(frozen=True)
class _Samples:
    """The samples of one model: areas and average precisions by label, and the loss."""

    columns: dict[str, Column]
    areas: dict[str, Floats]
    precisions: dict[str, Floats]
    losses: Floats


def compare(
    tables: Mapping[str, pd.DataFrame],
    *,
    labels: LabelSet | None = None,
    level: str = "slice",
    pooling: str = DEFAULT_POOLING,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compares models with a paired bootstrap over patients, and their AUROC also with DeLong's test.

    All models score every sample of patients. A patient who is difficult for all models therefore does not
    widen an interval. To compare several folds, concatenate their tables.

    Args:
        tables: Predictions tables by name, of the same slices in any order.
        labels: As ``ich.evaluate.evaluate`` takes them.
        level: One of ``ich.evaluate.pooling.LEVELS``.
        pooling: One of ``ich.evaluate.pooling.METHODS``.
        replicates: Bootstrap samples.
        seed: Random seed for the resampling.

    Raises:
        UserError: If there are fewer than two tables, if they differ in slices, patients or targets, or if
            one is not a predictions table.
    """
    aligned = align(tables)
    first = next(iter(aligned.values()))
    labels = labels or find_label_set(first)
    check_labels(find_names(first), labels)
    patients = Patients(first)
    counts = draw_patients(len(patients), replicates, seed)
    samples, figures = {}, {}
    for name, table in aligned.items():
        units = Units(table, patients, level, pooling)
        samples[name] = _sample(units, labels, counts)
        figures[name] = _describe(labels, samples[name], len(patients))
    return Comparison(
        level=level,
        pooling=pooling,
        slices=len(first),
        patients=len(patients),
        replicates=replicates,
        seed=seed,
        models=figures,
        pairs=tuple(_pair(a, b, labels, samples[a], samples[b]) for a, b in combinations(samples, 2)),
    )


def ensemble(tables: Mapping[str, pd.DataFrame], shares: Sequence[float] | None = None) -> pd.DataFrame:
    """Averages the probabilities of models.

    Args:
        tables: Predictions tables by name, of the same slices in any order.
        shares: Weight of each model, summing to 1; None weighs all alike.

    Returns:
        A predictions table in the order of the first, without ``WEIGHTS_COLUMN``, because no single model
        made it.

    Raises:
        UserError: As ``compare`` does.
    """
    aligned = align(tables)
    table = next(iter(aligned.values())).drop(columns=WEIGHTS_COLUMN, errors="ignore")
    columns = name_columns("prob", find_names(table))
    probs = [each[columns].to_numpy(np.float64) for each in aligned.values()]
    table[columns] = np.average(probs, axis=0, weights=shares)
    return table


def _sample(units: Units, labels: LabelSet, counts: NDArray[np.int32]) -> _Samples:
    columns = {label: units.column(label) for label in labels.names}
    scored = {label: column.score_areas(counts) for label, column in columns.items()}
    return _Samples(
        columns,
        {label: area for label, (area, _) in scored.items()},
        {label: precision for label, (_, precision) in scored.items()},
        sample_losses(units, units.probs, labels, counts),
    )


def _describe(labels: LabelSet, samples: _Samples, patients: int) -> ModelFigures:
    return ModelFigures(
        labels={
            label: estimate_areas(column, samples.areas[label], samples.precisions[label])
            for label, column in samples.columns.items()
        },
        auroc_mean_subtypes=average_subtypes(samples.areas, labels, samples.columns),
        weighted_log_loss=estimate_loss(samples.losses, patients),
    )


def _pair(name_a: str, name_b: str, labels: LabelSet, a: _Samples, b: _Samples) -> Pair:
    differences = {label: a.areas[label] - b.areas[label] for label in labels.names}
    return Pair(
        a=name_a,
        b=name_b,
        labels={label: _pair_label(label, a, b) for label in labels.names},
        auroc_mean_subtypes=average_subtypes(differences, labels, a.columns),
        weighted_log_loss=estimate(a.losses - b.losses),
    )


def _pair_label(label: str, a: _Samples, b: _Samples) -> PairedFigures:
    column = a.columns[label]
    return PairedFigures(
        auroc=estimate(a.areas[label] - b.areas[label], column.shortage),
        auroc_delong=compare_delong(
            column.target, column.prob, b.columns[label].prob, column.codes, column.shortage
        ),
        average_precision=estimate(a.precisions[label] - b.precisions[label], column.shortage),
    )
