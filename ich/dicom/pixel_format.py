"""The pixel format of a slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module (PS3.3 C.7.6.3) of one gray frame."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    photometric_interpretation: str

    @property
    def size(self) -> int:
        """Size of the uncompressed frame, bytes."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[np.integer]:
        """Data type of a stored value in memory."""
        return np.dtype(f"{'ui'[self.pixel_representation]}{self.bits_allocated // 8}")
