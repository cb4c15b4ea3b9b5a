"""Backbones: any model of timm, and the network that this project grew from."""

from __future__ import annotations

import difflib
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from ich.schema import UserError

_BUILD_ERRORS: tuple[type[Exception], ...] = (
    *(RuntimeError, AssertionError, TypeError, ValueError),
    *(KeyError, IndexError, EOFError, pickle.UnpicklingError),  # of a weights file that is none
)


class BaselineCNN(nn.Module):
    """The network that this project grew from; kept to measure against.

    Two convolutions of 16 and 32 filters with kernels 7 and 5, each with max-pooling, then dropout and 16
    dense units.

    Args:
        in_chans: Channels of the image.
        img_size: Height and width in pixels.
        drop_rate: Dropout before the dense units.
    """

    def __init__(self, in_chans: int = 1, img_size: int = 128, drop_rate: float = 0.25) -> None:
        super().__init__()
        self.head_hidden_size = 16
        side = ((img_size - 6) // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 16, 7),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(drop_rate),
            nn.Linear(32 * side * side, self.head_hidden_size),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, 16)."""
        features: Tensor = self.features(image)
        return features


@register_model
def baseline_cnn(pretrained: bool = False, in_chans: int = 1, img_size: int = 128, **_: Any) -> BaselineCNN:
    """``BaselineCNN`` through timm's door, which passes more than it takes; it has no published weights."""
    if pretrained:
        raise UserError("model.backbone=baseline_cnn has no pretrained weights; set model.pretrained=false")
    return BaselineCNN(in_chans, img_size)


def create_backbone(
    name: str,
    *,
    in_chans: int,
    img_size: int,
    pretrained: bool,
    weights_file: str | None = None,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Creates a timm backbone that gives pooled features.

    Args:
        name: Any model of timm, with or without the tag of its weights.
        in_chans: Channels of the image.
        img_size: Height and width, for backbones that are built for one size.
        pretrained: Load the published weights.
        weights_file: Load the weights from this file in place of the hub.
        drop_path_rate: Stochastic depth.

    Returns:
        (N, in_chans, S, S) -> (N, F), with F in its ``head_hidden_size``.

    Raises:
        UserError: If the name is unknown, the weights are out of reach, or the backbone takes no image of
            this size.
    """
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        raise UserError(
            f"model.backbone={name} is no model of timm; nearest: {', '.join(nearest) or 'none'}. "
            "timm.list_models() names all"
        )
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if name == "baseline_cnn" or (config is not None and config.fixed_input_size):
        kwargs["img_size"] = img_size
    if drop_path_rate:
        kwargs["drop_path_rate"] = drop_path_rate
    if weights_file is not None:
        if not Path(weights_file).is_file():
            raise UserError(f"model.weights_file={weights_file} does not exist")
        kwargs["pretrained_cfg_overlay"] = {"file": weights_file}
        pretrained = True
    elif pretrained:
        _go_offline_without_hub()
    try:
        backbone: nn.Module = timm.create_model(name, pretrained=pretrained, **kwargs)
        with torch.no_grad():  # some tell only now that they take no image of this size
            backbone.eval()(torch.zeros(1, in_chans, img_size, img_size))
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"the weights of model.backbone={name} are out of reach: no answer from the model hub and none "
            "cached. Give model.weights_file=FILE, or start from random weights with model.pretrained=false"
        ) from error
    except _BUILD_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.backbone={name} cannot be built for input.size={img_size}, {in_chans} channels, "
            f"pretrained={pretrained}: {reason}"
        ) from error
    return backbone.train()


def _go_offline_without_hub() -> None:
    """Asks the hub once, briefly: its own retries take most of a minute to give up."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=3)
    except Exception:  # of whichever HTTP library is in use: the hub is out of reach all the same
        huggingface_hub.constants.HF_HUB_OFFLINE = True
