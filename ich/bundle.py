"""Bundles: a model to hand on, in one file.

A bundle is a ZIP archive that holds two members and nothing else, uncompressed: ``model.json``, which says
what the model is, and ``model.safetensors``, its weights. One file is handed on whole; any tool opens it; and
as its members are stored as they are, none is larger than the file. Nothing is ever extracted to the disk,
and no member is asked for by a name that the archive gives.

``model.json`` has the card of ``ich.card``, the versions that the bundle was written with, and the SHA-256 of
the weights.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor

from ich import __version__
from ich.card import Card, check_card
from ich.files import replacing
from ich.schema import DISCLAIMER, UserError
from ich.schema.fields import check_fields, is_digest, is_text, parse_fields

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"

FORMAT = "ich bundle 1"

_LARGEST_DESCRIPTION = 256 * 1024  # bytes; one with isotonic curves of all their knots takes 110 thousand

_BAD_ARCHIVE = (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, LookupError)
_BAD_TENSORS = (ValueError, RuntimeError, TypeError, LookupError, OverflowError)

_FIELDS = {
    "format": (lambda value: value == FORMAT, repr(FORMAT)),
    "card": (lambda value: isinstance(value, dict), "fields"),
    "versions": (
        lambda value: (
            isinstance(value, dict)
            and value.keys() == {"ich", "torch", "timm"}
            and all(map(is_text, value.values()))
        ),
        "the versions of ich, torch and timm",
    ),
    "weights_sha256": (is_digest, "a SHA-256"),
    "note": (is_text, "a text"),
}


class Bundle(NamedTuple):
    """What a bundle holds."""

    card: Card
    state_dict: dict[str, Tensor]


def write_bundle(card: Card, state_dict: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes a bundle; the same model gives the same bytes.

    Args:
        card: Of the model.
        state_dict: Its weights.
        path: A new file.

    Raises:
        UserError: If there is something at ``path``, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists; name a new file, or remove it")
    # Copies: weights may share memory, or lie with their channels last, and the format knows neither.
    weights = safetensors.torch.save({k: v.detach().contiguous().clone() for k, v in state_dict.items()})
    description = {
        "format": FORMAT,
        "note": DISCLAIMER,
        "card": card,
        "versions": {"ich": __version__, "torch": torch.__version__, "timm": timm.__version__},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(description, indent=2) + "\n"
    try:
        with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for name, content in ((DESCRIPTION, text.encode()), (WEIGHTS, weights)):
                archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, so that no clock is in it
    except OSError as error:
        raise UserError(f"the bundle {path} cannot be written: {error.strerror or error}") from error


def is_bundle(path: str | Path) -> bool:
    """Whether a file is an archive with a ``model.json``; a checkpoint is an archive too, and has none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION in archive.namelist()
    except (*_BAD_ARCHIVE, OSError):
        return False


def read_bundle(path: str | Path) -> Bundle:
    """Reads a bundle, and believes nothing in it that it has not checked.

    Raises:
        UserError: If it is damaged, no bundle of this version, or holds anything else beside.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            text, weights = _read_members(archive, path)
    except (*_BAD_ARCHIVE, OSError) as error:
        raise UserError(f"the bundle {path} is damaged: {error}") from error
    description = parse_fields(text, f"{path}: {DESCRIPTION}")
    check_fields(description, _FIELDS, f"{path}: {DESCRIPTION}")
    card = check_card(description["card"], f"{path}: {DESCRIPTION}")
    if hashlib.sha256(weights).hexdigest() != description["weights_sha256"]:
        raise UserError(f"the bundle {path} is damaged: its weights are not those that it was written with")
    try:
        return Bundle(card, safetensors.torch.load(weights))
    except (SafetensorError, *_BAD_TENSORS) as error:
        raise UserError(f"{path}: {WEIGHTS} cannot be read: {error}") from error


def _read_members(archive: zipfile.ZipFile, path: Path) -> tuple[bytes, bytes]:
    members = archive.infolist()
    if sorted(member.filename for member in members) != [DESCRIPTION, WEIGHTS]:
        raise UserError(
            f"{path} is no bundle: it has {len(members)} members; expected {DESCRIPTION} and {WEIGHTS} alone"
        )
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise UserError(f"{path} is no bundle: {member.filename} is compressed")
        if member.file_size > path.stat().st_size:
            raise UserError(f"{path} is no bundle: {member.filename} claims to be larger than the file")
    if archive.getinfo(DESCRIPTION).file_size > _LARGEST_DESCRIPTION:
        raise UserError(f"{path} is no bundle: {DESCRIPTION} is larger than {_LARGEST_DESCRIPTION} bytes")
    return archive.read(DESCRIPTION), archive.read(WEIGHTS)
