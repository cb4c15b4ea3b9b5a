"""Bundles: one file to share a model.

A bundle is a ZIP archive with exactly these uncompressed members: ``model.json`` describes the model,
``model.safetensors`` holds its weights, and ``model_card.md``, if present, tells a reader about it. It is one
file, and any tool opens it. Because its members are uncompressed, none is larger than the file. Nothing is
ever extracted to the disk, and no member is requested by a name from the archive.

``model.json`` is a ``Description``. Bundles of format 1, which had no model card, and of format 2, which had
the metadata under other names, can be read too.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from ich import __version__
from ich.files import replacing
from ich.model_files.metadata import ModelMetadata, Versions, upgrade_file
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import STRICT, Digest, Text, parse_fields, read_plain, show, to_plain

__all__ = ["Bundle", "is_bundle", "read_bundle", "write_bundle"]

DESCRIPTION, WEIGHTS, MODEL_CARD = "model.json", "model.safetensors", "model_card.md"

_FORMATS = ("ich bundle 1", "ich bundle 2", "ich bundle 3")

_MEMBERS = ([DESCRIPTION, WEIGHTS], [DESCRIPTION, WEIGHTS, MODEL_CARD])

_LARGEST_TEXT = 256 * 1024  # bytes; a description with isotonic curves of all their knots takes 110 thousand

_BAD_ARCHIVE = (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, LookupError)
_BAD_TENSORS = (ValueError, RuntimeError, TypeError, LookupError, OverflowError)


@dataclass(frozen=True)
class Description:
    """What ``model.json`` holds."""

    __pydantic_config__ = STRICT

    format: Literal["ich bundle 3"]
    note: Text
    metadata: ModelMetadata
    versions: Versions
    weights_sha256: Digest


class Bundle(NamedTuple):
    """Content of a bundle; ``model_card`` is Markdown, and empty if there is none."""

    metadata: ModelMetadata
    state_dict: dict[str, Tensor]
    model_card: str


def write_bundle(
    metadata: ModelMetadata, state_dict: Mapping[str, Tensor], path: str | Path, *, model_card: str = ""
) -> None:
    """Writes a bundle; the same model gives the same bytes.

    Args:
        metadata: The model's metadata.
        state_dict: The model's weights.
        path: A new file.
        model_card: Model card for readers, as Markdown; empty if there is none.

    Raises:
        UserError: If ``path`` exists or cannot be written, or the model card is too long or not plain text.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; name a new file, or remove it")
    if not _is_plain(model_card) or len(model_card.encode()) > _LARGEST_TEXT:
        raise UserError(f"the model card is longer than {_LARGEST_TEXT} bytes, or not plain text")
    # Copies: weights may share memory, or lie with their channels last, and the format knows neither.
    weights = safetensors.torch.save({k: v.detach().contiguous().clone() for k, v in state_dict.items()})
    description = Description(
        format="ich bundle 3",
        note=DISCLAIMER,
        metadata=metadata,
        versions=Versions(__version__, torch.__version__, timm.__version__),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )
    text = json.dumps(to_plain(description) | {"metadata": metadata.to_plain()}, indent=2) + "\n"
    members = {DESCRIPTION: text.encode(), WEIGHTS: weights}
    if model_card:
        members[MODEL_CARD] = model_card.encode()
    try:
        with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, so that no clock is in it
    except OSError as error:
        raise UserError(f"the bundle {path} cannot be written: {error.strerror or error}") from error


def is_bundle(path: str | Path) -> bool:
    """Whether a file is an archive with a ``model.json``; a checkpoint is an archive without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION in archive.namelist()
    except (*_BAD_ARCHIVE, OSError):
        return False


def read_bundle(path: str | Path) -> Bundle:
    """Reads a bundle, and checks everything in it.

    Raises:
        UserError: If it is damaged, has an unknown version, or holds anything else.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = _read_members(archive, path)
    except (*_BAD_ARCHIVE, OSError) as error:
        raise UserError(f"the bundle {path} is damaged: {error}") from error
    source = f"{path}: {DESCRIPTION}"
    fields = parse_fields(members[DESCRIPTION], source)
    if (found := fields.get("format")) not in _FORMATS:
        raise UserError(f"{source}: format is {show(found)}; expected one of {', '.join(_FORMATS)}")
    if found == "ich bundle 1" and MODEL_CARD in members:
        raise UserError(f"{source}: ich bundle 1 has no {MODEL_CARD}")
    description = read_plain(Description, upgrade_file(fields, *reversed(_FORMATS)), source)
    weights = members[WEIGHTS]
    if hashlib.sha256(weights).hexdigest() != description.weights_sha256:
        raise UserError(f"the bundle {path} is damaged: its weights have changed since it was written")
    model_card = members.get(MODEL_CARD, b"").decode("utf-8", errors="replace")
    if not _is_plain(model_card):
        raise UserError(f"{path}: {MODEL_CARD} is not plain text")
    try:
        return Bundle(description.metadata, safetensors.torch.load(weights), model_card)
    except (SafetensorError, *_BAD_TENSORS) as error:
        raise UserError(f"{path}: {WEIGHTS} cannot be read: {error}") from error


def _read_members(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    members = archive.infolist()
    if sorted(member.filename for member in members) not in _MEMBERS:
        raise UserError(
            f"{path} is not a bundle: it has {len(members)} members; expected {DESCRIPTION}, {WEIGHTS} and, "
            f"at most, {MODEL_CARD}"
        )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise UserError(f"{path} is not a bundle: {member.filename} is compressed")
        if member.file_size > path.stat().st_size:
            raise UserError(f"{path} is not a bundle: {member.filename} claims to be larger than the file")
        if member.filename != WEIGHTS and member.file_size > _LARGEST_TEXT:
            raise UserError(f"{path} is not a bundle: {member.filename} is larger than {_LARGEST_TEXT} bytes")
    return {member.filename: archive.read(member.filename) for member in members}


def _is_plain(text: str) -> bool:
    """Whether a text has no control characters, so that it is safe on a terminal."""
    controls = any(unicodedata.category(character)[0] == "C" for character in text.replace("\n", ""))
    return not controls and "\N{REPLACEMENT CHARACTER}" not in text
