from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from torchmetrics import Metric

from ich.models.metrics import MeanLoss, MultilabelRanking, WeightedLogLoss, build_metrics, weighted_log_loss
from ich.schema import LABELS, SUBTYPES

NAN = float("nan")


def slices(n: int = 3000, unknown: float = 0.0, decimals: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities with ties and targets of unequal prevalence."""
    rng = np.random.default_rng(0)
    target = (rng.random((n, 6)) < [0.01, 0.05, 0.04, 0.05, 0.06, 0.15]).astype(np.float32)
    logits = rng.normal(-3, 1.5, (n, 6)) + 2 * target
    probs = np.round(1 / (1 + np.exp(-logits)), decimals).clip(0.001, 0.999)
    target[rng.random((n, 6)) < unknown] = NAN
    return torch.from_numpy(probs), torch.from_numpy(target)


def test_weighted_log_loss_is_scikit_learns_over_the_label_file() -> None:
    probs, target = slices()
    weights = np.tile([1, 1, 1, 1, 1, 2], len(target))
    expected = log_loss(target.flatten().numpy(), probs.flatten().numpy(), sample_weight=weights)
    assert weighted_log_loss(probs, target).item() == pytest.approx(expected, rel=1e-12)


def test_weighted_log_loss_skips_what_is_unknown() -> None:
    probs, target = slices(unknown=0.4)
    known = ~target.isnan()
    weights = torch.tensor([1, 1, 1, 1, 1, 2]).expand_as(target)
    expected = log_loss(target[known].numpy(), probs[known].numpy(), sample_weight=weights[known].numpy())
    assert weighted_log_loss(probs, target).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("truth", [0.0, 1.0])
def test_probabilities_are_clipped_at_eps_in_every_precision(dtype: torch.dtype, truth: float) -> None:
    target = torch.full((1, 6), truth)
    assert weighted_log_loss(1 - target.to(dtype), target).item() == pytest.approx(-math.log(1e-15))
    assert weighted_log_loss(target.to(dtype), target).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_collection_is_scikit_learns(dtype: torch.dtype, device: str) -> None:
    probs, target = slices(unknown=0.2)
    probs = probs.to(dtype)
    metrics = build_metrics("val_").to(device)
    for start in range(0, len(probs), 512):
        metrics.update(probs[start : start + 512].to(device), target[start : start + 512].to(device))
    found = {name: value.item() for name, value in metrics.compute().items()}

    scores = {"auroc": roc_auc_score, "ap": average_precision_score}
    expected = {"val_weighted_log_loss": weighted_log_loss(probs, target).item()}
    for name, score in scores.items():
        for column, label in enumerate(LABELS):
            known = ~target[:, column].isnan()
            expected[f"val_{name}_{label}"] = score(target[known, column], probs[known, column].double())
        expected[f"val_{name}_mean"] = np.mean([expected[f"val_{name}_{label}"] for label in SUBTYPES])
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_label_of_one_class_is_not_available() -> None:
    probs, target = slices()
    target[:, LABELS.index("epidural")] = 0
    target[:, LABELS.index("subdural")] = 1
    target[:, LABELS.index("any")] = NAN
    metrics = build_metrics("test_")
    metrics.update(probs, target)
    found = metrics.compute()
    for name in ("auroc", "ap"):
        missing = {label for label in LABELS if found[f"test_{name}_{label}"].isnan()}
        assert missing == {"epidural", "subdural", "any"}
        rest = [found[f"test_{name}_{label}"].item() for label in SUBTYPES if label not in missing]
        assert found[f"test_{name}_mean"].item() == pytest.approx(np.mean(rest), rel=1e-6)


def test_nothing_known_is_not_available_and_a_reset_forgets() -> None:
    metrics = build_metrics("val_")
    metrics.update(*slices(100))
    metrics.reset()
    metrics.update(torch.full((4, 6), 0.5), torch.full((4, 6), NAN))
    assert all(value.isnan() for value in metrics.compute().values())


@pytest.mark.parametrize("kind", [WeightedLogLoss, MultilabelRanking])
def test_processes_are_pooled(kind: type[Metric]) -> None:
    probs, target = slices(unknown=0.3)
    whole, other = kind(), kind()
    whole.update(probs, target)
    other.update(probs[1000:], target[1000:])
    states = [torch.cat(getattr(other, name)) for name in other._defaults]

    def gather(state: torch.Tensor, group: object) -> list[torch.Tensor]:
        return [state, next(theirs for theirs in states if theirs.dtype == state.dtype)]

    here = kind(dist_sync_fn=gather, distributed_available_fn=lambda: True)
    here.update(probs[:1000], target[:1000])
    torch.testing.assert_close(here.compute(), whole.compute(), equal_nan=True)


def test_the_mean_loss_weighs_batches_by_their_slices() -> None:
    mean = MeanLoss()
    for loss, slices in ((1.0, 30), (4.0, 10)):
        mean.update(torch.tensor(loss), slices)
    assert mean.compute() == pytest.approx((30 * 1.0 + 10 * 4.0) / 40)
    mean.update(torch.tensor(torch.nan), 1)
    assert mean.compute().isnan()
