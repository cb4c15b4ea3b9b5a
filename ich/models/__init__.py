"""``SliceClassifier``: a timm backbone with a multi-label head; loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection

from ich.bundle import is_bundle, read_bundle
from ich.calibration.likeness import Likeness, is_part
from ich.card import Card, make_card
from ich.checkpoint import gather_states, read_checkpoint
from ich.losses import WeightedBCE, prevalence_logits
from ich.metrics import build_metrics
from ich.models.backbones import create_backbone
from ich.optim import OptimSpec, build_optimizer, build_schedule
from ich.schema import LABELS, Batch, InputSpec, UserError
from ich.window import Window

LINKS = ("sigmoid", "softmax")


class SliceClassifier(LightningModule):
    """Classifies slices: image -> backbone -> dropout and linear head -> a logit a label.

    Args:
        backbone: Any model of timm.
        input: What the network sees; with ``learnable`` the model takes HU and windows it itself.
        pretrained: Start from the published weights of the backbone.
        weights_file: Weights of the backbone in a local file, in place of the hub; all of them, or none.
        weights_sha256: SHA-256 that ``weights_file`` has to have. A run writes it down.
        init_from: A checkpoint or bundle of this library whose weights to start from (fine-tuning).
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the backbone.
        link: ``sigmoid``: labels are independent; ``softmax``: they exclude each other.
        compile: Compile the backbone with ``torch.compile``.
        channels_last: Keep images and weights with the channels last, which convolutions run faster on.
        optim: Optimizer and schedule.
        loss: (logits, target) -> scalar; by default ``WeightedBCE``.

    Raises:
        UserError: For an unknown backbone or link, weights out of reach, or an ``init_from`` that does not
            fit.
    """

    def __init__(
        self,
        backbone: str = "regnetx_002",
        *,
        input: InputSpec | Mapping[str, Any],  # noqa: A002 - the configuration's word
        pretrained: bool = True,
        weights_file: str | None = None,
        weights_sha256: str | None = None,
        init_from: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        link: str = "sigmoid",
        compile: bool = False,  # noqa: A002 - torch's word
        channels_last: bool = True,
        optim: OptimSpec | None = None,
        loss: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if link not in LINKS:
            raise UserError(f"model.link={link}: expected one of {', '.join(LINKS)}")
        if not 0 <= drop_rate < 1:
            raise UserError(f"model.drop_rate={drop_rate}: expected a number from 0 to below 1")
        spec = input if isinstance(input, InputSpec) else InputSpec.from_dict(input)
        self.input = spec
        self.link = link
        self.optim = optim or OptimSpec()
        self.loss = loss or WeightedBCE()
        self.card = make_card(
            {
                "backbone": backbone,
                "input": spec.to_dict(),
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
                "link": link,
                "channels_last": channels_last,
            }
        )
        self.window = Window(spec) if spec.learnable else None
        self.backbone = create_backbone(
            backbone,
            in_chans=spec.in_chans,
            img_size=spec.size,
            pretrained=pretrained and init_from is None,
            weights_file=weights_file if init_from is None else None,
            weights_sha256=weights_sha256,
            drop_path_rate=drop_path_rate,
        )
        linear = nn.Linear(int(self.backbone.head_hidden_size), len(LABELS))  # type: ignore[arg-type]
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.head = nn.Sequential(nn.Dropout(drop_rate), linear)
        self.likeness: Likeness | None = None  # fitted at the end of a run
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)
        if init_from is not None:
            self.load_weights(init_from)
        if compile:
            self.backbone.compile()
        self.train_loss = MeanMetric(
            nan_strategy="disable"
        )  # of Lightning's own means a checkpoint keeps nothing
        self.val_metrics = build_metrics("val_")
        self.test_metrics = build_metrics("test_")

    def load_weights(self, path: str | Path) -> None:
        """Starts from the weights of a checkpoint or bundle of this library.

        Raises:
            UserError: If it is none, or of a model that differs in its parts or its input.
        """
        card, state_dict = _read_model(path)
        other = card["model"]["backbone"]
        if other != self.card["model"]["backbone"]:
            raise UserError(f"model.init_from={path} holds {other}; set model.backbone={other}")
        try:
            self.load_state_dict(_without_likeness(state_dict))
        except RuntimeError as error:
            raise UserError(f"model.init_from={path} does not fit this model: {error}") from error

    def setup(self, stage: str) -> None:
        """Drops what was fitted to other weights than those that a training is about to give."""
        if stage == "fit":
            self.likeness = None
            self.card.pop("likeness", None)
            self.card.pop("decisions", None)

    def start_at(self, prevalences: Sequence[float]) -> None:
        """Sets the head's bias so that an untrained model predicts the prevalences.

        Args:
            prevalences: Share of positives of each of ``LABELS``.
        """
        with torch.no_grad():
            self.get_parameter("head.1.bias").copy_(prevalence_logits(prevalences))

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: (N, C, S, S) images, or (N, D, S, S) HU with learnable windows.

        Returns:
            (N, 6) logits in the order of ``LABELS``.
        """
        logits: Tensor = self.head(self.extract(x))
        return logits

    def extract(self, x: Tensor) -> Tensor:
        """Computes what the head sees.

        Args:
            x: As ``forward`` takes it.

        Returns:
            (N, F) features of the backbone.
        """
        image = x if self.window is None else self.window(x)
        image = image.to(self.get_parameter("head.1.weight").dtype)  # 64 bits with trainer.precision=64-true
        features: Tensor = self.backbone(image.contiguous(memory_format=self.memory_format))
        return features

    def to_probs(self, logits: Tensor) -> Tensor:
        """(N, 6) logits -> (N, 6) probabilities, float32."""
        logits = logits.float()
        return logits.sigmoid() if self.link == "sigmoid" else logits.softmax(dim=1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss of a training batch."""
        logits, loss = self._loss(batch)
        self.train_loss.update(loss.detach(), len(logits))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics of the validation part."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates the metrics of the test part."""
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Returns ``row`` (N,) and ``probs`` (N, 6)."""
        return {"row": batch["row"].cpu(), "probs": self.to_probs(self(self._x(batch))).cpu()}

    def _x(self, batch: Batch) -> Tensor:
        return batch["hu"] if self.window is not None else batch["image"]

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self(self._x(batch))  # (N, 6)
        loss: Tensor = self.loss(logits, batch["target"])
        return logits, loss

    def _evaluate(self, batch: Batch, part: str, metrics: MetricCollection) -> None:
        logits, loss = self._loss(batch)
        self.log(f"{part}_loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        metrics.update(self.to_probs(logits), batch["target"])

    def on_train_epoch_start(self) -> None:
        """Begins the mean loss anew."""
        self.train_loss.reset()
        self._freeze()

    def on_train_start(self) -> None:
        """Freezes the backbone where a run goes on within an epoch, whose start it does not see."""
        self._freeze()

    def _freeze(self) -> None:
        """Keeps the statistics of a frozen backbone as they are; its learning rate is 0 meanwhile."""
        self.backbone.train(self.current_epoch >= self.optim.freeze_epochs)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the validation part."""
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Logs the metrics of the test part."""
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Builds what ``optim`` says, over all the steps of the run."""
        optimizer = build_optimizer(self.optim, self)
        total = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = max(1, total // max(1, self.trainer.max_epochs or 1))
        schedule = build_schedule(optimizer, self.optim, total, steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card, from which ``load_classifier`` builds the model again, and the losses so far."""
        checkpoint["card"] = dict(self.card)
        so_far = [self.train_loss.mean_value.cpu().clone(), self.train_loss.weight.cpu().clone()]
        checkpoint["train_loss"] = gather_states(so_far)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the loss of the epoch so far back, and no likeness: it is of a model that is done."""
        self.likeness = None
        checkpoint["state_dict"] = _without_likeness(checkpoint["state_dict"])
        if self.global_rank < len(every := checkpoint["train_loss"]):
            mean, weight = (value.to(self.device) for value in every[self.global_rank])
            self.train_loss.mean_value, self.train_loss.weight = mean, weight


def load_classifier(path: str | Path) -> SliceClassifier:
    """Loads a trained model; the file is all it takes.

    Args:
        path: A checkpoint that a run wrote, or a bundle.

    Returns:
        The model in evaluation mode on the CPU.

    Raises:
        UserError: If the file is missing, damaged or of something else.
    """
    card, state_dict = _read_model(path)
    model = SliceClassifier(**card["model"], pretrained=False)
    model.card = card
    features = int(model.backbone.head_hidden_size)  # type: ignore[arg-type]
    model.likeness = Likeness.restore(state_dict, features, str(path))
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:
        raise UserError(
            f"{path} is damaged: its weights are not those of {card['model']['backbone']}"
        ) from error
    return model.eval()


def hash_weights(model: SliceClassifier) -> str:
    """SHA-256 of a model's tensors: by name, their name, type, shape and values.

    A checkpoint, a bundle and a run's folder of the same model have the same. Its likeness does not count: it
    is fitted after the predictions were made, and changes none of them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_without_likeness(model.state_dict()).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_likeness(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state_dict.items() if not is_part(name)}


def _read_model(path: str | Path) -> tuple[Card, Mapping[str, Tensor]]:
    if is_bundle(path):
        bundle = read_bundle(path)
        return bundle.card, bundle.state_dict
    checkpoint = read_checkpoint(path)
    return checkpoint["card"], checkpoint["state_dict"]
