"""What all figures share: colours, and how they become PNG.

Figures are made without pyplot, so that nothing is global and no display is needed.
"""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from ich.files import replacing

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours told apart with any colour vision. Source: Okabe and Ito, Color Universal Design, 2008."""


def encode_png(figure: Figure, dpi: int = 150) -> bytes:
    """Returns a figure as PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    return png.getvalue()


def write_png(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    with replacing(Path(path)) as partial:
        partial.write_bytes(encode_png(figure, dpi))
