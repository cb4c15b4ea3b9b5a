"""Small pictures of all slices of a series, for the strip on a study's page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom import read_hu
from ich.dicom.orientation import UNKNOWN
from ich.outputs.pages.drawing import Body, encode_jpeg, find_body, join_bodies, to_gray
from ich.outputs.pages.views import find_rows, find_spacing
from ich.schema import ReadError
from ich.schema.results import StudyResult, list_middles

_SIDE = 320  # pixels, of the longer side: a slice of 512 becomes about 10 kB


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
        gray[number] = to_gray(hu)
        bodies += [body] if (body := find_body(hu)) else []  # above the head there is none
    frame = join_bodies(bodies, [each.shape for each in gray.values()])
    pictures = {}
    for number, pixels in gray.items():
        row = table.iloc[number]
        knows_sides = result.knows_sides and bool(row["orientation"] != UNKNOWN)
        jpeg, size = encode_jpeg(pixels[frame], find_spacing(row), _SIDE)
        pictures[number] = StripPicture(jpeg, size, knows_sides)
    return pictures
