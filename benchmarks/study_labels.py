"""Labels of studies beside labels of slices: what a head learns if nobody says which slices are positive.

A backbone with published weights gives the features of all slices once. For each of five folds of patients,
a linear head on principal components learns from the other folds. It knows the labels of slices, those of
studies (the maximum over their slices), or both: the labels of slices for every second study, and those of
studies for the others. The losses are those of a training. All are measured on the labels of slices.

    python benchmarks/study_labels.py --root data/ct_ich --weights FILE --features runs/lite0.npz
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from series_networks import add_features, compute_features, deal
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

FOLDS, COMPONENTS, PENALTY = 5, 48, 0.003
TOP, SLICE_WEIGHT = 3, 0.5


@dataclass(frozen=True)
class Way:
    """What a head learns from.

    Attributes:
        pool: Way from slices to their study; None without labels of studies.
        share: Every study, every second or none has labels of slices: 1, 2 or 0.
    """

    pool: str | None
    share: int


WAYS = {
    "slices": Way(None, 1),
    "top_k": Way("top_k", 0),
    "attention": Way("attention", 0),
    "half": Way(None, 2),
    "half_top_k": Way("top_k", 2),
}
Rows = NDArray[np.intp]


class Head(nn.Module):
    """A linear head with the loss of a training.

    Args:
        way: What it learns from.
        features: (N, F).
        target: (N, L) of slices.
        study: (N,) number of each slice's study, from 0.
    """

    def __init__(self, way: Way, features: Tensor, target: Tensor, study: Tensor) -> None:
        super().__init__()
        width, labels = features.shape[1], target.shape[1]
        self.features, self.study, self.loss = features, study, WeightedBCE()
        of_studies = torch.stack(
            [target[study == number].amax(dim=0) for number in range(int(study.max()) + 1)]
        )
        labeled = (study % way.share == 0) if way.share else torch.zeros(len(study), dtype=torch.bool)
        self.known = target.masked_fill(~labeled[:, None], torch.nan)
        self.pool: nn.Module | None = None
        self.of_studies = of_studies
        if way.pool is not None:
            self.pool = build_study_pool(way.pool, top=TOP, features=width, labels=labels)
            self.known = torch.where(of_studies[study] == 0, 0.0, self.known)
        self.linear = nn.Linear(width, labels)
        nn.init.zeros_(self.linear.weight)
        prevalences = target[labeled].mean(dim=0) if self.pool is None else of_studies.mean(dim=0)
        self.linear.bias.data = prevalence_logits(prevalences)

    def lose(self) -> Tensor:
        """Returns the loss, with a penalty on the weights."""
        logits = self.linear(self.features)
        loss: Tensor = self.loss(logits, self.known)
        if self.pool is not None:
            pooled = self.pool(logits, self.features, self.study)
            loss = self.loss(pooled, self.of_studies) + SLICE_WEIGHT * loss
        weights = (p for p in self.parameters() if p.ndim > 1)
        return loss + PENALTY * sum(p.square().sum() for p in weights) / len(LABELS)

    def fit(self) -> None:
        """Minimizes the loss."""
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def close() -> Tensor:
            optimizer.zero_grad()
            loss = self.lose()
            loss.backward()
            return loss

        optimizer.step(close)


def predict_folds(slices: pd.DataFrame, features: NDArray, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields each way with its predictions for each fold."""
    patients = slices["PatientID"].to_numpy()
    target = torch.from_numpy(slices[list(LABELS)].to_numpy(np.float32))
    for others, own in deal(np.arange(len(slices)), patients, FOLDS, seed):
        reduce = make_pipeline(StandardScaler(), PCA(COMPONENTS, whiten=True, random_state=0))
        known = torch.from_numpy(reduce.fit_transform(features[others])).float()
        new = torch.from_numpy(reduce.transform(features[own])).float()
        study = torch.from_numpy(pd.factorize(slices["StudyInstanceUID"].iloc[others])[0])
        for name, way in WAYS.items():
            torch.manual_seed(seed)
            head = Head(way, known, target[others], study)
            head.fit()
            with torch.inference_mode():
                probs = head.linear(new).sigmoid().numpy()
            yield name, make_predictions(slices.iloc[own], "test", probs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_features(parser, size=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each deals other folds")
    args = parser.parse_args()
    data = HeadCTDataModule(args.root, InputSpec(size=args.size), num_workers=0)
    data.prepare_data()
    data.setup()
    features = compute_features(data, args.backbone, args.weights, args.features)
    slices = data.table.reset_index(drop=True)
    for seed in args.seeds:
        found: dict[str, list[pd.DataFrame]] = {name: [] for name in WAYS}
        for name, table in predict_folds(slices, features, seed):
            found[name].append(table)
        pooled = {name: pd.concat(tables, ignore_index=True) for name, tables in found.items()}
        for level, pooling in (("slice", "max"), ("patient", "max"), ("patient", "top3_mean")):
            comparison = compare(pooled, level=level, pooling=pooling)
            print(f"\nby {level}, {pooling}, {comparison.patients} patients, seed {seed}", flush=True)
            for name, figures in comparison.models.items():
                print(
                    f"  {name:10} AUROC any {figures.labels['any'].auroc:.3f}  mean of subtypes "
                    f"{figures.auroc_mean_subtypes:.3f}  log loss {figures.weighted_log_loss:.4f}"
                )
            for pair in comparison.pairs:
                area = pair.labels["any"].auroc
                interval = f"({area.low:+.3f} to {area.high:+.3f})"
                print(f"  {pair.a} minus {pair.b}: AUROC any {area.value:+.3f} {interval}")


if __name__ == "__main__":
    main()
