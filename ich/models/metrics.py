"""Metrics on probabilities: the RSNA 2019 weighted log loss, and ranking for each label.

Targets are 0 or 1, NaN where unknown; unknown entries do not count. A metric that cannot be computed, such as
the AUROC of a label without positives, is NaN: not available.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from ich.schema import LABEL_WEIGHTS, LABELS, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet

__all__ = ["MeanLoss", "WeightedLogLoss", "build_metrics", "weighted_log_loss"]


def weighted_log_loss(
    probs: Tensor, target: Tensor, label_weights: Sequence[float] = LABEL_WEIGHTS, eps: float = 1e-15
) -> Tensor:
    """Computes the RSNA 2019 weighted multi-label log loss.

    The sum of weight times binary cross-entropy over the known entries, divided by the sum of their weights.
    If all are known, this is the sum over labels, averaged over slices.

    Source: https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection/overview/evaluation

    Args:
        probs: (N, L) probabilities.
        target: (N, L) 0 or 1, NaN where unknown.
        label_weights: One weight per label.
        eps: Probabilities are clipped to [eps, 1 - eps].

    Returns:
        A scalar, float64 (float32 on devices without it); NaN if no target is known.

    Raises:
        UserError: If the number of labels and of weights differ.
    """
    loss, weight = _sum_log_loss(probs, target, torch.tensor(label_weights), eps)
    return loss / weight


class WeightedLogLoss(Metric):
    """``weighted_log_loss`` over all batches and processes.

    Args:
        label_weights: One weight per label.
        eps: Probabilities are clipped to [eps, 1 - eps].
        **kwargs: Further arguments for ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    sums: list[Tensor]

    def __init__(
        self, label_weights: Sequence[float] = LABEL_WEIGHTS, eps: float = 1e-15, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.label_weights = torch.tensor(label_weights)
        self.eps = eps
        # A row a batch: one running sum would need float64, which Apple's GPUs lack.
        self.add_state("sums", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Adds a batch: (N, L) probabilities, (N, L) targets."""
        sums = _sum_log_loss(probs, target, self.label_weights, self.eps)
        self.sums.append(torch.stack(sums).float().unsqueeze(0))  # (1, 2)

    def compute(self) -> Tensor:
        """Returns the loss, float32; NaN without a known target."""
        if not len(self.sums):
            return torch.tensor(float("nan"), device=self.device)
        sums: Tensor = dim_zero_cat(self.sums).cpu().double().sum(dim=0)  # (2,)
        return (sums[0] / sums[1]).float().to(self.device)


class MultilabelRanking(Metric):
    """Exact AUROC and average precision of each label over all batches and processes.

    Keeps every probability (4 bytes) and target (1 byte) until ``reset``.

    Args:
        labels: The labels of the columns.
        **kwargs: Further arguments for ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    probs: list[Tensor]
    target: list[Tensor]

    def __init__(self, labels: LabelSet = RSNA_LABELS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels = labels
        self.add_state("probs", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Adds a batch: (N, L) probabilities, (N, L) targets."""
        self.probs.append(probs.detach().float())
        self.target.append(target.nan_to_num(nan=-1.0).to(torch.int8))  # -1 is unknown

    def compute(self) -> dict[str, Tensor]:
        """Returns ``auroc_<label>`` and ``ap_<label>``, and the means of those available.

        They are available if both classes occur among the known targets of a label, and else NaN. The means
        over ``LabelSet.averaged`` are ``auroc_mean`` and ``ap_mean``.
        """
        nan = torch.tensor(float("nan"))
        found = {f"{name}_{label}": nan for name in ("auroc", "ap") for label in self.labels.names}
        if len(self.probs):
            # On the CPU, where sums of float64 exist on every machine and cumulative ones are deterministic.
            probs = dim_zero_cat(self.probs).cpu().double()  # (N, L)
            target = dim_zero_cat(self.target).cpu()  # (N, L)
            for column, label in enumerate(self.labels.names):
                known = target[:, column] >= 0
                p, t = probs[known, column], target[known, column].long()
                if 0 < t.sum() < len(t):
                    found[f"auroc_{label}"] = binary_auroc(p, t, validate_args=False)
                    found[f"ap_{label}"] = binary_average_precision(p, t, validate_args=False)
        for name in ("auroc", "ap"):
            values = torch.stack([found[f"{name}_{label}"].float() for label in self.labels.averaged])
            found[f"{name}_mean"] = values.nanmean()
        return {key: value.float().to(self.device) for key, value in found.items()}


class MeanLoss(Metric):
    """Mean of the losses of batches, each weighted by its number of slices, over all processes.

    A loss that is not a number makes the mean so. torchmetrics 1.9 forgets the weights if it is not to look
    for such losses. Lightning 2.6 rounds the number of slices that a process has on average.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", default=torch.zeros(()), dist_reduce_fx="sum")

    def update(self, loss: Tensor, slices: int) -> None:
        """Adds a batch: its mean loss, and its number of slices."""
        self.total += loss.detach() * slices
        self.weight += slices

    def compute(self) -> Tensor:
        """Returns the mean, float32; NaN without a batch."""
        return self.total / self.weight


def build_metrics(prefix: str, labels: LabelSet = RSNA_LABELS) -> MetricCollection:
    """Builds the metrics of one set of the data.

    ``compute`` gives ``<prefix>weighted_log_loss``, and for each label and ``mean`` ``<prefix>auroc_<label>``
    and ``<prefix>ap_<label>``. Log what ``compute`` returns: Lightning cannot log the collection itself, as
    one of its metrics has many values.

    Args:
        prefix: Prefix of the names, such as ``"val_"``.
        labels: Labels that the model predicts.
    """
    metrics: dict[str, Metric | MetricCollection] = {
        "weighted_log_loss": WeightedLogLoss(labels.weights),
        "ranking": MultilabelRanking(labels),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)


def _sum_log_loss(probs: Tensor, target: Tensor, label_weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the weighted sum of cross-entropies over known entries, and the sum of their weights."""
    if probs.shape[1] != len(label_weights):
        raise UserError(
            f"{len(label_weights)} label_weights for {probs.shape[1]} labels: the metric of the RSNA 2019 "
            f"challenge needs its six ({', '.join(LABELS)}); give other labels a weight each"
        )
    # Apple's GPUs have no float64. Clipping p and 1 - p apart keeps eps where 1 - eps rounds to 1.
    exact = torch.float32 if probs.device.type == "mps" else torch.float64
    probs, known = probs.detach().to(exact), ~target.isnan()
    truth = target.to(exact).masked_fill(~known, 0.0)
    loss = -truth * probs.clamp(min=eps).log() - (1 - truth) * (1 - probs).clamp(min=eps).log()  # (N, L)
    weights = known * label_weights.to(probs.device, exact)
    return (loss * weights).sum(), weights.sum()
