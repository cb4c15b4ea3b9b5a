"""Loads trained networks from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelArguments, ModelMetadata
from ich.model_files.reading import read_members, read_model
from ich.models.network import SliceNet
from ich.models.own import Maker, check_trusted, find_maker


class Ensemble(NamedTuple):
    """The networks of a model file, whose probabilities are averaged; often one.

    Attributes:
        nets: The members, in evaluation mode on the CPU.
        metadata: Their metadata, and the decisions that they share.
    """

    nets: tuple[SliceNet, ...]
    metadata: EnsembleMetadata


def load_ensemble(path: str | Path, *, trusted: Sequence[str] = ()) -> Ensemble:
    """Loads all networks of a file. Code of your own is used only if you trust it.

    Args:
        path: A checkpoint that a run wrote, or a bundle.
        trusted: As ``load_slice_net`` takes it.

    Raises:
        UserError: As ``load_slice_net`` does.
    """
    metadata, state_dicts = read_members(path)
    nets = tuple(
        build_slice_net(member, state_dict, path, _find_backbone(member.model, trusted, path))
        for member, state_dict in zip(metadata.members, state_dicts, strict=True)
    )
    return Ensemble(nets, metadata)


def _find_backbone(model: ModelArguments, trusted: Sequence[str], path: str | Path) -> Maker | None:
    if model.own is None:
        return None
    return find_maker(model.backbone, model.own.arguments, check_trusted(trusted), str(path))


def load_slice_net(
    path: str | Path, *, trusted: Sequence[str] = (), backbone: nn.Module | Maker | None = None
) -> SliceNet:
    """Loads a trained network from its file. Code of your own is used only if you trust it.

    Args:
        path: A checkpoint that a run wrote, or a bundle of one model.
        trusted: Code of your own that the file may name as its backbone: prefixes such as ``mypackage.``, or
            whole names such as ``mypackage.Net``.
        backbone: The backbone, in place of the one that the file names.

    Returns:
        The network in evaluation mode on the CPU.

    Raises:
        UserError: If the file is missing, damaged or not a single model, or its backbone is not trusted.
    """
    metadata, state_dict = read_model(path)
    if backbone is None:
        backbone = _find_backbone(metadata.model, trusted, path)
    return build_slice_net(metadata, state_dict, path, backbone)


def build_slice_net(
    metadata: ModelMetadata,
    state_dict: Mapping[str, Tensor],
    path: str | Path,
    backbone: nn.Module | Maker | None = None,
) -> SliceNet:
    """Builds the network of a file that was read.

    Arguments and errors are those of ``SliceNet.restore``. A ``backbone`` is used instead of timm's.
    """
    settings = {name: value for name, value in vars(metadata.model).items() if name != "own"}
    settings["label_set"] = metadata.labels
    net = SliceNet(**settings if backbone is None else settings | {"backbone": backbone})
    net.restore(metadata, state_dict, path)
    return net.eval()
