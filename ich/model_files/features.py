"""Features of slices in a file: computed once by a network, and kept for what learns from them.

The file is in the format safetensors. Its tensors are ``rows`` (N,) int64, the rows of the slices in the data
module's table, ``features`` (N, F) float32 of the backbone, and ``probs`` (N, L) float32. Its metadata hold a
``Description`` under ``ich`` as JSON. The file names no patient and no folder.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ich.files import replacing
from ich.schema import InputSpec, UserError
from ich.schema.formats import STRICT, Digest, parse_fields, read_plain, to_plain
from ich.tables import SLAB_COLUMN

KEY = "ich"


@dataclass(frozen=True)
class Description:
    """What the features were computed from, and by.

    Attributes:
        format: Name and version of this format.
        weights_sha256: SHA-256 of the network's weights.
        slices_sha256: SHA-256 of the slices, by ``hash_state``.
        input: Input of the network.
    """

    __pydantic_config__ = STRICT

    format: Literal["ich features 1"] = field(default="ich features 1", kw_only=True)
    weights_sha256: Digest
    slices_sha256: Digest
    input: InputSpec


class Features(NamedTuple):
    """Content of the file; see there."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    probs: NDArray[np.float32]


def hash_state(table: pd.DataFrame) -> str:
    """Returns the SHA-256 of the rows of an index: slices, slabs, and size and change of their files."""
    names = ("SOPInstanceUID", "file_size", "mtime_ns", SLAB_COLUMN)
    columns = [table[name] for name in names if name in table]
    lines = "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_features(found: Features, description: Description, path: Path) -> None:
    """Writes the file, completely or not at all.

    Raises:
        UserError: If it cannot be written.
    """
    content = save(found._asdict(), {KEY: json.dumps(to_plain(description))})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"the features {path} cannot be written: {error.strerror or error}") from error


def read_features(path: Path, expected: Description) -> Features:
    """Reads the features of a network for slices.

    Args:
        path: The file.
        expected: The network and the slices of today.

    Raises:
        UserError: If the file is missing or damaged, or holds the features of another network, input or state
            of the slices.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise UserError(f"the features {path} cannot be read: {error}; remove the file") from error
    description = read_plain(Description, parse_fields(text.encode(), str(path)), str(path))
    names = ("weights_sha256", "slices_sha256", "input")
    stale = [name for name in names if getattr(description, name) != getattr(expected, name)]
    if stale:
        raise UserError(
            f"{path} is stale: its {' and '.join(stale)} differ from those of the network and the slices of "
            "today; remove the file, and the features are computed again"
        )
    if set(tensors) != set(Features._fields) or len({len(each) for each in tensors.values()}) != 1:
        raise UserError(f"{path} does not hold {', '.join(Features._fields)}; remove the file")
    return Features(**tensors)
