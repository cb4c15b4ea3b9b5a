"""Lossy JPEG of 12 bits (process 4), written from ITU-T T.81 alone: no codec in Python encodes it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

_ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
_MIDDLE = 2048  # the level shift of 12 bits (A.3.1)
_CODES = 8  # bits of every Huffman code but the longest word, all ones (C.2): up to 255 symbols


def encode(values: NDArray[np.int_], step: int) -> tuple[bytes, NDArray[np.float64]]:
    """Encodes an image whose sides are multiples of 8.

    Args:
        values: (rows, columns) of 0 to 4095.
        step: Of every quantized coefficient.

    Returns:
        The stream, and what any decoder makes of it before it rounds.
    """
    rows, columns = values.shape
    blocks = values.reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    quantized = np.rint(dctn(blocks - _MIDDLE, axes=(1, 2), norm="ortho") / step).astype(int)
    decoded = idctn(quantized * float(step), axes=(1, 2), norm="ortho") + _MIDDLE
    image = decoded.reshape(rows // 8, columns // 8, 8, 8).swapaxes(1, 2).reshape(rows, columns)
    zigzag = quantized.reshape(-1, 64)[:, _ZIGZAG]
    bits = "".join(_encode_blocks(zigzag))
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    stream = b"\xff\xd8" + _segment(0xDB, b"\x10" + struct.pack(">64H", *[step] * 64))
    stream += _segment(0xC1, struct.pack(">BHHB3B", 12, rows, columns, 1, 1, 0x11, 0))
    stream += _make_table(0x00, 16) + _make_table(0x10, 255)
    return stream + _segment(0xDA, bytes([1, 1, 0, 0, 63, 0])) + data + b"\xff\xd9", image.clip(0, 4095)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _make_table(kind: int, symbols: int) -> bytes:
    """A Huffman table whose codes of 8 bits are their symbols (C.2)."""
    lengths = bytes(_CODES - 1) + bytes([symbols]) + bytes(16 - _CODES)
    return _segment(0xC4, bytes([kind]) + lengths + bytes(range(symbols)))


def _encode_blocks(zigzag: NDArray[np.int_]) -> Iterator[str]:
    before = 0
    for block in zigzag.tolist():
        yield _encode_number(0, block[0] - before)
        before, run = block[0], 0
        last = max((i for i in range(1, 64) if block[i]), default=0)
        for value in block[1 : last + 1]:
            if value == 0 and run < 15:
                run += 1
            else:
                yield _encode_number(run, value)  # a run of 15 and a zero is sixteen zeros
                run = 0
        if last < 63:
            yield _encode_number(0, 0)  # the rest are zeros


def _encode_number(run: int, value: int) -> str:
    size = abs(value).bit_length()
    bits = format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""
    return format(run << 4 | size, f"0{_CODES}b") + bits
