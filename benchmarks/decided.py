"""How many studies models of few patients decide, each study held out from all that decides on it.

The runs are the folds of one split; several runs of one fold are averaged. Each study is read as
`ich predict` reads it, by the models that did not learn from its patient. Smoothing, calibration and
operating points are fitted on the test predictions of the other folds. The reference for out-of-distribution
detection is fitted without the patient. The epoch was chosen on a validation set that does not hold the
patient either. Studies whose files leave a gap are never NEGATIVE, so they are counted apart.

    python benchmarks/decided.py --root data/ct_ich --runs runs/ladder/{both,imagenet}_{0,1,2,3,4}_0

Research use only; not a medical device.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest

from ich.calibration import DECIDED_LEVELS, Decision
from ich.calibration.ood import fit_ood
from ich.calibration.smoothing import Smoothing
from ich.data import HeadCTDataModule
from ich.evaluate.comparison import ensemble
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.pooling import DEFAULT_POOLING, METHODS
from ich.evaluate.smoothing import fit_table, smooth_table
from ich.model_files.checkpoint import find_checkpoint
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import OodReference
from ich.models import SliceNet, load_slice_net
from ich.networks import TorchNetwork
from ich.predict import Predictor
from ich.schema import UserError
from ich.schema.codes import Reason
from ich.schema.results import StudyResult
from ich.studies import find_studies
from ich.tables import read_predictions
from ich.train.ood import FeatureLog
from ich.train.scores import predict_parts

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Row:
    """A study's result.

    Attributes:
        positive: Whether one of its slices is labeled as hemorrhage.
        outcome: POSITIVE, NEGATIVE or INDETERMINATE.
        reasons: Why it is not decided.
    """

    positive: bool
    outcome: str
    reasons: tuple[str, ...]

    @property
    def has_gap(self) -> bool:
        """Whether slices are missing in its files."""
        return Reason.GAP in self.reasons


@dataclass(frozen=True)
class Held:
    """A model of a fold, and its held-out slices.

    Attributes:
        net: The network.
        features: (N, F) features of the slices.
        slices: (N rows) UIDs of the slices.
    """

    net: SliceNet
    features: NDArray[np.float32]
    slices: pd.DataFrame


def read_model(run: Path, root: Path) -> Held:
    """Reads the model of a run, and runs it on the slices that it did not learn from."""
    net = load_slice_net(find_checkpoint(run, "best"))
    data = HeadCTDataModule(str(root), net.input, split=str(run / "split.csv"))
    data.prepare_data()
    data.setup()
    seen = FeatureLog(data.table["part"].isin(HELD_OUT).to_numpy())
    predict_parts(net, data, seen=seen)
    return Held(net, seen.features, data.table.iloc[seen.rows].reset_index(drop=True))


def make_predictor(
    models: Sequence[Held], patient: str, smoothing: Smoothing, decisions: Mapping[str, Decision]
) -> Predictor:
    """Makes a predictor that knows nothing of the patient."""
    for held in models:
        fit_reference(held, patient)
    networks = [TorchNetwork(held.net, "", gpus=0) for held in models]
    members = tuple(network.metadata for network in networks)
    if len(members) > 1:
        mean = EnsembleMetadata(members, decisions=decisions, smoothing=smoothing)
        return Predictor(networks, ensemble=mean)
    models[0].net.metadata = replace(members[0], smoothing=smoothing, decisions=decisions)
    return Predictor([TorchNetwork(models[0].net, "", gpus=0)])


def fit_reference(held: Held, patient: str) -> None:
    """Fits a model's reference for out-of-distribution detection on all held-out slices but a patient's."""
    others = (held.slices["PatientID"] != patient).to_numpy()
    slices = held.slices[others]
    found = fit_ood(held.features[others], slices["StudyInstanceUID"], slices["PatientID"])
    if isinstance(found, str):
        raise UserError(f"no reference without one of the patients: {found}")
    reference = OodReference(slices["StudyInstanceUID"].nunique(), slices["PatientID"].nunique())
    held.net.ood = found
    held.net.metadata = replace(held.net.metadata, ood=reference, smoothing=None, decisions=None)


def group_folds(runs: Sequence[Path]) -> tuple[list[list[Path]], list[pd.DataFrame]]:
    """Groups runs by the patients that they test; returns them with the mean of their predictions."""
    tables = {run: read_predictions(run / "predictions_test.csv") for run in runs}
    folds: dict[frozenset[str], list[Path]] = {}
    for run, table in tables.items():
        folds.setdefault(frozenset(table["PatientID"]), []).append(run)
    groups = list(folds.values())
    means = [
        ensemble({str(run): tables[run] for run in group}) if len(group) > 1 else tables[group[0]]
        for group in groups
    ]
    return groups, means


def predict_all(
    runs: Sequence[Path], root: Path, rule: str, pooling: str
) -> Iterator[tuple[str, StudyResult]]:
    """Yields each patient of the test sets with the results of the patient's studies."""
    groups, tables = group_folds(runs)
    with tempfile.TemporaryDirectory() as scratch:
        studies = find_studies([root], scratch=Path(scratch)).studies
        for number, (group, table) in enumerate(zip(groups, tables, strict=True)):
            others = pd.concat(tables[:number] + tables[number + 1 :], ignore_index=True)
            smoothing = fit_table(others)
            smooth = smooth_table(others, smoothing)
            decisions = fit_decisions(smooth, levels=DECIDED_LEVELS, pooling=pooling, rule=rule)
            models = [read_model(run, root) for run in group]
            for patient in sorted(table["PatientID"].unique()):
                predictor = make_predictor(models, patient, smoothing, decisions)
                own = [study for study in studies if study.PatientID == patient]
                yield from ((patient, result) for result in predictor.predict_studies(own))


def say_share(name: str, hits: int, among: int) -> str:
    """Says a share with its 95 % interval by Wilson (1927)."""
    if not among:
        return f"{name}: none of none"
    interval = binomtest(hits, among).proportion_ci(0.95, "wilson")
    return f"{name}: {hits} of {among}, {hits / among:.2f} ({interval.low:.2f}-{interval.high:.2f})"


def report(rows: Sequence[Row]) -> None:
    """Prints the figures."""
    whole = [row for row in rows if not row.has_gap]
    decided = [row for row in whole if row.outcome != "INDETERMINATE"]
    positive = [row.outcome for row in decided if row.positive]
    negative = [row.outcome for row in decided if not row.positive]
    print(f"{len(rows)} studies, {sum(row.positive for row in rows)} positive")
    print("reasons:", dict(Counter(reason for row in rows for reason in row.reasons)))
    print(f"without a gap: {len(whole)}")
    print(say_share("decided", len(decided), len(whole)))
    print(say_share("sensitivity among decided", positive.count("POSITIVE"), len(positive)))
    print(say_share("specificity among decided", negative.count("NEGATIVE"), len(negative)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="data set in the RSNA layout")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="one or more runs for each fold")
    parser.add_argument("--rule", default="sensitivity>=0.9", help="rule for operating points")
    parser.add_argument("--pooling", choices=METHODS, default=DEFAULT_POOLING, help="slices to a study")
    parser.add_argument("--out", type=Path, help="new JSON file for the outcomes, without identifiers")
    args = parser.parse_args()
    runs = [run.resolve() for run in args.runs]
    tables = pd.concat([read_predictions(run / "predictions_test.csv") for run in runs])
    truth = tables.groupby("StudyInstanceUID")["target_any"].max()
    results = [result for _, result in predict_all(runs, args.root.resolve(), args.rule, args.pooling)]
    rows = [
        Row(
            bool(truth[result.StudyInstanceUID]),
            str(result.outcome),
            tuple(str(reason.code) for reason in result.reasons),
        )
        for result in results
    ]
    report(rows)
    if args.out is not None:
        plain = [{"positive": row.positive, "outcome": row.outcome, "reasons": row.reasons} for row in rows]
        args.out.write_text(json.dumps(plain) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
