"""A network over series and its training, as settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ich.model_files.metadata import SeriesArguments
from ich.models.series.network import HEADS
from ich.schema import UserError
from ich.tables.runs import RunDraw

OWN_TRAINING = ("epochs", "batch_size", "lr", "weight_decay")
"""Settings of a training on kept features. End to end, those of the run take their place."""


@dataclass(frozen=True)
class SeriesSpec:
    """A network over series and its training, at the end of a run or together with its backbone.

    Attributes:
        kind: ``gru``, a bidirectional one, or ``transformer``.
        end_to_end: Train it together with the backbone, on batches of whole series, instead of at the end of
            the run on features that are computed once. ``epochs``, ``batch_size``, ``lr`` and
            ``weight_decay`` are then those of the run.
        width: Number of features within the network; a multiple of 4.
        layers: Number of layers.
        drop_rate: Dropout.
        epochs: Number of epochs; the best one is kept.
        batch_size: Number of series per batch.
        lr: Largest learning rate; it falls as a cosine.
        weight_decay: Weight decay of AdamW.
        series_weight: Weight of the loss of series beside that of slices.
        reverse: Share of the series that are read from the head to the feet in training.
        drop_slices: Share of the slices that are left out in training.
        max_slices: Longest run of slices in training; a longer series is cut at a random place.

    Raises:
        UserError: If a value is not allowed.
    """

    kind: str = "gru"
    end_to_end: bool = False
    width: int = 64
    layers: int = 1
    drop_rate: float = 0.3
    epochs: int = 20
    batch_size: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.05
    series_weight: float = 0.25
    reverse: float = 0.5
    drop_slices: float = 0.1
    max_slices: int = 128

    def __post_init__(self) -> None:
        checks = {
            "kind": (self.kind in ("gru", "transformer"), "gru or transformer"),
            "width": (self.width % HEADS == 0 and 8 <= self.width <= 1024, "a multiple of 4 from 8 to 1024"),
            "layers": (1 <= self.layers <= 8, "1 to 8"),
            "drop_rate": (0 <= self.drop_rate < 1, "a number from 0 to below 1"),
            "epochs": (self.epochs >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "lr": (self.lr > 0, "a number above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "series_weight": (self.series_weight >= 0, "0 or more"),
            "reverse": (0 <= self.reverse <= 1, "a number from 0 to 1"),
            "drop_slices": (0 <= self.drop_slices < 1, "a number from 0 to below 1"),
            "max_slices": (self.max_slices >= 2, "2 or more"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise UserError(f"series.{name}={getattr(self, name)}: expected {expected}")
        own = [each for each in fields(self) if each.name in OWN_TRAINING]
        if self.end_to_end and (given := [e.name for e in own if getattr(self, e.name) != e.default]):
            raise UserError(
                f"series.{given[0]}={getattr(self, given[0])} with series.end_to_end=true: the network "
                "learns in the training of the run, so trainer.max_epochs, data.batch_size, optim.lr and "
                f"optim.weight_decay count; leave out series.{given[0]}"
            )

    @property
    def arguments(self) -> SeriesArguments:
        """What builds the network."""
        return SeriesArguments(self.kind, self.width, self.layers, self.drop_rate)

    @property
    def draw(self) -> RunDraw:
        """What training takes of a series."""
        return RunDraw(self.max_slices, self.drop_slices, self.reverse)
