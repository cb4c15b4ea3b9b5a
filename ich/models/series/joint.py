"""The network over series as a part of the training of its backbone, on batches of series."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ich.models.series.batches import pad_series
from ich.models.series.network import SeriesNet
from ich.schema import Batch


class Related(NamedTuple):
    """Logits of a batch of series after a network over series.

    Attributes:
        slices: (N, L) corrected logits of the slices, in the order of the batch.
        series: (K, L) logits of the series.
        target: (K, L) targets of the series, NaN where unknown.
    """

    slices: Tensor
    series: Tensor
    target: Tensor


def relate(net: SeriesNet, features: Tensor, logits: Tensor, batch: Batch) -> Related:
    """Runs a network over the series of a batch, with gradients to the features and logits of its slices.

    Args:
        net: The network.
        features: (N, F), of the backbone.
        logits: (N, L), of the network for slices.
        batch: Tells ``series`` and ``position`` of the slices, which are in order within a series.
    """
    order = batch["series"].argsort(stable=True)
    lengths: list[int] = batch["series"].bincount().tolist()
    # The network is small, so mixed precision would gain nothing here, and prediction does without it.
    with torch.autocast(features.device.type, enabled=False):
        found, before, positions, target = (
            each[order].to(net.blend.dtype) for each in (features, logits, batch["position"], batch["target"])
        )
        padded = pad_series(found, before, positions, target, lengths)
        slices, series = net(padded["features"], padded["steps"], padded["logits"], padded["mask"])
    return Related(slices[padded["mask"]][order.argsort()], series, padded["series_target"])
