"""Training of a backbone without labels, before the training with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ich.models import SliceClassifier
from ich.schema import Batch, UserError

PROJECTED = 1024
"""Units of each layer of the projector. The paper has 8192, for images of many kinds and a larger network."""


class ViewLoss(nn.Module):
    """VICReg: two views of a slice should agree, while slices differ in every direction.

    It compares no slice with another as unlike it. Neighboring slices look alike, so such pairs would be
    wrong, and batches can be small. Bardes et al., VICReg, ICLR 2022 (arXiv:2105.04906), by lightly.

    Args:
        features: Number of features of the backbone.

    Raises:
        UserError: If lightly is not installed.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        try:
            from lightly.loss import VICRegLoss
            from lightly.models.modules.heads import VICRegProjectionHead
        except ImportError as error:
            raise UserError(
                "pretrain=self_supervised needs lightly, which is not installed: pip install 'ich[ssl]'"
            ) from error
        self.projector = VICRegProjectionHead(features, PROJECTED, PROJECTED)
        self.compare = VICRegLoss()

    def forward(self, features: Tensor) -> Tensor:
        """(2 * N, F) features, the two views of each slice in a row -> scalar."""
        projected = self.projector(features.float())
        loss: Tensor = self.compare(projected[0::2], projected[1::2])
        return loss


class SelfSupervised(SliceClassifier):
    """Trains the backbone of a ``SliceNet`` without labels, on batches with two views of each slice.

    The head for the labels is not trained, and the projector of the loss is left out when weights are loaded.

    Args:
        *args: As in ``SliceClassifier``.
        **settings: As in ``SliceClassifier``; ``loss``, which is for labels, is not used.

    Raises:
        UserError: As in ``SliceClassifier``, or if lightly is not installed.
    """

    monitor = "val_loss"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.net.head.requires_grad_(False)
        self.loss = ViewLoss(self.net.features)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Checks the first batch of an epoch, which must hold two views of each slice in turn."""
        self._require_views(batch, batch_idx)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Checks the first batch of a validation likewise."""
        self._require_views(batch, batch_idx)

    def _require_views(self, batch: Batch, batch_idx: int) -> None:
        rows = batch["row"]
        if batch_idx == 0 and not torch.equal(rows[0::2], rows[1::2]):
            raise UserError(
                "self-supervised training compares two views of each slice in a batch: set data.views=2 and "
                "an even data.batch_size, and use a single device (trainer.gpus=1)"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the loss of the validation set; it needs more than one slice."""
        if len(batch["row"]) > 2:
            features, loss = self._loss(batch)
            self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(features))

    def on_validation_epoch_end(self) -> None:
        """There are no predictions to measure."""

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = self.net.extract(self.net.take_image(batch))  # (2 * N, F)
        return features, self.loss(features)
