"""Small pictures of all slices of a series, for the strip on a study's page."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from ich.dicom import read_hu
from ich.dicom.orientation import UNKNOWN
from ich.outputs.pages.drawing import Body, find_body, join_bodies
from ich.outputs.pages.views import find_rows, find_spacing
from ich.schema import WINDOWS, ReadError
from ich.schema.results import StudyResult, list_middles

_SIDE = 320  # pixels, of the longer side: a slice of 512 becomes about 10 kB
_QUALITY = 80  # of JPEG; pictures to find one's way, beside the key slices as PNG


@dataclass(frozen=True)
class StripPicture:
    """A picture of a slice.

    Attributes:
        jpeg: The picture, JPEG.
        size: Its width and height, pixels.
        knows_sides: Whether the slice lies in LPS, without contradiction in its pixels.
    """

    jpeg: bytes
    size: tuple[int, int]
    knows_sides: bool


def draw_strip(result: StudyResult, root: Path, slices: pd.DataFrame) -> dict[int, StripPicture]:
    """Draws the slices of a study in the brain window, one for each image that the network saw.

    Args:
        result: The study's result.
        root: Folder that the paths of ``slices`` are relative to.
        slices: Rows of an index for the series that was read, one per slice.

    Returns:
        Pictures by place in the result's ``slices``, cropped alike, without those of files that can no longer
        be read.
    """
    table = find_rows(result, slices)
    gray, bodies = dict[int, NDArray[np.uint8]](), list[Body]()
    for number in list_middles(result.slices):
        row = table.iloc[number]
        try:
            hu = read_hu(root / row["path"], row["frame"])
        except ReadError:
            continue
        gray[number] = _to_gray(hu)
        bodies += [body] if (body := find_body(hu)) else []  # above the head there is none
    frame = join_bodies(bodies, [each.shape for each in gray.values()])
    pictures = {}
    for number, pixels in gray.items():
        row = table.iloc[number]
        knows_sides = result.knows_sides and bool(row["orientation"] != UNKNOWN)
        pictures[number] = _encode(pixels[frame], find_spacing(row), knows_sides)
    return pictures


def _to_gray(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    center, width = WINDOWS["brain"]
    share = (hu.astype(np.float32) - (center - width / 2)) / width
    gray: NDArray[np.uint8] = (255 * np.clip(share, 0, 1)).astype(np.uint8)
    return gray


def _encode(gray: NDArray[np.uint8], spacing: tuple[float, float], knows_sides: bool) -> StripPicture:
    height, width = gray.shape[0] * spacing[0], gray.shape[1] * spacing[1]  # mm
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR).save(file, "jpeg", quality=_QUALITY)
    return StripPicture(file.getvalue(), size, knows_sides)
