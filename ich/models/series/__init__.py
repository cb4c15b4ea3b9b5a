"""``SeriesNet``, a network over the ordered slices of a series, and ``SeriesClassifier``, which trains one.

It takes what a network for slices found in each slice, and corrects the logits by what the other slices show.
``SliceClassifier`` can train both networks together. The classifiers need Lightning, and are imported when
they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ich.models.series.batches import Corrected, SeriesBatches, Slices, correct, list_series
from ich.models.series.network import SeriesBatch, SeriesNet
from ich.models.series.training import SeriesSpec

if TYPE_CHECKING:
    from ich.models.series.classifier import SeriesClassifier

__all__ = [
    "Corrected",
    "SeriesBatch",
    "SeriesBatches",
    "SeriesClassifier",
    "SeriesNet",
    "SeriesSpec",
    "Slices",
    "correct",
    "list_series",
]

if not TYPE_CHECKING:  # type checkers see the import

    def __getattr__(name: str) -> Any:
        if name != "SeriesClassifier":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from ich.models.series.classifier import SeriesClassifier

        return SeriesClassifier
