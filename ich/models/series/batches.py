"""Batches of whole series from the features of slices, and the corrected probabilities of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
        known = np.flatnonzero(np.isfinite(self.positions))
        ordered = known[np.lexsort((self.positions[known], self.series[known]))]
        starts = np.flatnonzero(np.diff(self.series[ordered], prepend=-1))
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
        rng, spec = np.random.default_rng([self._seed, self._epoch(), number]), self._spec
        start = int(rng.integers(max(len(rows) - spec.max_slices, 0) + 1))
        rows = rows[start : start + spec.max_slices]
        kept = rng.random(len(rows)) >= spec.drop_slices
        rows = rows[kept] if kept.any() else rows
        return rows[::-1] if rng.random() < spec.reverse else rows


def make_batch(
    slices: Slices, series: Sequence[Rows], target: NDArray[np.float32] | None = None
) -> SeriesBatch:
    """Makes a batch of series, each given by the rows of its slices in order.

    The target of a series is 1 if a slice has 1, else NaN if one is unknown, else 0.
    """
    shape = slices.probs.shape
    known = np.full(shape, np.nan, np.float32) if target is None else target
    steps = [np.abs(np.diff(slices.positions[rows], prepend=slices.positions[rows[:1]])) for rows in series]
    lengths = torch.tensor([len(rows) for rows in series])
    return SeriesBatch(
        features=_pad([slices.features[rows] for rows in series]),
        steps=_pad(steps),
        logits=_pad([to_logits(slices.probs[rows]) for rows in series]),
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        target=_pad([known[rows] for rows in series], np.nan),
        series_target=torch.from_numpy(np.stack([_pool(known[rows]) for rows in series])),
    )


def _pad(parts: Sequence[NDArray[np.floating]], value: float = 0.0) -> Tensor:
    tensors = [torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in parts]
    return pad_sequence(tensors, batch_first=True, padding_value=value)


def _pool(target: NDArray[np.float32]) -> NDArray[np.float32]:
    """(S, L) -> (L,)."""
    unknown = np.where(np.isnan(target).any(axis=0), np.float32(np.nan), np.float32(0))
    return np.where((target == 1).any(axis=0), np.float32(1), unknown)


def correct(net: SeriesNet, slices: Slices, batch_size: int = 16) -> NDArray[np.float32]:
    """Returns the probabilities of slices after the correction by their series.

    Args:
        net: The network, in evaluation mode, on any device.
        slices: The slices. Those of no series keep their probabilities.
        batch_size: Number of series at a time.

    Returns:
        (N, L) probabilities.
    """
    corrected = slices.probs.astype(np.float32)
    series = slices.list_series()
    for start in range(0, len(series), batch_size):
        chosen = series[start : start + batch_size]
        batch = make_batch(slices, chosen)
        given = (batch[key].to(net.blend.device) for key in ("features", "steps", "logits", "mask"))
        with torch.inference_mode():
            logits, _ = net(*given)
        for rows, found in zip(chosen, logits.sigmoid().cpu().numpy(), strict=True):
            corrected[rows] = found[: len(rows)]
    return corrected
