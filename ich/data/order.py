"""The order of slices in an epoch, and the sampler that yields it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler, SequentialSampler

Item = tuple[int, int, int]
"""Epoch, row, and how often the row has already appeared in the epoch."""

_CHUNK = 4096  # rows that are Python objects at a time


def draw_order(
    rows: NDArray[np.int64], seed: int, epoch: int, weights: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Draws the order of an epoch. It depends only on the seed, the epoch, the rows and their weights.

    Args:
        rows: The part's rows.
        seed: The run's random seed.
        epoch: Counted from 0.
        weights: One weight per row. With weights, rows are drawn with replacement, in proportion to them.

    Returns:
        The rows in their order, as many as were given.
    """
    rng = np.random.default_rng([seed, epoch])
    if weights is None:
        return rng.permutation(rows)
    return rng.choice(rows, size=len(rows), p=weights / weights.sum())


def balance_weights(target: NDArray[np.float32]) -> NDArray[np.float64]:
    """Computes sampling weights that favor rare labels.

    The weight of a label is one over the square root of its count. A slice has the weight of its rarest
    positive label. Negative slices are weighted by their own count in the same way.

    Args:
        target: (N, L), NaN where unknown.

    Returns:
        (N,) weights.
    """
    positive = target == 1  # (N, L)
    by_label = 1 / np.sqrt(np.maximum(positive.sum(axis=0), 1))  # (L,)
    negatives = max(1, int((~positive.any(axis=1)).sum()))
    weights: NDArray[np.float64] = np.where(positive, by_label, 0).max(axis=1)
    np.maximum(weights, 1 / np.sqrt(negatives), out=weights)
    return weights


def measure_draws(
    target: NDArray[np.float32], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measures what sampling does to the prevalences.

    The shift is the logarithm of the mean weight of a label's positives over that of its negatives. So much
    higher are the log odds of the label among the draws. A model that is trained on its logits plus the shift
    therefore has logits for the natural prevalences. This is exact for one label. With several it is close
    but not exact, because the weight of a slice also depends on its other labels.
    Sources: King and Zeng, Logistic regression in rare events data, Political Analysis 2001;9:137, for the
    shift; Menon et al., Long-tail learning via logit adjustment, ICLR 2021 (arXiv:2007.07314), for training
    with it.

    Args:
        target: (N, L), NaN where unknown.
        weights: (N,) sampling weights.

    Returns:
        (L,) prevalences among the draws, NaN where no target is known; and (L,) shifts, 0 where a label has
        no positives or no negatives.
    """
    counts, sums = (
        np.stack([((target == value) * each[:, None]).sum(axis=0) for value in (0, 1)])
        for each in (np.ones_like(weights), weights)
    )  # each (2, L), of negatives and positives
    with np.errstate(divide="ignore", invalid="ignore"):
        prevalences = sums[1] / sums.sum(axis=0)
        means = sums / counts
        shift = np.log(means[1] / means[0])
    return prevalences.astype(np.float32), np.nan_to_num(shift).astype(np.float32)


class EpochSampler(Sampler[Item]):
    """Yields ``(epoch, row, repeat)``. ``repeat`` counts how often the row has come before in the epoch.

    Args:
        rows: The part's rows.
        order: Returns the rows in the order of an epoch. None keeps their own order.
        current_epoch: Called at the start of each pass. Returns the epoch.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        order: Callable[[int], NDArray[np.int64]] | None = None,
        current_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.rows = rows
        self.order = order
        self.current_epoch = current_epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Item]:
        epoch = self.current_epoch()
        rows = self.rows if self.order is None else self.order(epoch)
        repeats = _count_repeats(rows)
        for start in range(0, len(rows), _CHUNK):  # an object for each of 750,000 rows would be 50 MB
            part = slice(start, start + _CHUNK)
            for row, repeat in zip(rows[part].tolist(), repeats[part].tolist(), strict=True):
                yield epoch, row, repeat


def _count_repeats(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (rows,) how often each row has come before."""
    order = np.argsort(rows, kind="stable")
    _, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
    repeats = np.empty(len(rows), dtype=np.int64)
    repeats[order] = np.arange(len(rows)) - np.repeat(first, counts)
    return repeats


class FixedSampler(EpochSampler, SequentialSampler):  # type: ignore[misc]  # it hands out no row numbers
    """The same order in each epoch; with ``overfit_batches`` Lightning replaces any other sampler."""
