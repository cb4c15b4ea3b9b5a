"""``SeriesNet``: the network over the slices of a series."""

from __future__ import annotations

import math
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ich.model_files.metadata import SeriesArguments

HEADS = 4
"""Number of heads of the transformer's attention; the width is a multiple of it."""


class SeriesBatch(TypedDict):
    """Series of different lengths, padded at the end. S is the length of the longest.

    ``target`` and ``series_target`` are NaN where unknown, and for padding.
    """

    features: Tensor  # (B, S, F) float32, of the backbone
    steps: Tensor  # (B, S) float32, mm from the previous slice; 0 for the first
    logits: Tensor  # (B, S, L) float32, of the network for slices
    mask: Tensor  # (B, S) bool, False for padding
    target: Tensor  # (B, S, L) float32
    series_target: Tensor  # (B, L) float32


class SeriesNet(nn.Module):
    """Corrects the logits of slices by their series.

    A slice is described by its features, their differences to both neighbors, both distances and its logits.
    A bidirectional GRU or a transformer relates the slices of a series. An untrained network returns the
    given logits.

    Args:
        spec: Kind and size.
        features: Number of features of a slice, F.
        labels: Number of labels, L.

    Attributes:
        blend: (L,) from 0 to 1: how much of the correction each label takes.
    """

    blend: Tensor

    def __init__(self, spec: SeriesArguments, features: int, labels: int) -> None:
        super().__init__()
        self.spec = spec
        width = spec.width
        self.reduce = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width))
        self.join = nn.Sequential(nn.Linear(3 * width + 2 + labels, width), nn.GELU())
        self.relate: nn.Module
        if spec.kind == "gru":
            self.relate = nn.GRU(width, width // 2, spec.layers, batch_first=True, bidirectional=True)
        else:
            layer = nn.TransformerEncoderLayer(
                width, HEADS, 2 * width, spec.drop_rate, batch_first=True, norm_first=True
            )
            self.relate = nn.TransformerEncoder(layer, spec.layers, enable_nested_tensor=False)
        self.drop = nn.Dropout(spec.drop_rate)
        self.slice_head, self.series_head = nn.Linear(width, labels), nn.Linear(2 * width, labels)
        for head in (self.slice_head, self.series_head):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.register_buffer("blend", torch.ones(labels))

    def forward(self, features: Tensor, steps: Tensor, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Computes logits of slices and of series; arguments as in ``SeriesBatch``.

        Returns:
            (B, S, L) logits of the slices, which mean nothing for padding, and (B, L) logits of the series.
            Those of a series start as the highest of its slices.
        """
        hidden = self.drop(self._relate(self._describe(features, steps, logits, mask), steps, mask))
        slices = logits + self.blend * self.slice_head(hidden)  # (B, S, L)
        inside = mask[..., None]
        mean = (hidden * inside).sum(dim=1) / inside.sum(dim=1)  # (B, W)
        highest = hidden.masked_fill(~inside, -math.inf).amax(dim=1)
        series = slices.masked_fill(~inside, -math.inf).amax(dim=1)
        return slices, series + self.series_head(torch.cat([mean, highest], dim=1))

    def _describe(self, features: Tensor, steps: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
        """Returns (B, S, W); the ends of a series have differences and distances of 0."""
        found = self.reduce(features)  # (B, S, W)
        both = (mask[:, 1:] & mask[:, :-1])[..., None]
        difference = (found[:, 1:] - found[:, :-1]) * both  # (B, S - 1, W)
        distance = (torch.log1p(steps[:, 1:])[..., None]) * both
        below = [F.pad(each, (0, 0, 1, 0)) for each in (difference, distance)]
        above = [F.pad(each, (0, 0, 0, 1)) for each in (difference, distance)]
        described: Tensor = self.join(torch.cat([found, *below, *above, logits], dim=2))
        return described

    def _relate(self, described: Tensor, steps: Tensor, mask: Tensor) -> Tensor:
        if self.spec.kind == "gru":
            lengths = mask.sum(dim=1).cpu()
            packed = pack_padded_sequence(described, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(self.relate(packed)[0], batch_first=True, total_length=mask.shape[1])[
                0
            ]
        places = described + _encode(steps.cumsum(dim=1), self.spec.width)
        related: Tensor = self.relate(places, src_key_padding_mask=~mask)
        return related


def _encode(position: Tensor, width: int) -> Tensor:
    """(B, S) mm -> (B, S, W) sines and cosines; Vaswani et al., Attention Is All You Need, 2017."""
    waves = torch.logspace(1, 3, width // 2, device=position.device)  # from 10 mm to beyond a head's length
    angles = 2 * math.pi * position[..., None] / waves
    return torch.cat([angles.sin(), angles.cos()], dim=2)
