"""The studies of a site with their probabilities and labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ich.evaluate.pooling import pool
from ich.index.joining import match_slices, match_studies, require_matches
from ich.networks import Network
from ich.schema import UserError
from ich.schema.codes import OF_MODEL, Reason
from ich.schema.results import StudyResult
from ich.tables import SLAB_COLUMN, name_columns

MIN_STUDIES = 10
"""Studies with a known label that a recalibration needs."""

ADVISED = "20 to 50 are advised"


@dataclass(frozen=True)
class SiteStudies:
    """The studies of a site that are used, and counts of the others.

    Attributes:
        slices: Predictions table of the slices that count. Targets are unknown without labels of slices.
        targets: Targets of the studies, indexed by StudyInstanceUID; at least one of each is known.
        left_out: Studies that are not used, by the code of the reason.
        unlabeled: Studies that are not used because none of their labels is known.
        unlike: Studies that are used although they are out of distribution.
    """

    slices: pd.DataFrame
    targets: pd.DataFrame
    left_out: Mapping[str, int]
    unlabeled: int
    unlike: int

    def pool(self, level: str, pooling: str) -> pd.DataFrame:
        """Pools the slices to the units of a level; see ``ich.evaluate.pooling.pool``."""
        units = pool(self.slices, level, pooling)
        if level == "study":
            units[self.targets.columns] = self.targets.loc[units["unit"]].to_numpy()
        return units


def gather_studies(results: Sequence[StudyResult], network: Network, labels: pd.DataFrame) -> SiteStudies:
    """Gathers the studies of a site that can be used.

    A study with any reason about its data is not used, whatever its outcome. If only INDETERMINATE studies
    were left out, the others would be the positive ones. A study without a PatientID counts as a patient.

    Args:
        results: Results of ``ich predict``.
        network: The model that made them.
        labels: From ``ich.index.read_study_labels`` or ``ich.index.read_labels``. The target of a study is
            the maximum of its slices' if the labels are those of slices.

    Raises:
        UserError: If the results are those of another model, no study can be used, or none has a label.
    """
    _require_same_model(results, network)
    obstacles = [_find_obstacle(result) for result in results]
    left_out = Counter(filter(None, obstacles))
    used = [result for result, obstacle in zip(results, obstacles, strict=True) if not obstacle]
    if not used:
        codes = ", ".join(f"{code}: {count}" for code, count in left_out.most_common()) or "there is none"
        raise UserError(f"no study can be used for a recalibration ({codes})")
    names = network.metadata.labels.names
    slices = _tabulate(used, names)
    if labels.index.name == "SOPInstanceUID":
        slices = _join_slices(slices, labels)
        targets = pool(slices, "study").set_index("unit")[name_columns("target", names)]
    else:
        targets = match_studies(slices, labels).astype(np.float64)
        targets.columns = pd.Index(name_columns("target", names))
    known = targets.notna().any(axis=1)
    kept = set(targets.index[known])
    unlike = sum(
        any(reason.code == Reason.UNLIKE_TRAINING for reason in result.reasons)
        for result in used
        if result.StudyInstanceUID in kept
    )
    return SiteStudies(
        slices=slices[slices["StudyInstanceUID"].isin(kept)].reset_index(drop=True),
        targets=targets[known],
        left_out=dict(left_out),
        unlabeled=int((~known).sum()),
        unlike=unlike,
    )


def require_labels(studies: SiteStudies, label: str) -> None:
    """Checks that there are enough studies for a recalibration.

    Raises:
        UserError: If a label is known of fewer than ``MIN_STUDIES`` studies, or all of them have the same.
    """
    target = studies.targets[f"target_{label}"].dropna()
    if len(target) < MIN_STUDIES:
        left_out = sum(studies.left_out.values())
        raise UserError(
            f"{label} is known of {len(target)} studies that can be used, and {MIN_STUDIES} are needed "
            f"({ADVISED}); {left_out} were left out for their data, and {studies.unlabeled} have no label"
        )
    if target.nunique() < 2:
        raise UserError(
            f"{label} is {target.iloc[0]:.0f} in all {len(target)} studies: both kinds are needed, so add "
            f"studies {'with' if target.iloc[0] == 0 else 'without'} it"
        )


def _require_same_model(results: Sequence[StudyResult], network: Network) -> None:
    if several := {result.algorithm.tta for result in results[1:]} - {results[0].algorithm.tta}:
        raise UserError(f"the results differ in test-time augmentation, by {several.pop()}: predict anew")
    for result in results:
        if result.algorithm.weights != (network.sha256,):
            found = " and ".join(digest[:12] for digest in result.algorithm.weights)
            raise UserError(
                f"the results are those of another model file: SHA-256 {found}..., and the model to "
                f"recalibrate has {network.sha256[:12]}...; give the file that made them, or the studies"
            )


def _find_obstacle(result: StudyResult) -> str:
    """Finds the code of why a study is not used; empty if it is."""
    if result.refusal is not None:
        return str(result.refusal.code)
    return next((str(reason.code) for reason in result.reasons if reason.code not in OF_MODEL), "")


def _tabulate(results: Sequence[StudyResult], names: Sequence[str]) -> pd.DataFrame:
    rows = [
        {
            "SOPInstanceUID": each.SOPInstanceUID,
            "SeriesInstanceUID": result.read_series or "",
            "StudyInstanceUID": result.StudyInstanceUID,
            "PatientID": result.PatientID or result.StudyInstanceUID,
            "part": "",
            SLAB_COLUMN: np.nan if each.slab is None else each.slab,
            **{f"prob_{name}": each.probs[name] for name in names},
            **dict.fromkeys(name_columns("target", names), np.nan),
        }
        for result in results
        for each in result.slices
        if each.left_out is None
    ]
    return pd.DataFrame(rows)


def _join_slices(slices: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    places = match_slices(slices["SOPInstanceUID"], labels)
    require_matches(places, slices["SOPInstanceUID"], labels)
    found = labels.to_numpy(np.float64)[places]
    found[places < 0] = np.nan
    return slices.assign(**dict(zip(name_columns("target", list(map(str, labels))), found.T, strict=True)))
