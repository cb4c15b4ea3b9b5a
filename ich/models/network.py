"""``SliceNet``: the network itself, from HU to probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ich.calibration.ood import OodDistance, is_part, rename_parts
from ich.image.window import Window
from ich.model_files.metadata import ModelArguments, ModelMetadata
from ich.model_files.reading import read_model
from ich.models.backbones import create_backbone, find_origin
from ich.models.own import (
    Maker,
    build_backbone,
    count_features,
    describe_backbone,
)
from ich.models.series.network import SeriesNet
from ich.schema import UNFINISHED, Batch, InputSpec, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet

LINKS = ("sigmoid", "softmax")

JOINT = "series_net."
"""Prefix of the weights of a network over series that is trained together with the network for slices."""

_OF_TRAINING = ("loss.", "study_pool.", JOINT)


class SliceNet(nn.Module):
    """Window, backbone and head: from HU to an image, to features, to one logit per label.

    The methods follow these steps. ``window`` turns HU into an image. ``extract``, ``forward`` and
    ``classify`` take the image; ``classify_hu`` does everything at once.

    Args:
        backbone: Name of any timm model, or a backbone of your own: a class, a ``functools.partial`` of one,
            or an object. It turns images (N, C, S, S) into features (N, F), or into a feature map
            (N, F, h, w), which is averaged.
        input: Input of the network.
        label_set: What it predicts.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the backbone.
        link: ``sigmoid``: labels are independent; ``softmax``: they exclude each other.
        pool: Place of the mean over the image: None is where timm takes it, ``last`` is after the last layer
            of the backbone. It matters for backbones with layers in between, such as MaxViT.
        channels_last: Keep the channels of images and weights last, which makes convolutions faster.
        pretrained: Start from the published weights of the backbone.
        weights_file: Local file with all weights of the backbone, used instead of the hub.
        weights_sha256: SHA-256 that the local file of the weights must have.

    Attributes:
        metadata: Metadata of the network for its files.
        series: The network that corrects logits by the series; None for a network that sees only slices.
        ood: Reference for the distance from the training data; None if none was fitted.

    Raises:
        UserError: For an unknown backbone or link, or weights that are not available.
    """

    def __init__(
        self,
        backbone: str | nn.Module | Maker,
        *,
        input: InputSpec | Mapping[str, Any],  # noqa: A002 - the configuration's word
        label_set: LabelSet = RSNA_LABELS,
        drop_rate: float,
        drop_path_rate: float,
        link: str,
        channels_last: bool,
        pool: Literal["last"] | None = None,
        pretrained: bool = False,
        weights_file: str | None = None,
        weights_sha256: str | None = None,
    ) -> None:
        super().__init__()
        if link not in LINKS:
            raise UserError(f"model.link={link}: expected one of {', '.join(LINKS)}")
        if not 0 <= drop_rate < 1:
            raise UserError(f"model.drop_rate={drop_rate}: expected a number from 0 to below 1")
        self.input = input if isinstance(input, InputSpec) else InputSpec.from_dict(input)
        self.link = link
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.window = Window(self.input)
        own, origin = None, None
        if isinstance(backbone, str):
            name = backbone
            self.backbone = create_backbone(
                name,
                in_chans=self.input.in_chans,
                img_size=self.input.size,
                pretrained=pretrained,
                weights_file=weights_file,
                weights_sha256=weights_sha256,
                drop_path_rate=drop_path_rate,
                pool=pool,
            )
            origin = find_origin(name, pretrained=pretrained, weights_file=weights_file)
            self.features = int(self.backbone.head_hidden_size)  # type: ignore[arg-type]
        else:
            name, own = describe_backbone(backbone)
            _refuse_settings(
                name,
                pretrained=pretrained,
                weights_file=weights_file,
                drop_path_rate=drop_path_rate,
                pool=pool,
            )
            self.backbone = build_backbone(backbone, self.input.in_chans)
            image = torch.zeros(1, self.input.in_chans, self.input.size, self.input.size)
            self.features = count_features(self.backbone, image.contiguous(memory_format=self.memory_format))
        self.metadata = ModelMetadata(
            ModelArguments(name, self.input, drop_rate, drop_path_rate, link, channels_last, own, pool),
            labels=label_set,
            origin=origin,
        )
        linear = nn.Linear(self.features, len(label_set.names))
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        self.head = nn.Sequential(nn.Dropout(drop_rate), linear)
        self.series: SeriesNet | None = None
        self.ood: OodDistance | None = None
        self.keep_in(self.memory_format)

    def keep_in(self, memory_format: torch.memory_format) -> None:
        """Keeps images and weights of the backbone in a memory format from now on."""
        self.memory_format = memory_format
        self.backbone.to(memory_format=memory_format)

    def require_sizes(self, sizes: Sequence[int]) -> None:
        """Refuses sizes of images that the backbone does not take; some are built for one size.

        Raises:
            UserError: Naming the first such size.
        """
        for size in sizes:
            try:
                count_features(self.backbone, torch.zeros(1, self.input.in_chans, size, size))
            except UserError as error:
                raise UserError(
                    f"data.first_sizes={list(sizes)}: {error}; leave data.first_sizes empty"
                ) from error

    def copy_backbone(self) -> nn.Module | None:
        """Copies a backbone of the user's own, as it can be loaded again; None for one of timm."""
        return None if self.metadata.model.own is None else deepcopy(self.backbone).float()

    def load_weights(self, path: str | Path) -> bool:
        """Loads the weights of a checkpoint or bundle of this library, with their origin but no reference.

        If the file has other labels, the head stays as it is: it would not know them.

        Returns:
            Whether the head is that of the file.

        Raises:
            UserError: If it is another kind of file, or holds a model with other parts or another input.
        """
        metadata, state_dict = read_model(path)
        other = metadata.model.backbone
        if other != self.metadata.model.backbone:
            raise UserError(f"model.init_from={path} holds {other}; set model.backbone={other}")
        if (pool := metadata.model.pool) != self.metadata.model.pool:
            raise UserError(f"model.init_from={path} has model.pool={pool or 'null'}; set it")
        weights = without_fitted(_without_training(state_dict))
        same_labels = metadata.labels.names == self.metadata.labels.names
        if not same_labels:
            weights |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"model.init_from={path} does not fit this model: {error}") from error
        self.metadata = replace(self.metadata, origin=metadata.origin)
        return same_labels

    def restore(self, metadata: ModelMetadata, state_dict: Mapping[str, Tensor], path: str | Path) -> None:
        """Becomes the network of a file, including its reference.

        Args:
            metadata: The file's metadata.
            state_dict: Its tensors.
            path: The file.

        Raises:
            UserError: If the tensors are not those of this network.
        """
        weights = rename_parts(_without_training(state_dict))
        self.metadata = metadata
        labels = len(metadata.labels.names)
        self.series = None if metadata.series is None else SeriesNet(metadata.series, self.features, labels)
        self.ood = OodDistance.restore(weights, self.features, str(path))
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(
                f"{path} is damaged: its weights are not those of {metadata.model.backbone}"
            ) from error

    def take_image(self, batch: Batch) -> Tensor:
        """Returns the images of a data module's batch, and windows HU.

        Raises:
            UserError: If the hooks of the data module did not run, which count unreadable slices.
        """
        if "image" in batch:
            return batch["image"]
        if "unread" in batch:
            raise UserError(UNFINISHED)
        image: Tensor = self.window(batch["hu"], batch.get("window"), batch.get("window_changes"))
        return image

    def score(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``row`` (N,) and ``probs`` (N, L), one per label, of a data module's batch, on the CPU."""
        probs = self.to_probs(self(self.take_image(batch)))
        return {"row": batch["row"].cpu(), "probs": probs.cpu()}

    def extract(self, image: Tensor) -> Tensor:
        """Computes what the head sees: (N, C, S, S) images -> (N, F) features of the backbone."""
        image = image.to(self.get_parameter("head.1.weight").dtype)  # 64 bits with trainer.precision=64-true
        features: Tensor = self.backbone(image.contiguous(memory_format=self.memory_format))
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def forward(self, image: Tensor) -> Tensor:
        """Computes logits: (N, C, S, S) images -> (N, L)."""
        logits: Tensor = self.head(self.extract(image))
        return logits

    def to_probs(self, logits: Tensor) -> Tensor:
        """(N, L) logits -> (N, L) probabilities, float32."""
        logits = logits.float()
        return logits.sigmoid() if self.link == "sigmoid" else logits.softmax(dim=1)

    def classify(self, image: Tensor) -> tuple[Tensor, ...]:
        """Classifies images.

        Args:
            image: (N, C, S, S), from ``window``.

        Returns:
            (N, L) probabilities and, with a reference, (N,) distances.
        """
        return self.classify_features(self.extract(image))

    def classify_features(self, features: Tensor) -> tuple[Tensor, ...]:
        """Classifies slices by their features, (N, F); as ``classify``."""
        probs = self.to_probs(self.head(features))
        return (probs,) if self.ood is None else (probs, self.ood(features))

    def classify_hu(self, hu: Tensor, header: Tensor | None = None) -> tuple[Tensor, ...]:
        """Classifies slices.

        Args:
            hu: (N, D, S, S) HU of slices with their neighbors.
            header: (N, 2) center and width in HU of each slice's header, if the input needs them.

        Returns:
            As ``classify``.
        """
        return self.classify(self.window(hu, header))


def hash_weights(net: SliceNet) -> str:
    """Returns the SHA-256 of a network's tensors: name, type, shape and values, sorted by name.

    It is the same for a checkpoint, a bundle and a run's folder of one model. The reference does not count,
    because it is fitted after the predictions and does not change them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(without_ood(net.state_dict()).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def without_ood(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a model without those of its reference."""
    return {name: value for name, value in state_dict.items() if not is_part(name)}


def without_fitted(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a network for slices, without what was fitted after its training."""
    return drop_series(without_ood(state_dict))


def drop_series(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a model without those of its network over series."""
    return {name: value for name, value in state_dict.items() if not name.startswith("series.")}


def _refuse_settings(target: str, **settings: Any) -> None:
    """Refuses settings that only timm models have."""
    for name, value in settings.items():
        if value:
            shown = "true" if value is True else value
            off = {"pretrained": "false", "weights_file": "null", "drop_path_rate": "0", "pool": "null"}[name]
            raise UserError(
                f"model.{name}={shown}: {target} is not a timm model; set model.{name}={off}, and use the "
                "backbone's own arguments"
            )


def _without_training(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights without those of training, which inference does not need.

    A loss may have tensors of its own, such as weights of classes. So do what pools slices to studies, and a
    network over series as the training left it, before labels took their shares of it.
    """
    return {name: value for name, value in state_dict.items() if not name.startswith(_OF_TRAINING)}
