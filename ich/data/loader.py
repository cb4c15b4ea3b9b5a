"""A ``DataLoader`` whose workers are threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import local
from typing import Any

import cv2
from torch.utils.data import DataLoader

from ich.data.order import Item
from ich.data.slices import SliceDataset


class SliceLoader(DataLoader[dict[str, Any]]):
    """PyTorch's ``DataLoader`` over a ``SliceDataset``, with threads instead of worker processes.

    Reading, resizing and rescaling release Python's lock, so threads run in parallel. To send a batch between
    processes would cost more than to read it. Arguments are those of ``DataLoader``. Each of ``num_workers``
    threads reads ``prefetch_factor`` batches ahead. Batches come in order.

    Args:
        dataset: The slices.
        start: Called at the start of each pass. Returns the number of batches to skip without reading them.
        **kwargs: Further arguments for ``DataLoader``.
    """

    dataset: SliceDataset

    def __init__(self, dataset: SliceDataset, *, start: Callable[[], int] = lambda: 0, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        self.start = start

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state. Lightning asks for one; the data module says where a pass stands."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing, for the same reason."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yields the batches of an epoch."""
        cv2.setNumThreads(0)  # a slice is small, so OpenCV's own threads would only slow this down
        batches = islice(self.batch_sampler, self.start(), None)  # type: ignore[arg-type]
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
