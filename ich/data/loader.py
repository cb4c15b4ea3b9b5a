"""A ``DataLoader`` whose workers are threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ich.data.order import EpochSampler, Item, Rest
from ich.data.slices import SliceDataset

MOST_WORKERS = 8
"""Threads that read, at most, by default; there is one per core."""


class SliceLoader(DataLoader[dict[str, Any]]):
    """PyTorch's ``DataLoader`` over a ``SliceDataset``, with threads instead of worker processes.

    Reading, resizing and rescaling release Python's lock, so threads run in parallel. To send a batch between
    processes would cost more than to read it. Arguments are those of ``DataLoader``. Each of ``num_workers``
    threads reads ``prefetch_factor`` batches ahead. Batches come in order.

    Args:
        dataset: The slices.
        find_rest: Called at the start of each pass. Returns what is left of the epoch; None for all of it.
        **kwargs: Further arguments for ``DataLoader``.
    """

    dataset: SliceDataset
    sampler: EpochSampler

    def __init__(
        self, dataset: SliceDataset, *, find_rest: Callable[[], Rest | None] = lambda: None, **kwargs: Any
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.find_rest = find_rest

    def __len__(self) -> int:
        if isinstance(self.sampler, EpochSampler):
            return self.count_batches()
        return super().__len__()

    def cut(self, rest: Rest | None = None) -> NDArray[np.int64]:
        """Returns the bounds of the batches of a pass, as ``EpochSampler.cut`` does."""
        return self.sampler.cut(self.batch_size or 1, drop_last=self.drop_last, rest=rest)

    def count_batches(self, rest: Rest | None = None) -> int:
        """Counts the batches of this process in a pass."""
        return (len(self.cut(rest)) - 1) // self.sampler.share.of

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state. Lightning asks for one; the data module says where a pass stands."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing, for the same reason."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yields the batches of an epoch."""
        cv2.setNumThreads(0)  # a slice is small, so OpenCV's own threads would only slow this down
        batches = self._draw_batches()
        if self.num_workers == 0:
            yield from map(self.dataset.__getitems__, batches)
            return
        ahead: deque[Future[dict[str, Any]]] = deque()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="slices")
        own = local()

        def read(items: list[Item]) -> dict[str, Any]:
            if not hasattr(own, "dataset"):
                own.dataset = self.dataset.for_thread()
            batch: dict[str, Any] = own.dataset.__getitems__(items)
            return batch

        try:
            for items in batches:
                ahead.append(pool.submit(read, items))
                if len(ahead) > self.num_workers * (self.prefetch_factor or 1):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _draw_batches(self) -> Iterable[list[Item]]:
        """Draws the items of the batches; Lightning's prediction notes them, by a sampler of its own."""
        if not isinstance(self.sampler, EpochSampler):
            return self.batch_sampler
        return self.sampler.draw_batches(
            self.batch_size or 1, drop_last=self.drop_last, rest=self.find_rest()
        )
