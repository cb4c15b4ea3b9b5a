"""Side-by-side timing, with tables and a JSON file of the results.

The speed of a machine drifts: other programs come and go, and clocks rise and fall. Variants therefore take
turns within one process, in another order each round, on the same slices. Their ratio within a round is
compared. The median of the rounds is printed, with their 10th and 90th percentile.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

PACKAGES = (
    *("torch", "numpy", "pandas", "pydicom", "opencv-python-headless", "albumentations"),
    *("monai", "dicomsdl", "timm", "pytorch-lightning"),
)
CONSOLE = Console() if sys.stdout.isatty() else Console(width=110)  # a file takes whole lines

CONF = Path(__file__).parent.parent / "conf"

Rows = NDArray[np.int64]
Variant = Callable[[Rows], float]
"""Does its work on some rows and returns the seconds that one of them took."""

Times = dict[str, NDArray[np.float64] | None]
"""Seconds an item in each round, by the variant's name; None where its package is not installed."""


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th

    def show(self, digits: int) -> str:
        """The three numbers as text."""
        median, low, high = (f"{value:,.{digits}f}" for value in self)
        return median if low == high else f"{median} ({low} to {high})"


class Figure(NamedTuple):
    """What is measured against what was to be reached.

    Attributes:
        name: What it says.
        bound: What is to be reached.
        values: One a round; None where it could not be measured.
        at_least: Whether more is better.
        unit: Printed after the number.
    """

    name: str
    bound: float
    values: NDArray[np.float64] | None
    at_least: bool = True
    unit: str = "x"

    @property
    def is_reached(self) -> bool | None:
        """None where it could not be measured."""
        if self.values is None:
            return None
        median = spread(self.values).median
        return median >= self.bound if self.at_least else median <= self.bound


def read_augment(name: str = "default") -> dict[str, float]:
    """What ``augment=NAME`` sets."""
    settings: dict[str, Any] = yaml.safe_load((CONF / "augment" / f"{name}.yaml").read_text())
    return {key: value for key, value in settings.items() if key != "defaults"}


def spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = np.percentile(values, [10, 50, 90])
    return Spread(float(median), float(low), float(high))


def each(work: Callable[[int], object]) -> Variant:
    """A variant of what is done row by row."""

    def run(rows: Rows) -> float:
        numbers = rows.tolist()
        start = time.perf_counter()
        for row in numbers:
            work(row)
        return (time.perf_counter() - start) / len(numbers)

    return run


def together(work: Callable[[Rows], object]) -> Variant:
    """A variant of what is done to all rows at once."""

    def run(rows: Rows) -> float:
        start = time.perf_counter()
        work(rows)
        return (time.perf_counter() - start) / len(rows)

    return run


def interleave(
    variants: Mapping[str, Variant | None], count: int, *, batch: int, rounds: int, seed: int = 0
) -> Times:
    """Times variants in turn.

    Args:
        variants: By name; None for one whose package is not installed.
        count: Rows that there are.
        batch: Rows of a round, drawn again for each and the same for every variant.
        rounds: Rounds that count. One more comes first, in which caches fill and modules are imported.
        seed: Of the rows and the order.
    """
    rng = np.random.default_rng(seed)
    present = {name: variant for name, variant in variants.items() if variant is not None}
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for _ in range(rounds + 1):
        rows = rng.choice(count, size=batch, replace=batch > count)
        for name in rng.permutation(list(present)):
            seconds[name].append(present[name](rows))
    return {name: np.array(seconds[name][1:]) if name in present else None for name in variants}


def ratio(times: Times, slow: str, fast: str) -> NDArray[np.float64] | None:
    """How many times as long the first takes as the second, by round."""
    over, under = times[slow], times[fast]
    return None if over is None or under is None else over / under


def print_times(title: str, times: Times, own: str) -> None:
    """Prints one row per variant: time of an item, items per second, and the ratio to this library."""
    table = Table(title=title, title_justify="left", caption=f"ratio: to {own}", caption_justify="left")
    table.add_column("variant")
    for heading in ("µs each (10 % to 90 %)", "a second", "ratio (10 % to 90 %)"):
        table.add_column(heading, justify="right")
    for name, seconds in times.items():
        ratios = ratio(times, name, own)
        if seconds is None or ratios is None:
            table.add_row(name, "not installed", "", "")
            continue
        micros = spread(seconds * 1e6)
        table.add_row(name, micros.show(0), f"{1e6 / micros.median:,.0f}", spread(ratios).show(2))
    CONSOLE.print(table)


def print_figures(figures: Sequence[Figure]) -> None:
    """Prints one row per figure: target, measured value, ok or short."""
    table = Table(title="Figures", title_justify="left")
    table.add_column("figure")
    for heading in ("to reach", "measured (10 % to 90 %)"):
        table.add_column(heading, justify="right")
    table.add_column("")
    verdicts = {True: "ok", False: "[bold]short[/bold]", None: ""}
    for figure in figures:
        bound = f"{'at least' if figure.at_least else 'at most'} {figure.bound:g} {figure.unit}"
        measured = "not measured" if figure.values is None else spread(figure.values).show(2)
        table.add_row(figure.name, bound, measured, verdicts[figure.is_reached])
    CONSOLE.print(table)


def draw_times(titles: Mapping[str, str], sections: Mapping[str, tuple[str, Times]], path: Path) -> None:
    """Draws the median time of an item as a bar, one panel per section; this library's are blue.

    Args:
        titles: Of the sections that are drawn.
        sections: This library's variant, to which the others are compared, and the times.
        path: PNG file.
    """
    shown = {
        name: (own, {variant: seconds for variant, seconds in times.items() if seconds is not None})
        for name, (own, times) in sections.items()
        if name in titles
    }
    heights = [len(times) + 1.5 for _, times in shown.values()]
    figure = Picture(figsize=(8, 0.27 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, (own, times)) in zip(panels, shown.items(), strict=True):
        micros = [1e6 * float(np.median(seconds)) for seconds in times.values()]
        colors = ["tab:blue" if variant.startswith("ich") else "0.7" for variant in times]
        bars = panel.barh(list(times), micros, color=colors)
        factors = [spread(seconds / times[own]).median for seconds in times.values()]
        labels = [f"{m:,.0f} µs, {f:,.{1 if f < 10 else 0}f} x" for m, f in zip(micros, factors, strict=True)]
        panel.bar_label(bars, labels, padding=3, fontsize=8)
        panel.set_title(titles[name], loc="left", fontsize=10)
        panel.set_xscale("log")
        panel.set_xlim(min(micros) / 2, max(micros) * 6)
        panel.tick_params(labelsize=8)
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def write_json(
    path: Path, settings: Mapping[str, Any], sections: Mapping[str, Times], figures: Sequence[Figure]
) -> None:
    """Writes what was printed, with every round and the machine."""
    report = {
        "machine": describe_machine(),
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in settings.items()
        },
        "seconds": {
            section: {name: None if seconds is None else seconds.tolist() for name, seconds in times.items()}
            for section, times in sections.items()
        },
        "figures": [
            {
                "name": figure.name,
                "bound": figure.bound,
                "at_least": figure.at_least,
                "unit": figure.unit,
                "measured": None if figure.values is None else spread(figure.values)._asdict(),
                "values": None if figure.values is None else figure.values.tolist(),
                "is_reached": figure.is_reached,
            }
            for figure in figures
        ],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def print_machine() -> None:
    """Prints what a figure depends on."""
    facts = describe_machine()
    CONSOLE.print("; ".join(f"{name} {'none' if fact is None else fact}" for name, fact in facts.items()))


def describe_machine() -> dict[str, Any]:
    """Returns what a figure depends on and a reader cannot see."""
    return {
        "date": date.today().isoformat(),
        "cpu": _name_cpu(),
        "cores": count_cores(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _find_version(package) for package in PACKAGES},
    }


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
