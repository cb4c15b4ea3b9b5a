"""From logits of slices to logits of their study, for training on labels of studies.

A model file holds none of this. The loss on the study's logit reaches the slices that made it, and so teaches
the logits of slices, from which prediction pools its own result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ich.schema import UserError

STUDY_POOLS = ("top_k", "attention")
"""Ways to make a study's logit, for ``build_study_pool``."""


class TopK(nn.Module):
    """The mean of the highest logits of a study's slices, label by label.

    One slice alone, ``top=1``, is the maximum of classical multiple-instance learning. Several share the
    gradient, as a hemorrhage usually extends over several slices. Campanella et al., Nature Medicine
    2019;25:1301, train on the highest instances in this way.

    Args:
        top: Number of slices; a study with fewer takes all of them.
    """

    def __init__(self, top: int) -> None:
        super().__init__()
        self.top = top

    def forward(self, logits: Tensor, features: Tensor, study: Tensor) -> Tensor:
        """Pools (N, L) logits of slices to (K, L); ``study`` (N,) holds 0 to K - 1."""
        highest = [part.topk(min(self.top, len(part)), dim=0).values for (part,) in _split(study, logits)]
        return torch.stack([each.mean(dim=0) for each in highest])


class GatedAttention(nn.Module):
    """The mean of the logits of a study's slices, with weights from their features, for each label its own.

    Gated attention: Ilse et al., Attention-based deep multiple instance learning, ICML 2018, equation 9. It
    weighs logits, not features, so that each slice adds its own part: Javed et al., Additive MIL, NeurIPS
    2022. For a linear head both are the same.

    Args:
        features: Number of features F of a slice.
        labels: Number of labels L.
        width: Number of hidden units.
    """

    def __init__(self, features: int, labels: int, width: int = 128) -> None:
        super().__init__()
        self.signal, self.gate = nn.Linear(features, width), nn.Linear(features, width)
        self.score = nn.Linear(width, labels)

    def forward(self, logits: Tensor, features: Tensor, study: Tensor) -> Tensor:
        """Pools (N, L) logits of slices with (N, F) features to (K, L); ``study`` (N,) holds 0 to K - 1."""
        scores = self.score(self.signal(features).tanh() * self.gate(features).sigmoid())  # (N, L)
        each = _split(study, logits, scores)
        return torch.stack([(part * score.softmax(dim=0)).sum(dim=0) for part, score in each])


def build_study_pool(name: str, *, top: int, features: int, labels: int) -> nn.Module:
    """Builds what pools logits of slices to those of studies.

    Args:
        name: One of ``STUDY_POOLS``.
        top: Number of slices for ``top_k``.
        features: Number of features of a slice.
        labels: Number of labels.

    Raises:
        UserError: If there is no such way, or ``top`` is below 1.
    """
    if name not in STUDY_POOLS:
        raise UserError(f"model.study_pool={name}: expected one of {', '.join(STUDY_POOLS)}")
    if top < 1:
        raise UserError(f"model.study_top={top}: expected 1 or more")
    return TopK(top) if name == "top_k" else GatedAttention(features, labels)


def _split(study: Tensor, *values: Tensor) -> list[tuple[Tensor, ...]]:
    """Splits (N, L) values of slices by study."""
    return [tuple(value[study == number] for value in values) for number in range(int(study.max()) + 1)]
