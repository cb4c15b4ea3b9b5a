"""``SeriesNet``, a network over the ordered slices of a series, and ``SeriesClassifier``, which trains one.

It takes what a network for slices found in each slice, and corrects the logits by what the other slices show.
``SliceClassifier`` can train both networks together.
"""

from __future__ import annotations

from ich.models.series.batches import Corrected, SeriesBatches, Slices, correct, list_series
from ich.models.series.network import SeriesBatch, SeriesNet
from ich.models.series.training import SeriesClassifier, SeriesSpec

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
