"""The format of litdata's chunks, for slices.

A chunk begins with the number of its items and their bounds, each 32 bits. An item begins with the sizes of
its fields, each 32 bits, and the fields follow: ``hu`` (Rows, Columns) int16, ``target`` (L,) float32,
``row`` int64 and ``uid``, the SOPInstanceUID. Numbers are little-endian. litdata's ``StreamingDataset`` reads
such chunks as they are. Source: ``BinaryWriter`` and ``serializers`` of litdata 0.2.76.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIELDS = ("hu", "target", "row", "uid")

_INT16, _FLOAT32 = 1, 9  # numbers of these types of NumPy
_FORMATS = ["numpy", f"no_header_numpy:{_FLOAT32}", "int", "str"]
_SIZES = struct.Struct(f"<{len(FIELDS)}I")
_ARRAY = struct.Struct("<4I")  # type, number of axes, rows, columns
_ROW = struct.Struct("<q")

BEFORE_HU = _SIZES.size + _ARRAY.size
"""Bytes of an item before its HU."""


def name_chunk(number: int) -> str:
    """Returns the name of a chunk, as litdata names those of its first process."""
    return f"chunk-0-{number}.bin"


def measure_items(shapes: NDArray[np.int64], labels: int, uids: Sequence[str]) -> NDArray[np.int64]:
    """Measures items.

    Args:
        shapes: (N, 2) rows and columns.
        labels: Number of labels.
        uids: The N SOPInstanceUIDs.

    Returns:
        (N,) bytes.
    """
    texts = np.array([len(uid.encode()) for uid in uids], np.int64)
    lengths: NDArray[np.int64] = BEFORE_HU + 2 * shapes.prod(axis=1) + 4 * labels + _ROW.size + texts
    return lengths


def find_bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns (N + 1,) bounds of items in a chunk, bytes, for their (N,) lengths."""
    start = 4 * (len(lengths) + 2)
    return np.concatenate([[start], start + np.cumsum(lengths)]).astype(np.int64)


def pack_item(hu: NDArray[np.int16], target: NDArray[np.float32], row: int, uid: str) -> bytes:
    """Packs a slice, (Rows, Columns) HU, with its (L,) targets."""
    text, targets = uid.encode(), target.astype("<f4").tobytes()
    sizes = _SIZES.pack(_ARRAY.size + hu.nbytes, len(targets), _ROW.size, len(text))
    head = _ARRAY.pack(_INT16, hu.ndim, *hu.shape)
    return b"".join((sizes, head, hu.astype("<i2", copy=False).tobytes(), targets, _ROW.pack(row), text))


def pack_chunk(items: Sequence[bytes]) -> bytes:
    """Packs items to a chunk."""
    bounds = find_bounds(np.array([len(item) for item in items], np.int64))
    return b"".join((struct.pack("<I", len(items)), bounds.astype("<u4").tobytes(), *items))


def describe_chunks(chunks: Sequence[tuple[str, int, int]], chunk_bytes: int) -> dict[str, Any]:
    """Returns the content of litdata's ``index.json``.

    Args:
        chunks: Name, number of items and bytes of each chunk.
        chunk_bytes: Bytes of a chunk, about.
    """
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    spec = {"type": "builtins.dict", "context": json.dumps(FIELDS), "children_spec": [leaf] * len(FIELDS)}
    return {
        "chunks": [
            {"chunk_bytes": size, "chunk_size": count, "dim": None, "filename": name}
            for name, count, size in chunks
        ],
        "config": {
            "chunk_bytes": chunk_bytes,
            "chunk_size": None,
            "compression": None,
            "data_format": _FORMATS,
            "data_spec": json.dumps([1, spec]),  # as torch's pytree writes it
            "encryption": None,
            "item_loader": "PyTreeLoader",
        },
        "updated_at": str(time.time()),
    }
