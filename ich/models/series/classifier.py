"""``SeriesClassifier``, which trains a ``SeriesNet``."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from ich.models.losses import WeightedBCE
from ich.models.series.network import SeriesBatch, SeriesNet
from ich.models.series.training import SeriesSpec
from ich.schema import MONITOR
from ich.schema.labels import LabelSet


class SeriesClassifier(LightningModule):
    """Trains a ``SeriesNet`` on batches of ``SeriesBatch``, and keeps the weights of its best epoch.

    Args:
        net: The network.
        spec: How to train it.
        label_set: What it predicts, with the weights of both losses.

    Attributes:
        best: Log loss of the best epoch, and the weights there.
    """

    def __init__(self, net: SeriesNet, spec: SeriesSpec, label_set: LabelSet) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.loss = WeightedBCE(label_set.weights)
        self.best: tuple[float, dict[str, Tensor]] = (math.inf, {})
        self._known: list[Tensor] = []  # of a validation: (N, 2, L) logits and targets of slices

    def training_step(self, batch: SeriesBatch, batch_idx: int) -> Tensor:
        """Returns the weighted sum of the losses of slices and of series."""
        slices, series = self._run(batch)
        of_slices = self.loss(slices[batch["mask"]], batch["target"][batch["mask"]])
        loss: Tensor = of_slices + self.spec.series_weight * self.loss(series, batch["series_target"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(series))
        return loss

    def validation_step(self, batch: SeriesBatch, batch_idx: int) -> None:
        """Collects the logits of slices."""
        slices, _ = self._run(batch)
        self._known.append(torch.stack([slices[batch["mask"]], batch["target"][batch["mask"]]], dim=1))

    def on_validation_epoch_end(self) -> None:
        """Logs the loss over all slices, and keeps the weights if it is the lowest."""
        logits, target = torch.cat(self._known).unbind(dim=1)
        self._known.clear()
        loss = float(self.loss(logits, target))
        self.log(MONITOR, loss)
        if not self.trainer.sanity_checking and loss < self.best[0]:
            self.best = loss, deepcopy({name: value.cpu() for name, value in self.net.state_dict().items()})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds AdamW with a cosine over all steps."""
        spec = self.spec
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _run(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.net(
            batch["features"], batch["steps"], batch["logits"], batch["mask"]
        )
        return found
