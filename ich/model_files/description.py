"""What a bundle says of its models, read without their weights and without PyTorch."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import Versions, upgrade_file
from ich.schema import UserError
from ich.schema.formats import STRICT, Digest, Text, parse_fields, read_plain, show

DESCRIPTION, WEIGHTS, MODEL_CARD = "model.json", "model.safetensors", "model_card.md"
"""Names of the members of a bundle."""

FORMATS = ("ich bundle 1", "ich bundle 2", "ich bundle 3", "ich bundle 4", "ich bundle 5")
"""Formats of bundles that can be read; the last one is written."""

OF_ONE = FORMATS[:3]
"""Formats that hold a single model."""

LARGEST_DESCRIPTION = 1024 * 1024  # bytes; isotonic curves of all their knots take 110 thousand for a model
LARGEST_CARD = 256 * 1024  # bytes

BAD_ARCHIVE = (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, LookupError)
"""What ``zipfile`` raises for damaged archives."""

_MEMBERS = ([DESCRIPTION, WEIGHTS], [DESCRIPTION, WEIGHTS, MODEL_CARD])
_LARGEST = {DESCRIPTION: LARGEST_DESCRIPTION, MODEL_CARD: LARGEST_CARD}


@dataclass(frozen=True)
class Description:
    """What ``model.json`` holds."""

    __pydantic_config__ = STRICT

    format: Literal["ich bundle 5"]
    note: Text
    ensemble: EnsembleMetadata
    versions: Versions
    weights_sha256: Digest


def read_description(path: Path) -> Description:
    """Reads what a bundle says of its models. Its weights are not looked at.

    Raises:
        UserError: If it is damaged, has an unknown version, or holds anything else.
    """
    text = read_members(path, (DESCRIPTION,))[DESCRIPTION]
    return parse_description(text, f"{path}: {DESCRIPTION}")[1]


def parse_description(text: bytes, source: str) -> tuple[str, Description]:
    """Parses a ``model.json``; returns the format that it states too.

    Args:
        text: Its content.
        source: Names it in messages.

    Raises:
        UserError: If it has an unknown version, or is not valid.
    """
    fields = parse_fields(text, source)
    if (found := fields.get("format")) not in FORMATS:
        raise UserError(
            f"{source}: format is {show(found)}; expected one of {', '.join(FORMATS)}. A later ich may have "
            "written it: update this one"
        )
    return str(found), read_plain(Description, upgrade_file(fields, *reversed(FORMATS)), source)


def read_members(path: Path, wanted: tuple[str, ...] | None = None) -> dict[str, bytes]:
    """Reads members of a bundle, after a check of all of them.

    Args:
        path: The bundle.
        wanted: Their names; None for all.

    Raises:
        UserError: If it is damaged, or holds anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path)
            return {
                member.filename: archive.read(member.filename)
                for member in members
                if wanted is None or member.filename in wanted
            }
    except (*BAD_ARCHIVE, OSError) as error:
        raise UserError(f"the bundle {path} is damaged: {error}; copy it again") from error


def _check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
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
        largest = _LARGEST.get(member.filename, member.file_size)
        if member.file_size > largest:
            raise UserError(f"{path} is not a bundle: {member.filename} is larger than {largest} bytes")
