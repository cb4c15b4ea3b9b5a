"""The order of slices in an epoch, and the sampler that yields it, for one process or for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler, SequentialSampler

from ich.schema import UserError

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


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of each batch.

    Attributes:
        rank: Number of the process, from 0.
        of: Number of processes.
    """

    rank: int = 0
    of: int = 1


@dataclass(frozen=True)
class Rest:
    """What is left of an epoch that was interrupted. It counts items, so any number of processes can go on.

    Attributes:
        epoch: The epoch.
        drawn: Items of the epoch that were drawn, by all processes.
        planned: Items that it was to draw in all.
    """

    epoch: int
    drawn: int
    planned: int


class EpochSampler(DistributedSampler[Item]):
    """Draws ``(epoch, row, repeat)``. ``repeat`` counts how often the row has come before in the epoch.

    Several processes share each batch, in the order that one process would have. None of them repeats an
    item of another to fill a batch, so figures count every item once. Lightning leaves a
    ``DistributedSampler`` as it is, and would replace any other.

    Args:
        rows: The part's rows.
        order: Returns the rows in the order of an epoch. None keeps their own order.
        current_epoch: Called at the start of each pass. Returns the epoch.
        share: What this process takes.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        order: Callable[[int], NDArray[np.int64]] | None = None,
        current_epoch: Callable[[], int] = lambda: 0,
        share: Share = Share(),
    ) -> None:
        self.rows = rows
        self.order = order
        self.current_epoch = current_epoch
        self.share = share

    def __len__(self) -> int:
        bounds = cut_batches(len(self.rows), _CHUNK, self.share.of)
        return int(np.diff(bounds)[self.share.rank :: self.share.of].sum())

    def __iter__(self) -> Iterator[Item]:
        for items in self.draw_batches(_CHUNK):
            yield from items

    def cut(self, size: int, *, drop_last: bool = False, rest: Rest | None = None) -> NDArray[np.int64]:
        """Returns the bounds of the batches of a pass, as ``cut_batches`` has them.

        Args:
            size: Items of a full batch in each process.
            drop_last: Leave out the items at the end that do not fill a batch of all processes.
            rest: What is left of the epoch; None for all of it.

        Raises:
            UserError: If there are fewer items than processes.
        """
        bounds, of = cut_batches(len(self.rows), size, self.share.of, drop_last), self.share.of
        if rest is None:
            return bounds
        left = rest.planned - rest.drawn
        rounds = of * min(-(-left // (size * of)), (len(bounds) - 1) // of)
        return rest.drawn + np.arange(rounds + 1) * left // rounds

    def draw_batches(
        self, size: int, *, drop_last: bool = False, rest: Rest | None = None
    ) -> Iterator[list[Item]]:
        """Yields the batches of this process in an epoch; for arguments see ``cut``.

        Raises:
            UserError: If there are fewer items than processes.
        """
        epoch = self.current_epoch()
        rows = self.rows if self.order is None else self.order(epoch)
        repeats = _count_repeats(rows)
        bounds = self.cut(size, drop_last=drop_last, rest=rest)
        for number in range(self.share.rank, len(bounds) - 1, self.share.of):
            part = slice(bounds[number], bounds[number + 1])
            yield [
                (epoch, row, repeat)
                for row, repeat in zip(rows[part].tolist(), repeats[part].tolist(), strict=True)
            ]


def cut_batches(count: int, size: int, of: int, drop_last: bool = False) -> NDArray[np.int64]:
    """Cuts items into batches of several processes, as many for each process, and none of them empty.

    The batch number b of process r is ``bounds[b * of + r]`` to ``bounds[b * of + r + 1]``. All are full but
    the last ones, which the processes share evenly.

    Args:
        count: Number of items.
        size: Items of a full batch of one process.
        of: Number of processes.
        drop_last: Leave out the items that do not fill a batch of all processes.

    Returns:
        (batches * of + 1,) bounds.

    Raises:
        UserError: If there are fewer items than processes.
    """
    full, left = divmod(count, size * of)
    if drop_last or not left:
        return np.arange(full * of + 1) * size
    if left < of and full:  # too few to share, so the full batch before them is shared again too
        full, left = full - 1, left + size * of
    if left < of:
        raise UserError(
            f"a set has {count} slices, studies or series for {of} processes, which need one each; use fewer "
            "processes (trainer.gpus, trainer.devices, trainer.num_nodes)"
        )
    rounds = min(-(-left // (size * of)), left // of) * of
    shared = full * of * size + np.arange(1, rounds + 1) * left // rounds
    return np.concatenate([np.arange(full * of + 1) * size, shared])


def _count_repeats(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (rows,) how often each row has come before."""
    order = np.argsort(rows, kind="stable")
    _, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
    repeats = np.empty(len(rows), dtype=np.int64)
    repeats[order] = np.arange(len(rows)) - np.repeat(first, counts)
    return repeats


class FixedSampler(EpochSampler, SequentialSampler):  # type: ignore[misc]  # it hands out no row numbers
    """The same order in each epoch; with ``overfit_batches`` Lightning replaces any other sampler."""
