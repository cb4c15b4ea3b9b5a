"""Work on many files, with a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn

_THREADS = 8  # they wait for the disk or for codecs, mostly
_AHEAD = 4096  # items that are handed to them at a time
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def make_bar(columns: Iterable[ProgressColumn], shown: bool) -> Progress:
    """Makes a progress bar that disappears at the end, and appears only on a terminal."""
    shown = shown and sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


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
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with make_bar(columns, shown and len(items) > 0) as bar, ThreadPoolExecutor(_THREADS) as pool:
        task = bar.add_task(title, total=len(items))
        for start in range(0, len(items), _AHEAD):
            for result in pool.map(function, items[start : start + _AHEAD]):
                yield result
                bar.advance(task)
