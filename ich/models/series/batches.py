"""Batches of whole series from the features of slices, and what a network over series makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ich.calibration import to_logits
from ich.models.series.network import SeriesBatch, SeriesNet
from ich.models.series.training import SeriesSpec

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Slices:
    """What a network for slices found, a row each, in any order.

    Attributes:
        features: (N, F) features of the backbone.
        probs: (N, L) probabilities.
        positions: (N,) along the slice normal, mm. A slice with NaN is in no series.
        series: (N,) the number of each slice's series.
    """

    features: NDArray[np.float32]
    probs: NDArray[np.float32]
    positions: NDArray[np.float64]
    series: NDArray[np.int64]

    def list_series(self) -> list[Rows]:
        """Lists the rows of each series, in order of position."""
        return list_series(self.positions, self.series)


def list_series(positions: NDArray[np.float64], series: NDArray[np.int64]) -> list[Rows]:
    """Lists the rows of each series, in order of position; arguments as in ``Slices``."""
    known = np.flatnonzero(np.isfinite(positions))
    ordered = known[np.lexsort((positions[known], series[known]))]
    starts = np.flatnonzero(np.diff(series[ordered], prepend=-1))
    return np.split(ordered, starts[1:]) if len(ordered) else []


class SeriesBatches:
    """Batches of series: in order, or for training in a new order in each epoch, and augmented.

    What an epoch draws depends only on the seed, the epoch and the series.

    Args:
        slices: The slices.
        target: (N, L) 0 or 1; NaN where unknown.
        spec: Size of a batch and augmentation.
        seed: Random seed; None neither shuffles nor augments.
        epoch: Returns the epoch.
    """

    def __init__(
        self,
        slices: Slices,
        target: NDArray[np.float32],
        spec: SeriesSpec,
        seed: int | None = None,
        epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self._slices = slices
        self._target = target
        self._spec = spec
        self._seed = seed
        self._epoch = epoch
        self._series = slices.list_series()

    def __len__(self) -> int:
        return -(-len(self._series) // self._spec.batch_size)

    def __iter__(self) -> Iterator[SeriesBatch]:
        numbers = np.arange(len(self._series))
        if self._seed is not None:
            numbers = np.random.default_rng([self._seed, self._epoch()]).permutation(numbers)
        for start in range(0, len(numbers), self._spec.batch_size):
            chosen = numbers[start : start + self._spec.batch_size]
            yield make_batch(self._slices, [self._draw(int(number)) for number in chosen], self._target)

    def _draw(self, number: int) -> Rows:
        rows = self._series[number]
        if self._seed is None:
            return rows
        return self._spec.draw.take(rows, np.random.default_rng([self._seed, self._epoch(), number]))


def make_batch(
    slices: Slices, series: Sequence[Rows], target: NDArray[np.float32] | None = None
) -> SeriesBatch:
    """Makes a batch of series, each given by the rows of its slices in order."""
    rows = np.concatenate(series)
    known = np.full(slices.probs.shape, np.nan, np.float32) if target is None else target
    found = (slices.features, to_logits(slices.probs), slices.positions, known)
    features, logits, positions, targets = (torch.from_numpy(each[rows]) for each in found)
    return pad_series(features, logits.float(), positions, targets, [len(each) for each in series])


def pad_series(
    features: Tensor, logits: Tensor, positions: Tensor, target: Tensor, lengths: Sequence[int]
) -> SeriesBatch:
    """Makes a batch of series from what is known of their slices: all of one series, in order, then the next.

    The target of a series is 1 if a slice has 1, else NaN if one is unknown, else 0.

    Args:
        features: (N, F), of the backbone.
        logits: (N, L), of the network for slices.
        positions: (N,) along the slice normal, mm.
        target: (N, L) 0 or 1; NaN where unknown.
        lengths: Number of slices of each series.
    """
    sizes = list(lengths)
    of_features, of_logits, of_positions, of_target = (
        list(torch.split(each, sizes)) for each in (features, logits, positions, target)
    )
    steps = [F.pad(each.diff().abs().to(features), (1, 0)) for each in of_positions]
    places = torch.arange(max(sizes), device=features.device)
    return SeriesBatch(
        features=pad_sequence(of_features, batch_first=True),
        steps=pad_sequence(steps, batch_first=True),
        logits=pad_sequence(of_logits, batch_first=True),
        mask=places < torch.tensor(sizes, device=features.device)[:, None],
        target=pad_sequence(of_target, batch_first=True, padding_value=torch.nan),
        series_target=torch.stack([_pool(each) for each in of_target]),
    )


def _pool(target: Tensor) -> Tensor:
    """(S, L) -> (L,)."""
    unknown = torch.where(target.isnan().any(dim=0), torch.nan, 0.0).to(target)
    return torch.where((target == 1).any(dim=0), 1.0, unknown)


class Corrected(NamedTuple):
    """What a network over series makes of slices.

    Attributes:
        probs: (N, L) float32 probabilities of the slices.
        series: (K, L) float32 probabilities of the series, in the order of ``Slices.list_series``.
    """

    probs: NDArray[np.float32]
    series: NDArray[np.float32]


def correct(net: SeriesNet, slices: Slices, batch_size: int = 16) -> Corrected:
    """Corrects the probabilities of slices by their series, and computes those of the series.

    Args:
        net: The network, in evaluation mode, on any device.
        slices: The slices. Those of no series keep their probabilities.
        batch_size: Number of series at a time.
    """
    corrected = slices.probs.astype(np.float32)
    series = slices.list_series()
    of_series = np.empty((len(series), corrected.shape[1]), np.float32)
    for start in range(0, len(series), batch_size):
        chosen = series[start : start + batch_size]
        batch = make_batch(slices, chosen)
        given = (batch[key].to(net.blend.device) for key in ("features", "steps", "logits", "mask"))
        with torch.inference_mode():
            logits, found = net(*given)
        of_series[start : start + len(chosen)] = found.sigmoid().cpu().numpy()
        for rows, each in zip(chosen, logits.sigmoid().cpu().numpy(), strict=True):
            corrected[rows] = each[: len(rows)]
    return Corrected(corrected, of_series)
