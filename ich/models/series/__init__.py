"""``SeriesNet``, a network over the ordered slices of a series, and ``SeriesClassifier``, which trains one.

It takes what a network for slices found in each slice, and corrects the logits by what the other slices show.
"""

from __future__ import annotations

from ich.models.series.batches import SeriesBatches, Slices, correct
from ich.models.series.network import SeriesBatch, SeriesNet
from ich.models.series.training import SeriesClassifier, SeriesSpec

__all__ = [
    "SeriesBatch",
    "SeriesBatches",
    "SeriesClassifier",
    "SeriesNet",
    "SeriesSpec",
    "Slices",
    "correct",
]
