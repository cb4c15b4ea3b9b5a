"""Labels of studies beside labels of slices: what a head learns if nobody says which slices are positive.

A backbone with published weights gives the features of all slices once. For each of five folds of patients, a
linear head on principal components learns from the other folds: from the labels of slices, or from those of
studies, which are the maximum over their slices. Both losses are those of a training. Each way chooses its
weight decay within the other folds, by its own labels. All are measured on the labels of slices.

    python benchmarks/study_labels.py --root data/ct_ich --weights FILE --features runs/lite0.npz
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from series_networks import compute_features, deal
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ich.data import HeadCTDataModule
from ich.evaluate.comparison import compare
from ich.models.losses import WeightedBCE, prevalence_logits
from ich.models.study_pooling import build_study_pool
from ich.schema import LABELS, InputSpec
from ich.tables import make_predictions

FOLDS, INNER, COMPONENTS, TOP, SLICE_WEIGHT = 5, 3, 48, 3, 0.5
DECAYS = (0.003, 0.03, 0.3)
STEPS, RATE = 150, 0.02
SLICES = "slices"
WAYS = (SLICES, "top_k", "attention")
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Data:
    """Slices with their labels, and the number of each one's study."""

    features: Tensor  # (N, F)
    target: Tensor  # (N, L)
    study: Tensor  # (N,)

    def take(self, rows: Rows) -> "Data":
        """Returns some of the slices."""
        study = torch.unique(self.study[rows], return_inverse=True)[1]
        return Data(self.features[rows], self.target[rows], study)

    @property
    def study_target(self) -> Tensor:
        """(K, L) the highest of each study."""
        studies = range(int(self.study.max()) + 1)
        return torch.stack([self.target[self.study == number].amax(dim=0) for number in studies])


class Head(nn.Module):
    """A linear head, and the loss of a training on labels of slices or of studies."""

    def __init__(self, way: str, data: Data) -> None:
        super().__init__()
        width, labels = data.features.shape[1], data.target.shape[1]
        self.linear, self.loss = nn.Linear(width, labels), WeightedBCE()
        self.pool = None if way == SLICES else build_study_pool(way, top=TOP, features=width, labels=labels)
        known = data.target if self.pool is None else data.study_target
        nn.init.zeros_(self.linear.weight)
        self.linear.bias.data = prevalence_logits(known.mean(dim=0))

    def lose(self, data: Data) -> Tensor:
        """Returns the loss, by the labels that this way knows."""
        logits = self.linear(data.features)
        if self.pool is None:
            return self.loss(logits, data.target)
        of_studies = data.study_target
        known = torch.where(of_studies[data.study] == 0, 0.0, torch.nan)
        pooled = self.pool(logits, data.features, data.study)
        return self.loss(pooled, of_studies) + SLICE_WEIGHT * self.loss(logits, known)


def fit(way: str, data: Data, decay: float, seed: int) -> Head:
    torch.manual_seed(seed)
    head = Head(way, data)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=decay)
    for _ in range(STEPS):
        optimizer.zero_grad()
        head.lose(data).backward()
        optimizer.step()
    return head.eval()


def choose(way: str, data: Data, inner: list[tuple[Rows, Rows]], seed: int) -> float:
    """Chooses the weight decay by the loss on patients that a head was not fitted on."""
    losses = {}
    for decay in DECAYS:
        heads = [(fit(way, data.take(fitted), decay, seed), rows) for fitted, rows in inner]
        losses[decay] = sum(float(head.lose(data.take(rows)).detach()) for head, rows in heads)
    return min(losses, key=losses.__getitem__)


def predict_folds(slices: pd.DataFrame, features: NDArray, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields each way with its predictions for each fold."""
    patients = slices["PatientID"].to_numpy()
    target = torch.from_numpy(slices[list(LABELS)].to_numpy(np.float32))
    study = torch.from_numpy(pd.factorize(slices["StudyInstanceUID"])[0])
    for others, own in deal(np.arange(len(slices)), patients, FOLDS, seed):
        reduce = make_pipeline(StandardScaler(), PCA(COMPONENTS, whiten=True, random_state=0))
        reduce.fit(features[others])
        data = Data(torch.from_numpy(reduce.transform(features)).float(), target, study)
        inner = list(deal(others, patients, INNER, seed + 100))
        for way in WAYS:
            head = fit(way, data.take(others), choose(way, data, inner, seed), seed)
            with torch.inference_mode():
                probs = head.linear(data.features[own]).sigmoid().numpy()
            yield way, make_predictions(slices.iloc[own], "test", probs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="data set in the layout of the RSNA 2019 data")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm model")
    parser.add_argument("--weights", required=True, help="file with its published weights")
    parser.add_argument("--features", type=Path, required=True, help="file that keeps the features, .npz")
    parser.add_argument("--size", type=int, default=128, help="side of the image, pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each deals other folds")
    args = parser.parse_args()
    data = HeadCTDataModule(args.root, InputSpec(size=args.size), num_workers=0)
    data.prepare_data()
    data.setup()
    features = compute_features(data, args.backbone, args.weights, args.features)
    slices = data.table.reset_index(drop=True)
    for seed in args.seeds:
        found: dict[str, list[pd.DataFrame]] = {way: [] for way in WAYS}
        for way, table in predict_folds(slices, features, seed):
            found[way].append(table)
        pooled = {way: pd.concat(tables, ignore_index=True) for way, tables in found.items()}
        for level in ("slice", "patient"):
            comparison = compare(pooled, level=level)
            print(f"\nby {level}, {comparison.patients} patients, seed {seed}", flush=True)
            for way, figures in comparison.models.items():
                print(
                    f"  {way:10} AUROC any {figures.labels['any'].auroc:.3f}  mean of subtypes "
                    f"{figures.auroc_mean_subtypes:.3f}  log loss {figures.weighted_log_loss:.4f}"
                )
            for pair in comparison.pairs:
                area = pair.labels["any"].auroc
                interval = f"({area.low:+.3f} to {area.high:+.3f})"
                print(f"  {pair.a} minus {pair.b}: AUROC any {area.value:+.3f} {interval}")


if __name__ == "__main__":
    main()
