"""Reads the models of a file: a checkpoint, or a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ich.model_files.bundle import is_bundle, read_bundle
from ich.model_files.checkpoint import read_checkpoint
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelMetadata
from ich.schema import UserError


def read_members(path: str | Path) -> tuple[EnsembleMetadata, Sequence[Mapping[str, Tensor]]]:
    """Reads the metadata and the tensors of all models in a file.

    Raises:
        UserError: If the file is missing, damaged or not a model.
    """
    if is_bundle(path):
        bundle = read_bundle(path)
        return bundle.ensemble, bundle.state_dicts
    checkpoint = read_checkpoint(path)
    return EnsembleMetadata((checkpoint["metadata"],)), [checkpoint["state_dict"]]


def read_model(path: str | Path) -> tuple[ModelMetadata, Mapping[str, Tensor]]:
    """Reads the metadata and the tensors of a single model.

    Raises:
        UserError: As ``read_members`` does, and for an ensemble.
    """
    metadata, state_dicts = read_members(path)
    if len(state_dicts) > 1:
        raise UserError(
            f"{path} holds an ensemble of {len(state_dicts)} models, where one is needed: give the run or "
            "the checkpoint of one of them"
        )
    return metadata.members[0], state_dicts[0]
