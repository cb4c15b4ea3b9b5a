"""Losses on logits: the metric itself, focal loss, and the cross-entropy of an old network.

Targets are 0 or 1, between them where they were mixed or smoothed, and NaN where unknown. An unknown target
has no effect on training: it adds nothing to the loss or to its divisor. All losses are computed in float32,
for logits of any type.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ich.schema import LABEL_WEIGHTS, UserError
from ich.schema.labels import MIN_PREVALENCE

__all__ = ["FocalLoss", "SoftmaxCrossEntropy", "WeightedBCE"]


class WeightedBCE(nn.Module):
    """Weighted multi-label log loss: the RSNA 2019 metric itself, on logits.

    The sum of weight times binary cross-entropy over the known entries, divided by the sum of their weights.
    If all are known, this is the sum over labels averaged over slices. Zero without a known entry.

    Args:
        label_weights: One weight per label.
    """

    label_weights: Tensor

    def __init__(self, label_weights: Sequence[float] = LABEL_WEIGHTS) -> None:
        super().__init__()
        self.register_buffer("label_weights", torch.tensor(label_weights).float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, of (N, L) logits and (N, L) targets."""
        known, target = _split_known(target)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")  # (N, L)
        return _average(loss, known * _match_weights(self.label_weights, logits.shape[1]))


class FocalLoss(nn.Module):
    """Focal loss: cross-entropy with less weight where the model is already right.

    ``alpha_t * (1 - p_t) ** gamma * -log(p_t)``, averaged over known entries as in ``WeightedBCE``.
    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5. A target between 0
    and 1 has the mean of both losses, weighted by it. It ranks as well as the log loss, but its
    probabilities are not calibrated.

    Args:
        gamma: How strongly the weight of easy entries is reduced; 0 is ``WeightedBCE``.
        alpha: Weight of a positive; a negative has ``1 - alpha``. None gives both the weight 1.
        label_weights: One weight per label.
    """

    label_weights: Tensor

    def __init__(
        self, gamma: float = 2.0, alpha: float | None = None, label_weights: Sequence[float] = LABEL_WEIGHTS
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.register_buffer("label_weights", torch.tensor(label_weights).float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, of (N, L) logits and (N, L) targets."""
        known, target = _split_known(target)
        logits = logits.float()
        positive, negative = self._lose(logits), self._lose(-logits)  # each (N, L)
        if self.alpha is not None:
            positive, negative = self.alpha * positive, (1 - self.alpha) * negative
        loss = target * positive + (1 - target) * negative
        return _average(loss, known * _match_weights(self.label_weights, logits.shape[1]))

    def _lose(self, logits: Tensor) -> Tensor:
        """Returns the loss of entries where ``p_t = sigmoid(logits)``."""
        # 1 - p_t by way of its logarithm: the power's own gradient at 0 is infinite for gamma < 1.
        return -F.logsigmoid(logits) * torch.exp(self.gamma * F.logsigmoid(-logits))


class SoftmaxCrossEntropy(nn.Module):
    """Keras's ``categorical_crossentropy`` over a softmax, with targets of several ones.

    ``-sum(target * log(softmax(logits)))`` averaged over slices, probabilities clipped to [1e-7, 1 - 1e-7] as
    Keras does. Use it only to reproduce a network that was trained with it. The softmax makes labels compete
    although they occur together, and a slice without hemorrhage does not train at all.
    """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the loss, a scalar, of (N, L) logits and (N, L) targets.

        Slices without a known target do not count.
        """
        known, target = _split_known(target)
        probs = logits.float().softmax(dim=1).clamp(1e-7, 1 - 1e-7)  # (N, L)
        loss = -(target * probs.log()).sum(dim=1)  # (N,), an unknown target stands as 0
        return _average(loss, known.any(dim=1).float())


def prevalence_logits(prevalences: Sequence[float] | Tensor) -> Tensor:
    """Turns prevalences into the logits that predict them: the initial bias of a head.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 3.3.

    Args:
        prevalences: The share of positives among the known targets of each label, NaN if none is known.

    Returns:
        float32 of the same length. Prevalences are clipped to [1e-4, 1 - 1e-4], so that a label without
        positives can still learn; NaN gives 0, which is a probability of one half.
    """
    prevalences = torch.as_tensor(prevalences, dtype=torch.float64)
    return prevalences.clamp(MIN_PREVALENCE, 1 - MIN_PREVALENCE).logit().nan_to_num(0.0).float()


def _match_weights(label_weights: Tensor, labels: int) -> Tensor:
    """Returns the weights of a loss.

    Raises:
        UserError: If their number is not that of the labels.
    """
    if len(label_weights) != labels:
        raise UserError(
            f"loss.label_weights has {len(label_weights)} weights for {labels} labels: give one for each"
        )
    return label_weights


def _split_known(target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns where targets are known, and the float32 targets with 0 in the other places."""
    unknown = target.isnan()
    return ~unknown, target.float().masked_fill(unknown, 0.0)


def _average(loss: Tensor, weights: Tensor) -> Tensor:
    # The loss of an unknown entry is finite, so a weight of 0 removes it and its gradient; the bound
    # turns 0 / 0 into 0.
    return (loss * weights).sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
