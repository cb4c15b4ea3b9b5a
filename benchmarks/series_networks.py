"""Networks over series beside smoothing and boosting, on frozen features, nested by patient.

A backbone with published weights gives the features of all slices once. For each of five folds of patients,
heads (logistic regression on principal components) are fitted on the other folds. Their predictions for the
patients that they were not fitted on, by five inner folds, are what smoothing, boosting and the networks over
series learn from. A fourth of these patients chooses how much of a network each label takes. The heads know
little, but no prediction is of a patient that anything was fitted on.

    python benchmarks/series_networks.py --root data/ct_ich --weights FILE --features runs/lite0.npz --seed 0
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from series import WAYS
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ich.data import HeadCTDataModule
from ich.evaluate.comparison import compare
from ich.models import SliceClassifier
from ich.models.series import SeriesSpec
from ich.schema import LABELS, InputSpec
from ich.schema.labels import RSNA_LABELS
from ich.tables import make_predictions
from ich.train.series import correct_table, fit_series

FOLDS, COMPONENTS, PENALTY = 5, 48, 0.01
KINDS = ("gru", "transformer")
Rows = NDArray[np.intp]


def compute_features(data: HeadCTDataModule, backbone: str, weights: str, path: Path) -> NDArray[np.float32]:
    """(N, F) features of the rows of the table, kept in a file."""
    if path.is_file():
        return np.load(path)["features"]
    net = SliceClassifier(backbone, input=data.input, weights_file=weights).net.eval()
    data.predict_sets = ("train", "val", "test")
    features = np.empty((len(data.table), net.features), np.float32)
    with torch.inference_mode():
        for read in data.predict_dataloader():
            batch = data.on_after_batch_transfer(data.on_before_batch_transfer(read, 0), 0)
            features[batch["row"]] = net.extract(batch["image"])
    np.savez(path, features=features)
    return features


def fit_heads(
    features: NDArray[np.float32], target: NDArray[np.float64], fitted: Rows, rows: Rows
) -> NDArray:
    """(M, L) probabilities of rows, by heads that were fitted on others."""
    reduce = make_pipeline(StandardScaler(), PCA(COMPONENTS, random_state=0))
    known, new = reduce.fit_transform(features[fitted]), reduce.transform(features[rows])
    probs = np.empty((len(rows), target.shape[1]))
    for label, each in enumerate(target[fitted].T):
        if each.sum() < 3:
            probs[:, label] = each.mean()
        else:
            head = LogisticRegression(C=PENALTY, max_iter=500).fit(known, each)
            probs[:, label] = head.predict_proba(new)[:, 1]
    return probs.clip(1e-4, 1 - 1e-4)


def deal(rows: Rows, patients: NDArray, folds: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Yields the rows of the other folds, and of each fold."""
    split = GroupKFold(folds, shuffle=True, random_state=seed).split(rows, groups=patients[rows])
    return ((rows[others], rows[own]) for others, own in split)


def add_features(parser: argparse.ArgumentParser, size: int) -> None:
    """Adds what `compute_features` needs."""
    parser.add_argument("--root", required=True, help="data set in the layout of the RSNA 2019 data")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm model")
    parser.add_argument("--weights", required=True, help="file with its published weights")
    parser.add_argument("--features", type=Path, required=True, help="file that keeps the features, .npz")
    parser.add_argument("--size", type=int, default=size, help="side of the image, pixels")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_features(parser, size=192)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    data = HeadCTDataModule(args.root, InputSpec(size=args.size), num_workers=0)
    data.prepare_data()
    data.setup()
    features = compute_features(data, args.backbone, args.weights, args.features)
    slices = data.table.reset_index(drop=True)
    target, patients = slices[list(LABELS)].to_numpy(np.float64), slices["PatientID"].to_numpy()
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in (*WAYS, *KINDS)}
    for others, own in deal(np.arange(len(slices)), patients, FOLDS, args.seed):
        probs = np.empty(target.shape)
        for fitted, rows in deal(others, patients, FOLDS, args.seed + 100):
            probs[rows] = fit_heads(features, target, fitted, rows)
        probs[own] = fit_heads(features, target, others, own)
        known, test = (make_predictions(slices.iloc[r], "test", probs[r]) for r in (others, own))
        for name, way in WAYS.items():
            found[name].append(way(known, test))
        train, val = next(deal(others, patients, 4, args.seed + 7))
        parts = {"train": train, "val": val, "test": own}
        tables = {
            part: make_predictions(slices.iloc[rows], part, probs[rows]) for part, rows in parts.items()
        }
        kept = {part: features[rows] for part, rows in parts.items()}
        for kind in KINDS:
            spec = SeriesSpec(kind, width=32, epochs=15, lr=2e-3)
            with tempfile.TemporaryDirectory() as folder:
                net = fit_series(tables, kept, spec, RSNA_LABELS, Path(folder), seed=args.seed, gpus=0)
            if net is None:  # as a run does then
                found[kind].append(found["smoothed"][-1])
            else:
                found[kind].append(correct_table(net, test, kept["test"], RSNA_LABELS)[0])
            print(f"{kind}: {'off' if net is None else net.blend.tolist()}", flush=True)
    pooled = {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}
    for level in ("slice", "patient"):
        comparison = compare(pooled, level=level)
        print(f"\nby {level}, {comparison.patients} patients, seed {args.seed}")
        for name, figures in comparison.models.items():
            any_, epidural = (figures.labels[label].auroc.value for label in ("any", "epidural"))
            loss = figures.weighted_log_loss.value
            print(f"  {name:12} AUROC any {any_:.3f}  epidural {epidural:.3f}  log loss {loss:.4f}")
        for pair in comparison.pairs:
            loss, area = pair.weighted_log_loss, pair.labels["any"].auroc
            print(f"  {pair.a} minus {pair.b}:")
            print(f"    log loss {loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})")
            print(f"    AUROC any {area.value:+.3f} ({area.low:+.3f} to {area.high:+.3f})")


if __name__ == "__main__":
    main()
