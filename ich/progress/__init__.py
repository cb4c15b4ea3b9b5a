"""Work on many files, with a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

_THREADS = 8  # which mostly wait for the disk or for codecs
_AHEAD = 4096  # items that threads get at a time
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def make_bar(columns: Iterable[ProgressColumn], shown: bool) -> Progress:
    """Makes a progress bar that disappears at the end, and appears only on a terminal."""
    shown = shown and sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


def track(items: Iterable[_Item], title: str, total: int | None, shown: bool) -> Iterator[_Item]:
    """Yields items, with a progress bar.

    Args:
        items: The items.
        title: Title of the progress bar.
        total: Their number; None if it is not known.
        shown: Whether to show the bar on a terminal.
    """
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with make_bar(columns, shown and total != 0) as bar:
        yield from bar.track(items, total=total, description=title)


@contextmanager
def waiting(title: str, shown: bool = True) -> Iterator[None]:
    """Shows a bar that moves and a clock, during work whose parts cannot be counted.

    Args:
        title: Title of the progress bar.
        shown: Whether to show the bar on a terminal.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with make_bar(columns, shown) as bar:
        bar.add_task(title, total=None)
        yield


def map_in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], title: str, shown: bool
) -> Iterator[_Result]:
    """Applies a function to each item in threads, and yields the results in order.

    Args:
        function: Function to call in threads; should mostly wait.
        items: Paths, for example.
        title: Title of the progress bar.
        shown: Whether to show the bar on a terminal.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = (items[start : start + _AHEAD] for start in range(0, len(items), _AHEAD))
        results = chain.from_iterable(pool.map(function, part) for part in parts)
        yield from track(results, title, len(items), shown)
