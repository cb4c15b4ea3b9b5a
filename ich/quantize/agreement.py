"""Results of a model in 32 bits and in int8: what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ich.evaluate.comparison import Comparison, compare
from ich.networks import Network
from ich.networks.int8 import Agreement
from ich.recalibrate.studies import gather_studies
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.tables import STUDY_TARGET, name_columns

BEFORE, AFTER = "32 bits", "int8"
"""Names of both models in a comparison."""


class Change(NamedTuple):
    """An outcome that changed.

    Attributes:
        before: The outcome in 32 bits.
        after: The outcome in int8.
        studies: Number of studies.
    """

    before: str
    after: str
    studies: int


def measure_agreement(before: Sequence[StudyResult], after: Sequence[StudyResult]) -> Agreement:
    """Measures how results agree.

    Args:
        before: Results in 32 bits.
        after: Results in int8 of the same studies, in the same order.

    Raises:
        UserError: If no study was read.
    """
    pairs = [(one, two) for one, two in zip(before, after, strict=True) if one.refusal is None and one.slices]
    if not pairs:
        raise UserError("none of the studies to compare both models on can be read: give others")
    probs = [
        np.array([[list(each.probs.values()) for each in result.slices] for result in pair]) for pair in pairs
    ]  # each (2, N, L)
    differences = np.concatenate([np.abs(one - two).ravel() for one, two in probs])
    return Agreement(
        studies=len(pairs),
        slices=sum(len(one.slices) for one, _ in pairs),
        mean_difference=float(differences.mean()),
        largest_difference=float(differences.max()),
        changed=sum(one.outcome != two.outcome for one, two in pairs),
        changed_labels=sum(
            one.labels[label].positive != two.labels[label].positive
            for one, two in pairs
            for label in one.labels
        ),
    )


def find_changes(before: Sequence[StudyResult], after: Sequence[StudyResult]) -> tuple[Change, ...]:
    """Counts the outcomes that changed, the most frequent first; arguments as ``measure_agreement``."""
    pairs = ((one.outcome, two.outcome) for one, two in zip(before, after, strict=True))
    counts = Counter((str(one), str(two)) for one, two in pairs if one != two)
    return tuple(Change(*outcomes, count) for outcomes, count in counts.most_common())


def count_outcomes(results: Sequence[StudyResult]) -> dict[str, int]:
    """Counts the outcomes of studies that were read, the most frequent first."""
    return dict(Counter(str(each.outcome) for each in results if each.refusal is None).most_common())


def compare_areas(
    results: Mapping[str, Sequence[StudyResult]], network: Network, labels: pd.DataFrame, pooling: str
) -> dict[str, Comparison]:
    """Compares the AUROC of studies, and of slices if these are labeled.

    Differences are those of ``AFTER`` from ``BEFORE``, with a bootstrap that draws each patient for both.

    Args:
        results: Results by ``BEFORE`` and ``AFTER``.
        network: The model that made them.
        labels: As ``gather_studies`` takes them.
        pooling: One of ``ich.evaluate.pooling.METHODS``.

    Returns:
        A comparison by level.

    Raises:
        UserError: As ``gather_studies`` and ``compare`` do.
    """
    names = network.metadata.labels.names
    tables = {}
    for name in (AFTER, BEFORE):
        studies = gather_studies(results[name], network, labels)
        targets = studies.targets.loc[studies.slices["StudyInstanceUID"]].to_numpy(np.float64)
        tables[name] = studies.slices.copy()
        tables[name][name_columns(STUDY_TARGET, names)] = targets
    levels = ("slice", "study") if labels.index.name == "SOPInstanceUID" else ("study",)
    return {
        level: compare(tables, labels=network.metadata.labels, level=level, pooling=pooling)
        for level in levels
    }
