"""Bundles: one file to share a model, or the members of an ensemble.

A bundle is a ZIP archive with exactly these uncompressed members: ``model.json`` describes the model,
``model.safetensors`` holds its weights, and ``model_card.md``, if present, tells a reader about it. It is one
file, and any tool opens it. Because its members are uncompressed, none is larger than the file. Nothing is
ever extracted to the disk, and no member is requested by a name from the archive.

``model.json`` is a ``Description``. Tensors of the first model are named ``members.0.``, of the second
``members.1.``, and so on. Bundles of formats 1 to 4 can be read too. Those of 1 to 3 hold a single model,
whose tensors have no such prefix. Format 1 has no model card, and 1 and 2 have the metadata under other
names. Format 4 has no smoothing of a mean. Its members keep their own, so it predicts what it predicted.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from ich import __version__
from ich.files import replacing
from ich.model_files.description import (
    BAD_ARCHIVE,
    DESCRIPTION,
    LARGEST_CARD,
    LARGEST_DESCRIPTION,
    MODEL_CARD,
    OF_ONE,
    WEIGHTS,
    Description,
    parse_description,
    read_members,
)
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelMetadata, Versions
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import show, to_plain

__all__ = ["Bundle", "is_bundle", "read_bundle", "write_bundle", "write_ensemble"]

_BAD_TENSORS = (ValueError, RuntimeError, TypeError, LookupError, OverflowError)


class Bundle(NamedTuple):
    """Content of a bundle.

    Attributes:
        ensemble: Metadata of the members; a single model is the only one.
        state_dicts: Tensors of each member.
        model_card: Markdown; empty if there is none.
    """

    ensemble: EnsembleMetadata
    state_dicts: tuple[dict[str, Tensor], ...]
    model_card: str

    @property
    def metadata(self) -> ModelMetadata:
        """Metadata of a single model; ``ValueError`` for an ensemble."""
        (metadata,) = self.ensemble.members
        return metadata

    @property
    def state_dict(self) -> dict[str, Tensor]:
        """Tensors of a single model; ``ValueError`` for an ensemble."""
        (state_dict,) = self.state_dicts
        return state_dict


def write_bundle(
    metadata: ModelMetadata, state_dict: Mapping[str, Tensor], path: str | Path, *, model_card: str = ""
) -> None:
    """Writes a bundle of one model; the same model gives the same bytes.

    Args:
        metadata: The model's metadata.
        state_dict: The model's weights.
        path: A new file.
        model_card: Model card for readers, as Markdown; empty if there is none.

    Raises:
        UserError: As ``write_ensemble`` does.
    """
    write_ensemble(EnsembleMetadata((metadata,)), [state_dict], path, model_card=model_card)


def write_ensemble(
    ensemble: EnsembleMetadata,
    state_dicts: Sequence[Mapping[str, Tensor]],
    path: str | Path,
    *,
    model_card: str = "",
) -> None:
    """Writes a bundle of several models, whose probabilities are averaged.

    Args:
        ensemble: Metadata of the members.
        state_dicts: Weights of each member.
        path: A new file.
        model_card: Model card for readers, as Markdown; empty if there is none.

    Raises:
        UserError: If ``path`` exists or cannot be written, or a text is too long or not plain.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; name a new file, or remove it")
    if not _is_plain(model_card) or len(model_card.encode()) > LARGEST_CARD:
        raise UserError(f"the model card is longer than {LARGEST_CARD} bytes, or not plain text")
    # Copies: weights may share memory, or lie with their channels last, and the format knows neither.
    tensors = {
        f"{_prefix(number)}{name}": tensor.detach().contiguous().clone()
        for number, state_dict in enumerate(state_dicts)
        for name, tensor in state_dict.items()
    }
    weights = safetensors.torch.save(tensors)
    description = Description(
        format="ich bundle 5",
        note=DISCLAIMER,
        ensemble=ensemble,
        versions=Versions(__version__, torch.__version__, timm.__version__),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    text = json.dumps(to_plain(description) | {"ensemble": ensemble.to_plain()}, indent=2) + "\n"
    if len(text) > LARGEST_DESCRIPTION:
        raise UserError(
            f"{path}: the metadata of {len(state_dicts)} members take {len(text)} bytes, more than "
            f"{LARGEST_DESCRIPTION}; give decisions for all of them with --calibration, or fewer members"
        )
    members = {DESCRIPTION: text.encode(), WEIGHTS: weights}
    if model_card:
        members[MODEL_CARD] = model_card.encode()
    try:
        with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, so that no clock is in it
    except OSError as error:
        raise UserError(f"the bundle {path} cannot be written: {error.strerror or error}") from error


def _prefix(number: int) -> str:
    return f"members.{number}."


def is_bundle(path: str | Path) -> bool:
    """Whether a file is an archive with a ``model.json``; a checkpoint is an archive without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION in archive.namelist()
    except (*BAD_ARCHIVE, OSError):
        return False


def read_bundle(path: str | Path) -> Bundle:
    """Reads a bundle, and checks everything in it.

    Raises:
        UserError: If it is damaged, has an unknown version, or holds anything else.
    """
    path = Path(path)
    members = read_members(path)
    source = f"{path}: {DESCRIPTION}"
    found, description = parse_description(members[DESCRIPTION], source)
    if found == "ich bundle 1" and MODEL_CARD in members:
        raise UserError(f"{source}: ich bundle 1 has no {MODEL_CARD}")
    weights = members[WEIGHTS]
    if hashlib.sha256(weights).hexdigest() != description.weights_sha256:
        raise UserError(f"the bundle {path} is damaged: its weights have changed since it was written")
    model_card = members.get(MODEL_CARD, b"").decode("utf-8", errors="replace")
    if not _is_plain(model_card):
        raise UserError(f"{path}: {MODEL_CARD} is not plain text")
    try:
        tensors = safetensors.torch.load(weights)
    except (SafetensorError, *_BAD_TENSORS) as error:
        raise UserError(f"{path}: {WEIGHTS} cannot be read: {error}") from error
    if found in OF_ONE:
        return Bundle(description.ensemble, (tensors,), model_card)
    return Bundle(
        description.ensemble, _split_members(tensors, len(description.ensemble.members), path), model_card
    )


def _split_members(tensors: dict[str, Tensor], count: int, path: Path) -> tuple[dict[str, Tensor], ...]:
    """Assigns tensors to members, by the prefixes of their names."""
    members: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for number, member in enumerate(members):
        prefix = _prefix(number)
        member.update(
            (name.removeprefix(prefix), tensors.pop(name))
            for name in list(tensors)
            if name.startswith(prefix)
        )
    if tensors:
        raise UserError(
            f"the bundle {path} is damaged: {show(min(tensors))} belongs to none of {count} members"
        )
    return tuple(members)


def _is_plain(text: str) -> bool:
    """Whether a text has no control characters, so that it is safe on a terminal."""
    controls = any(unicodedata.category(character)[0] == "C" for character in text.replace("\n", ""))
    return not controls and "\N{REPLACEMENT CHARACTER}" not in text
