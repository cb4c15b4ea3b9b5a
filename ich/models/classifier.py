"""``SliceClassifier``, which trains a ``SliceNet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ich.model_files.checkpoint import gather_states
from ich.model_files.metadata import Origin
from ich.models.losses import WeightedBCE, prevalence_logits
from ich.models.metrics import MeanLoss, build_metrics
from ich.models.network import SliceNet, without_fitted
from ich.models.optim import OptimSpec, build_optimizer, build_schedule
from ich.models.own import Maker
from ich.models.series import SeriesNet, SeriesSpec
from ich.models.series.joint import relate
from ich.models.study_pooling import build_study_pool
from ich.schema import Batch, InputSpec, UserError
from ich.schema.formats import read_plain
from ich.schema.labels import RSNA_LABELS, LabelSet


class SliceClassifier(LightningModule):
    """Trains a ``SliceNet``.

    If batches have targets of studies, the loss is that of studies plus that of slices with known targets,
    and metrics are those of studies. With a network over series, the loss is that of the corrected slices
    plus those of series and of the slices by themselves, and metrics are those of the corrected slices.
    Checkpoints name the network's tensors as the network does, such as
    ``backbone.conv1.weight``.

    Args:
        backbone: Name of any timm model, or a backbone of your own; see ``SliceNet``.
        input: Input of the network.
        label_set: What it predicts.
        pretrained: Start from the published weights of the backbone.
        weights_file: Local file with all weights of the backbone, used instead of the hub.
        weights_sha256: SHA-256 that the file of the weights must have: ``weights_file``, or that of an
            installed package. A run records it.
        init_from: A checkpoint or bundle of this library whose weights to start from (fine-tuning).
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the backbone.
        link: ``sigmoid``: labels are independent; ``softmax``: they exclude each other.
        pool: Place of the mean over the image; see ``SliceNet``.
        compile: Compile the backbone with ``torch.compile``.
        channels_last: Keep the channels of images and weights last, which makes convolutions faster.
        optim: Optimizer and schedule.
        loss: (logits, target) -> scalar; by default ``WeightedBCE`` with the weights of the labels.
        study_pool: With labels of studies, way from the logits of slices to that of a study in training:
            ``top_k`` or ``attention``; see ``ich.models.study_pooling``.
        study_top: Number of slices for ``top_k``.
        slice_weight: With labels of studies, weight of the loss of slices with known targets, beside that of
            studies. With a network over series, weight of the loss of slices before their correction, which
            keeps the network for slices fit for labels that take no correction.
        series: A network over series to train together with this one, if it is to be trained end to end.

    Raises:
        UserError: For an unknown backbone or link, weights that are not available, or an ``init_from`` that
            does not fit.
    """

    def __init__(
        self,
        backbone: str | nn.Module | Maker = "regnetx_002",
        *,
        input: InputSpec | Mapping[str, Any],  # noqa: A002 - the configuration's word
        label_set: LabelSet = RSNA_LABELS,
        pretrained: bool = True,
        weights_file: str | None = None,
        weights_sha256: str | None = None,
        init_from: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        link: str = "sigmoid",
        pool: Literal["last"] | None = None,
        compile: bool = False,  # noqa: A002 - torch's word
        channels_last: bool = True,
        optim: OptimSpec | None = None,
        loss: nn.Module | None = None,
        study_pool: str = "top_k",
        study_top: int = 3,
        slice_weight: float = 0.5,
        series: SeriesSpec | None = None,
    ) -> None:
        super().__init__()
        self.optim = optim or OptimSpec()
        self.loss = loss or WeightedBCE(label_set.weights)
        self.net = SliceNet(
            backbone,
            input=input,
            label_set=label_set,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            link=link,
            channels_last=channels_last,
            pool=pool,
            pretrained=pretrained and init_from is None,
            weights_file=weights_file if init_from is None else None,
            weights_sha256=weights_sha256,
        )
        if slice_weight < 0:
            raise UserError(f"model.slice_weight={slice_weight}: expected 0 or more")
        self.slice_weight = slice_weight
        self.study_pool = build_study_pool(
            study_pool, top=study_top, features=self.net.features, labels=len(label_set.names)
        )
        joint = series if series is not None and series.end_to_end else None
        self.series_net = None if joint is None else self._build_series_net(joint)
        self.series_weight = 0.0 if joint is None else joint.series_weight
        self.register_state_dict_post_hook(_name_as_network)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_name_as_attribute)  # type: ignore[no-untyped-call]
        self.has_new_head = init_from is None or not self.net.load_weights(init_from)
        if compile:
            self.backbone.compile()
        # A checkpoint keeps the loss of the epoch so far. Of Lightning's own means it keeps nothing.
        self.train_loss, self.val_loss, self.test_loss = MeanLoss(), MeanLoss(), MeanLoss()
        self.val_metrics = build_metrics("val_", label_set)
        self.test_metrics = build_metrics("test_", label_set)

    def _build_series_net(self, spec: SeriesSpec) -> SeriesNet:
        if self.net.link != "sigmoid":
            raise UserError(
                f"series.end_to_end=true with model.link={self.net.link}: a network over series corrects "
                "each label by itself; set model.link=sigmoid, or series.end_to_end=false"
            )
        return SeriesNet(spec.arguments, self.net.features, len(self.net.metadata.labels.names))

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone."""
        return self.net.backbone

    def setup(self, stage: str) -> None:
        """Drops everything that was fitted to the old weights."""
        if stage == "fit":
            self.net.ood = self.net.series = None
            self.net.metadata = replace(
                self.net.metadata, ood=None, series=None, smoothing=None, decisions=None
            )

    def start_at(self, prevalences: Sequence[float]) -> None:
        """Sets the head's bias so that an untrained model predicts the prevalences.

        Args:
            prevalences: Share of positives of each label.
        """
        with torch.no_grad():
            self.net.get_parameter("head.1.bias").copy_(prevalence_logits(prevalences))

    def forward(self, image: Tensor) -> Tensor:
        """Computes logits: (N, C, S, S) images -> (N, L)."""
        logits: Tensor = self.net(image)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a training batch."""
        logits, loss = self._loss(batch)
        self.train_loss.update(loss, len(logits))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics of the validation set."""
        self._evaluate(batch, "val", self.val_loss, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics of the test set."""
        self._evaluate(batch, "test", self.test_loss, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns ``row`` (N,) and ``probs`` (N, L)."""
        return self.net.score(batch)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns logits and loss: (K, L) logits of studies if the batch has their targets, or of slices.

        With a network over series, the logits of slices are corrected.
        """
        features = self.net.extract(self.net.take_image(batch))
        logits = self.net.head(features)  # (N, L)
        loss: Tensor
        if "study" in batch:
            of_slices = self.loss(logits, batch["target"])
            logits = self.study_pool(logits, features, batch["study"])
            return logits, self.loss(logits, batch["study_target"]) + self.slice_weight * of_slices
        if self.series_net is not None:
            related = relate(self.series_net, features, logits, batch)
            of_series = self.loss(related.series, related.target)
            of_slices = self.slice_weight * self.loss(logits, batch["target"])
            loss = self.loss(related.slices, batch["target"]) + self.series_weight * of_series + of_slices
            return related.slices, loss
        shifts = "logit_shift" in batch and self.net.link == "sigmoid"
        loss = self.loss(logits + batch["logit_shift"] if shifts else logits, batch["target"])
        return logits, loss

    def _evaluate(self, batch: Batch, part: str, mean: MeanLoss, metrics: MetricCollection) -> None:
        logits, loss = self._loss(batch)
        mean.update(loss, len(logits))
        self.log(f"{part}_loss", mean, on_step=False, on_epoch=True)
        metrics.update(self.net.to_probs(logits), batch.get("study_target", batch["target"]))

    def on_train_epoch_start(self) -> None:
        """Resets the mean loss."""
        self.train_loss.reset()
        self._freeze()

    def on_train_start(self) -> None:
        """Freezes the backbone if a run resumes within an epoch."""
        self._freeze()

    def _freeze(self) -> None:
        """Keeps the statistics of a frozen backbone; its learning rate is 0."""
        self.backbone.train(self.current_epoch >= self.optim.freeze_epochs)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the validation set."""
        self.log_dict(self.val_metrics.compute(), sync_dist=True)
        self.val_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the test set."""
        self.log_dict(self.test_metrics.compute(), sync_dist=True)
        self.test_metrics.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds optimizer and schedule over all steps of the run."""
        optimizer = build_optimizer(self.optim, self)
        total = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = max(1, total // max(1, self.trainer.max_epochs or 1))
        schedule = build_schedule(optimizer, self.optim, total, steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the losses so far, and the metadata from which ``load_slice_net`` builds the network."""
        checkpoint["metadata"] = self.net.metadata.to_plain()
        so_far = [self.train_loss.total.cpu().clone(), self.train_loss.weight.cpu().clone()]
        checkpoint["train_loss"] = gather_states(so_far)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the origin and the loss of the epoch, but nothing of a finished model."""
        self.net.ood = self.net.series = None
        if found := checkpoint.get("metadata", {}).get("origin"):
            origin = read_plain(Origin, found, "the checkpoint: metadata.origin")
            self.net.metadata = replace(self.net.metadata, origin=origin)
        checkpoint["state_dict"] = without_fitted(checkpoint["state_dict"])
        world = 1 if self._trainer is None else self.trainer.world_size
        if own := checkpoint["train_loss"][self.global_rank :: world]:  # of several, where fewer go on
            sums = (torch.stack(values).sum(dim=0).to(self.device) for values in zip(*own, strict=True))
            self.train_loss.total, self.train_loss.weight = sums


SliceClassifier.__module__ = "ich.models"  # the path that configurations name


def _name_as_network(_: nn.Module, state_dict: dict[str, Tensor], prefix: str, __: Any) -> None:
    """Takes ``net.`` out of the names of a state, so that files name tensors as the network does."""
    inside = f"{prefix}net."
    for name in list(state_dict):  # all of them, which keeps their order
        state_dict[prefix * name.startswith(inside) + name.removeprefix(inside)] = state_dict.pop(name)


def _name_as_attribute(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Undoes ``_name_as_network`` before a state is loaded."""
    parts = tuple(f"{prefix}{name}." for name, _ in module.get_submodule("net").named_children())
    for name in list(state_dict):
        inside = f"{prefix}net." * name.startswith(parts)
        state_dict[inside + (name.removeprefix(prefix) if inside else name)] = state_dict.pop(name)
